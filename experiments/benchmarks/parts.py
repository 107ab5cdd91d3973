"""The parts of the benchmark. What a part needs is imported when it runs: not all is everywhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from experiments.benchmarks.setting import Setting

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """`cpu` and `gpu`: minutes that it takes at least; 0 where it is not for such a machine.

    `needs` are modules without which it is left out. `alone` means that only jax uses the device.
    """

    run: Callable[[Setting], Rows]
    cpu: float = 1.0
    gpu: float = 0.5
    needs: tuple[str, ...] = ("torch", "transformers")
    alone: bool = False


def rows(setting: Setting, cpu: int, gpu: int) -> int:
    """Of a batch, by the machine; small in tests."""
    if setting.size == "tiny":
        return 2
    return gpu if setting.device == "gpu" else cpu


def vit_forward(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.forward(models.VIT, rows(setting, 8, 256), setting)


def vit_step(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.step(models.VIT, rows(setting, 8, 128), setting)


def bert_forward(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    for length, cpu, gpu in lengths(setting):
        yield from models.forward(
            models.bert(length, "BertModel"), rows(setting, cpu, gpu), setting
        )


def bert_step(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    for length, cpu, gpu in lengths(setting):
        case = models.bert(length, "BertForMaskedLM")
        yield from models.step(case, rows(setting, cpu, gpu // 2), setting)


def lengths(setting: Setting) -> tuple[tuple[int, int, int], ...]:
    """Tokens, and rows on a CPU and a GPU."""
    return ((16, 2, 2),) if setting.size == "tiny" else ((128, 8, 256), (512, 2, 64))


def clip_forward(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.forward(models.CLIP, rows(setting, 8, 256), setting)


def clip_step(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.step(models.CLIP, rows(setting, 8, 256), setting)


def blip_forward(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.forward(models.BLIP, rows(setting, 4, 64), setting)


def blip_step(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.step(models.BLIP, rows(setting, 4, 64), setting)


def multimodal(setting: Setting) -> Rows:
    from experiments.benchmarks import models

    return models.against_blip(rows(setting, 4, 64), setting)


def attention(setting: Setting) -> Rows:
    from experiments.benchmarks import attention

    return attention.attention(setting)


def gpt_decode(setting: Setting) -> Rows:
    from experiments.benchmarks import decoding

    return decoding.gpt_decode(setting)


def blip_captions(setting: Setting) -> Rows:
    from experiments.benchmarks import decoding

    return decoding.blip_captions(setting)


def code_sampling(setting: Setting) -> Rows:
    from experiments.benchmarks import drawing

    return drawing.code_sampling(setting, rows(setting, 16, 64))


def unet_step(setting: Setting) -> Rows:
    from experiments.benchmarks import drawing

    return drawing.unet_step(setting, rows(setting, 8, 128))


def dit_step(setting: Setting) -> Rows:
    from experiments.benchmarks import drawing

    return drawing.dit_step(setting, rows(setting, 8, 128))


def loader(setting: Setting) -> Rows:
    from experiments.benchmarks import loading

    return loading.loader(setting)


def start(setting: Setting) -> Rows:
    from experiments.benchmarks import starting

    return starting.start(setting)


def memory(setting: Setting) -> Rows:
    from experiments.benchmarks import starting

    return starting.memory(setting)


def checkpoint(setting: Setting) -> Rows:
    from experiments.benchmarks import saving

    return saving.checkpoint(setting)


def mfu_vit(setting: Setting) -> Rows:
    from experiments.benchmarks import utilisation

    yield utilisation.halving(utilisation.VIT, setting)


def mfu_clip(setting: Setting) -> Rows:
    from experiments.benchmarks import utilisation

    yield utilisation.halving(utilisation.CLIP, setting)


def mfu_bert(setting: Setting) -> Rows:
    from experiments.benchmarks import utilisation

    yield utilisation.halving(utilisation.BERT, setting)


def mfu_gpt(setting: Setting) -> Rows:
    from experiments.benchmarks import utilisation

    yield utilisation.halving(utilisation.GPT, setting)


def mfu_multimodal(setting: Setting) -> Rows:
    from experiments.benchmarks import utilisation

    yield utilisation.halving(utilisation.MULTIMODAL, setting)


PARTS = {
    "mfu_vit": Part(mfu_vit, cpu=0, needs=(), alone=True),
    "mfu_clip": Part(mfu_clip, cpu=0, needs=(), alone=True),
    "mfu_bert": Part(mfu_bert, cpu=0, needs=(), alone=True),
    "mfu_gpt": Part(mfu_gpt, cpu=0, needs=(), alone=True),
    "mfu_multimodal": Part(mfu_multimodal, cpu=0, gpu=0.7, needs=(), alone=True),
    "gpt_decode": Part(gpt_decode, cpu=2, gpu=1),
    "attention": Part(attention),
    "vit_forward": Part(vit_forward),
    "vit_step": Part(vit_step, cpu=3),
    "bert_forward": Part(bert_forward, cpu=2),
    "bert_step": Part(bert_step, cpu=5, gpu=1),
    "clip_forward": Part(clip_forward),
    "clip_step": Part(clip_step, cpu=2),
    "blip_captions": Part(blip_captions, cpu=3, gpu=1),
    "blip_forward": Part(blip_forward),
    "blip_step": Part(blip_step, cpu=4),
    "code_sampling": Part(code_sampling, cpu=2, needs=()),
    "unet_step": Part(unet_step, cpu=5, gpu=1),
    "dit_step": Part(dit_step, cpu=2, gpu=1),
    "multimodal": Part(multimodal, cpu=5, gpu=1),
    "loader": Part(loader, needs=("torch", "grain", "tensorflow_datasets", "tokenizers")),
    "start": Part(start, cpu=3, gpu=1.5),
    "memory": Part(memory, cpu=3, gpu=1),
    "checkpoint": Part(checkpoint, needs=("orbax.checkpoint",), alone=True),
}

"""Words a second: greedy GPT-2 small, and BLIP captions by beams, against `generate`."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import reference
from experiments.benchmarks.models import SIZES, Sizes, on_device, pictures
from experiments.benchmarks.reference import torch, transformers
from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Row, exact, of_jax, rates
from mlm_jax.fusion import Fused
from mlm_jax.generate import How, Prompt, encode, generate

GIVEN, WRITTEN, CAPTION = 32, 64, 20  # words
NEVER = -1  # no word has this id, so nothing ends early
START, END, PAD = 0, 2, 1  # of BLIP here


# --- GPT-2 ---


def build_gpt2(s: Sizes) -> Any:
    """Places far apart, so that words do not repeat themselves and greedy texts differ."""
    config = transformers.GPT2Config(
        n_embd=s.tower["hidden_size"], n_layer=s.tower["num_hidden_layers"],
        n_head=s.tower["num_attention_heads"], bos_token_id=0, eos_token_id=None,
        vocab_size=50_257 if s is SIZES["base"] else s.words,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    model.transformer.wpe.weight.data.normal_(0, 0.3)
    return model


def gpt_decode(setting: Setting) -> Iterator[Row]:
    reference.prepare(setting)
    theirs = build_gpt2(SIZES[setting.size])
    model, params = reference.ours(theirs, setting.folder / "gpt2", setting.precision)
    placed = reference.placed(theirs, setting)
    placed.generation_config.eos_token_id = None
    for rows in (1, 8, *([32] if setting.device == "gpu" else [])):
        ids = np.random.default_rng(0).integers(0, model.decoder.vocab, (rows, GIVEN), np.int32)
        prompt = Prompt(jnp.asarray(ids), jnp.ones(ids.shape, bool))

        def ours(prompt: Prompt = prompt) -> dict[str, Any]:
            out = generate(
                model, params, Fused(), bos=NEVER, eos=NEVER, pad=0, length=WRITTEN, prompt=prompt
            )
            return {"ids": out.ids}

        x = torch.tensor(ids.astype(np.int64), device=reference.device(setting))

        def write(x: Any = x, **how: Any) -> dict[str, Any]:
            out = placed.generate(
                x, attention_mask=torch.ones_like(x), max_new_tokens=WRITTEN, do_sample=False,
                pad_token_id=0, **how,
            )  # fmt: skip
            return {"ids": out[:, GIVEN:]}

        others = [
            reference.side("eager", write, setting),
            reference.side("static cache, compiled", static(write), setting),
        ]
        what = f"GPT-2 small, greedy, batch {rows}, {GIVEN} words given, {WRITTEN} written"
        row = exact({"what": what}, of_jax("ours", ours), others, setting)
        yield rates(row, rows * WRITTEN, "words/s")


def static(write: Callable[..., Any]) -> Callable[[], Any]:
    """With a cache of one size and a compiled step, on a CPU too, where it is not the default."""
    how = transformers.CompileConfig()
    how._compile_all_devices = True
    return lambda: write(cache_implementation="static", compile_config=how)


# --- BLIP ---


def build_blip(s: Sizes) -> Any:
    """The published sizes; the end is so unlikely that every caption has all its words."""
    published = s is SIZES["base"]
    text = {**s.tower, "vocab_size": 30_524 if published else s.words, "bos_token_id": START,
            "encoder_hidden_size": s.tower["hidden_size"], "max_position_embeddings": 512,
            "sep_token_id": END, "eos_token_id": END, "pad_token_id": PAD}  # fmt: skip
    eyes = {**s.tower, "image_size": 384 if published else s.pixels, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=eyes)
    model = transformers.BlipForConditionalGeneration(config)
    model.text_decoder.bert.embeddings.position_embeddings.weight.data.normal_(0, 0.3)
    model.text_decoder.cls.predictions.bias.data[END] = -1e4
    return model


def blip_captions(setting: Setting) -> Iterator[Row]:
    """From the picture to the words, the picture's encoding included."""
    reference.prepare(setting)
    theirs = build_blip(SIZES[setting.size])
    model, params = reference.ours(theirs, setting.folder / "blip", setting.precision)
    placed = reference.placed(theirs, setting)
    rng, rows = np.random.default_rng(0), 8
    pixels = {"image": pictures(rng, Sizes({}, {}, model.image.size[0], 0, 0), rows)}
    given = on_device(pixels, setting.precision)
    x = reference.tensors(pixels, setting, setting.precision)["image"]
    for beams in (1, 3):
        how = How("beam", beams=beams) if beams > 1 else How()

        def ours(how: How = how) -> dict[str, Any]:
            fused = encode(model, params, given)
            out = generate(
                model, params, fused, bos=START, eos=END, pad=PAD, length=CAPTION, how=how
            )
            return {"ids": out.ids}

        def write(beams: int = beams, **more: Any) -> dict[str, Any]:
            out = placed.generate(
                x, max_new_tokens=CAPTION, do_sample=False, num_beams=beams, **more
            )
            return {"ids": out[:, 1:]}

        others = [
            reference.side("eager", write, setting),
            reference.side("static cache, compiled", static(write), setting),
        ]
        what = f"BLIP-base captions, beam {beams}, batch {rows}, {CAPTION} words"
        row = exact({"what": what}, of_jax("ours", ours), others, setting)
        yield rates(row, rows * CAPTION, "words/s")

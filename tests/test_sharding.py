"""Many devices give what one gives; what cannot be shared out is said, with what can."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from jax.sharding import PartitionSpec

from mlm_jax import config as configs
from mlm_jax import run as runs
from mlm_jax import sharding
from mlm_jax.config import Config, Data, Mesh, Optim, UserError, load, names
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.feed import open_feed
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Pool, Transformer
from mlm_jax.losses import (
    Caption,
    CaptionMatch,
    Classes,
    Contrastive,
    Hidden,
    Loss,
    Masked,
)
from mlm_jax.models.bert import Bert
from mlm_jax.models.blip import BlipAnswerer, BlipMatcher
from mlm_jax.models.captioner import Captioner
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.mae import Mae
from mlm_jax.models.matching import Matching
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.vit import Vit
from mlm_jax.paths import named
from mlm_jax.pretrained.store import example
from mlm_jax.train import make_step, prepare

BODY = Transformer(16, 1, Block(heads=4))
IMAGE = ImageEncoder((16, 16), 4, class_token=True, body=BODY)
CONV = ImageEncoder((16, 16), 4, "conv", place_again=True, body=BODY)
POST = Transformer(16, 1, Block(heads=4, order="post", qk_norm=True))
TEXT = TextEncoder(32, 8, types=2, body=POST)
CAUSAL = TextEncoder(32, 8, causal=True, body=BODY)
DECODER = TextDecoder(32, 8, body=Transformer(16, 2, BODY.block, layers="scanned", remat="dots"))


def fused(kind: Any) -> Multimodal:
    return Multimodal(CONV, TEXT, Fusion(kind, body=BODY), DECODER)


MODELS: dict[str, tuple[nn.Module, Loss]] = {
    "multimodal": (fused("cross_attention"), Caption()),
    **{kind: (fused(kind), Caption()) for kind in ("concat", "joint", "gated", "resampler",
                                                   "bottleneck", "prefix")},
    "matching": (
        replace(fused("joint"), matching=Matching("hard", 16)),
        CaptionMatch(),
    ),
    "clip": (Clip(IMAGE, CAUSAL, width=16), Contrastive()),
    "siglip": (
        Clip(IMAGE, CAUSAL, Pool("map"), width=16, kind="siglip", end="place"),
        Contrastive("sigmoid"),
    ),
    "bert": (Bert(TEXT, pooler=True), Hidden()),
    "gpt": (Gpt(DECODER), Caption()),
    "vit": (
        Vit(replace(IMAGE, distillation_token=True), labels=6, taught=True),
        Classes(0.1),
    ),
    "mae": (Mae(IMAGE, BODY), Masked()),
    "captioner": (Captioner(IMAGE, DECODER, bridge=True), Caption()),
    "answerer": (BlipAnswerer(IMAGE, TEXT, DECODER), Caption()),
}  # fmt: skip
MESHES = [Mesh(8), Mesh(1, 8), Mesh(2, 1, 4)]
PICTURES = 8


def config_of(model: str, **changes: Any) -> Config:
    module, loss = MODELS[model]
    texts = 0 if model in ("vit", "mae") else 2
    optim = replace(Optim(lr=0.01, warmup=0, ema=0.9), **changes)
    return Config(module, loss, Data(batch=PICTURES, captions=texts), optim, steps=4, eval_every=2)


def batch_of(config: Config, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def texts(each: int) -> dict[str, np.ndarray]:
        mask = np.arange(8) < rng.integers(3, 9, (PICTURES * each, 1))
        ids = rng.integers(4, 32, mask.shape, np.int32) * mask
        rows = {"text": ids, "target": ids, "text_mask": mask, "target_mask": mask}
        return rows | {"scored": mask}

    batch: dict[str, Any] = texts(config.data.captions) if config.data.captions else {}
    if isinstance(config.loss, Caption) and not isinstance(config.model, Captioner | BlipAnswerer):
        batch["also"] = texts(1)
    if isinstance(config.loss, Contrastive) and config.loss.kind == "softmax":
        batch["also"] = texts(config.data.captions)  # wrong ones
    if not isinstance(config.model, Gpt | Bert):
        batch["image"] = rng.integers(0, 256, (PICTURES, 16, 16, 3), np.uint8)
    if isinstance(config.loss, Classes):
        batch |= {key: rng.integers(0, 6, PICTURES, np.int32) for key in ("label", "taught")}
    return batch


def trained(config: Config) -> tuple[list[dict[str, Any]], Any]:
    """Metrics of three steps, and the parameters after them."""
    batches = [batch_of(config, seed) for seed in range(3)]
    _, tx, begin = prepare(config, batches[0])
    step, state, seen = make_step(config, tx), begin(), []
    for batch in batches:
        state, metrics = step(state, sharding.put(batch))
        seen.append(jax.device_get(metrics))
    return seen, state


@cache
def alone(model: str, **optim: Any) -> tuple[list[dict[str, Any]], Any]:
    """On one device."""
    return trained(config_of(model, **optim))


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "devices", jax.devices)


def on(mesh: Mesh) -> Any:
    return jax.set_mesh(sharding.make_mesh(mesh))


def compare(model: str, mesh: Mesh, **optim: Any) -> tuple[Any, Any]:
    """Asserts equal metrics; gives back the states."""
    config = config_of(model, **optim)
    wanted, one = alone(model, **optim)
    with on(mesh):
        seen, many = trained(config)
    for key in wanted[0]:
        a, b = ([float(np.mean(row[key])) for row in rows] for rows in (wanted, seen))
        np.testing.assert_allclose(b, a, rtol=5e-5, atol=1e-6, err_msg=f"{model} {key}")
    return one, many


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps along the gradient: Adam's are as large where the gradient is rounding alone."""
    monkeypatch.setattr("mlm_jax.optim.direction", lambda _: optax.identity())


def compare_parameters(model: str, mesh: Mesh, **optim: Any) -> None:
    one, many = compare(model, mesh, lr=0.1, **optim)
    for part in ("params", "ema"):
        have, want = named(getattr(many, part)), named(getattr(one, part))
        for path, leaf in want.items():
            np.testing.assert_allclose(have[path], leaf, atol=2e-6, err_msg=f"{model} {path}")


@pytest.mark.usefixtures("eight", "plain")
@pytest.mark.parametrize("name", [pytest.param("multimodal", marks=pytest.mark.scale), "siglip"])
def test_eight_devices_give_what_one_gives(name: str) -> None:
    compare_parameters(name, Mesh(2, 2, 2))


@pytest.mark.scale
@pytest.mark.usefixtures("eight", "plain")
@pytest.mark.parametrize(
    ("name", "mesh"),
    [*((name, Mesh(2, 2, 2)) for name in MODELS if name not in ("multimodal", "siglip")),
     *((name, mesh) for name in ("matching", "clip") for mesh in MESHES)],
    ids=str,
)  # fmt: skip
def test_every_model_gives_what_one_device_gives(name: str, mesh: Mesh) -> None:
    compare_parameters(name, mesh)


@pytest.mark.scale
@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize("optim", ["muon", "adafactor", "lion"])
def test_every_optimiser(optim: str) -> None:
    compare("gpt", Mesh(2, 2, 2), name=optim, lr=1e-3)


@pytest.mark.scale
@pytest.mark.usefixtures("eight", "plain")
def test_accumulated_parts() -> None:
    compare_parameters("multimodal", Mesh(1, 2, 4), accumulate=4)
    compare_parameters("multimodal", Mesh(2, 1, 4), accumulate=2)


@pytest.mark.usefixtures("eight")
def test_state_lies_where_the_table_says() -> None:
    """Of what is shared each device holds a part, moments and average as the parameter."""
    config = config_of("gpt")
    with on(Mesh(2, 2, 2)):
        shapes, _, _ = prepare(config, batch_of(config, 0))
    state = named(shapes)
    kernels = [leaf for path, leaf in state.items() if path.endswith("query/kernel")]
    assert len(kernels) == 4  # parameter, two moments, average
    assert {leaf.sharding.spec for leaf in kernels} == {
        PartitionSpec(None, "fsdp", "tensor", None)  # the first are scanned layers
    }
    assert state["step"].sharding.spec == PartitionSpec()


# --- the table ---


def parameters(model: nn.Module, batch: dict[str, Any]) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), batch)["params"]


@pytest.mark.parametrize("name", names())
def test_every_parameter_of_every_experiment_is_known(name: str) -> None:
    config = load(name)
    params = parameters(config.model, example(config.model))
    for path, leaf in named(params).items():
        assert len(sharding.axes_of(path, leaf)) == leaf.ndim


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_every_model_is_known(name: str) -> None:
    config = config_of(name)
    for path, leaf in named(parameters(config.model, batch_of(config, 0))).items():
        sharding.axes_of(path, leaf)


def test_the_matcher_of_blip_is_known() -> None:
    batch = batch_of(config_of("answerer"), 0)
    for path, leaf in named(parameters(BlipMatcher(IMAGE, TEXT, 16), batch)).items():
        sharding.axes_of(path, leaf)


def test_a_parameter_that_is_not_in_the_table_is_named() -> None:
    leaf = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    with pytest.raises(UserError, match=r"no row for the parameter mine/weird \(3, 4\)"):
        sharding.axes_of("mine/weird", leaf)


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("text/body/block_0/attention/query/kernel", (8, 4, 2), ("fsdp", "tensor", None)),
        ("body/blocks/attention/query/kernel", (3, 8, 4, 2), (None, "fsdp", "tensor", None)),
        ("decoder/body/block_0/cross/out/kernel", (4, 2, 8), ("tensor", None, "fsdp")),
        ("fusion/out/kernel", (8, 8), ("fsdp", None)),
        ("image/stem/patches/kernel", (4, 4, 3, 8), (None, None, None, "fsdp")),
        ("words/table/embedding", (50_257, 8), (None, "fsdp")),
        ("image/norm/norm/scale", (8,), (None,)),
    ],
)
def test_rows_of_the_table(path: str, shape: tuple[int, ...], axes: tuple[Any, ...]) -> None:
    assert sharding.axes_of(path, jax.ShapeDtypeStruct(shape, jnp.float32)) == axes


# --- what cannot be ---


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(3), "mesh.data 3 × mesh.fsdp 1 × mesh.tensor 1 = 3, but there are 8 devices: --mesh"),
        (Mesh(0, 3), "mesh.fsdp 3 × mesh.tensor 1 = 3, but there are 8 devices"),
        (Mesh(4, 1, 1), "--mesh.data 4 --mesh.fsdp 2 --mesh.tensor 1"),
        (Mesh(4, 4), "--mesh.data 2 --mesh.fsdp 4 --mesh.tensor 1"),
    ],
)
def test_a_mesh_that_is_not_all_devices(mesh: Mesh, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(mesh)


@pytest.mark.usefixtures("eight")
def test_a_batch_that_does_not_divide() -> None:
    config = config_of("gpt")
    mesh = sharding.make_mesh(Mesh())
    sharding.check_batch(config, mesh)
    with pytest.raises(UserError, match=r"data.batch 12 is not divisible by .* = 8: 8 or 16"):
        sharding.check_batch(replace(config, data=replace(config.data, batch=12)), mesh)
    parts = replace(config, optim=replace(config.optim, accumulate=4))
    with pytest.raises(UserError, match=r"data.batch 8 .* optim.accumulate = 32: 32$"):
        sharding.check_batch(parts, mesh)
    with pytest.raises(UserError, match=r"eval_examples 6 is not divisible by .* = 8: 8$"):
        sharding.check_batch(replace(config, eval_examples=6), mesh)


@pytest.mark.usefixtures("eight")
def test_a_small_test_split_is_validated_in_batches_that_divide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six pictures four, on four devices; on eight it is said, before the first step."""
    monkeypatch.setattr(configs, "PACKAGES", ("mlm_jax", "toy"))
    folder = toy.write_pictures(tmp_path / "pictures")
    config = toy.config(folder, mesh=Mesh(2, 2, 2))
    config = replace(config, data=replace(config.data, batch=8))
    with runs.open_run(tmp_path / "run", config) as run:
        feed = open_feed(config, run, sharding.make_mesh(config.mesh))
        assert [len(batch["image"]) for batch in feed.held_out()] == [4]
        feed = replace(feed, unit=8)
        with pytest.raises(UserError, match=r"data.test 'test' has 6 pictures for 8 devices"):
            feed.held_out()


@pytest.mark.usefixtures("eight")
def test_heads_that_do_not_divide() -> None:
    config = config_of("gpt")
    wrong = r"does not divide the 4 of .* --mesh.tensor can be 1, 2, 4"
    with on(Mesh(1, 1, 8)), pytest.raises(UserError, match=wrong):
        prepare(config, batch_of(config, 0))


# --- processes ---


class Device:
    def __init__(self, process_index: int):
        self.process_index = process_index


class Grid:
    """A mesh of devices of several processes, two each."""

    def __init__(self, data: int, fsdp: int, tensor: int):
        count = data * fsdp * tensor
        devices = [Device(i // 2) for i in range(count)]
        self.shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
        self.devices = np.array(devices, object).reshape(data, fsdp, tensor)


@pytest.fixture(params=range(4))
def process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(jax, "process_index", lambda: request.param)
    return request.param


def test_each_process_reads_its_rows(process: int) -> None:
    assert sharding.share(Grid(8, 1, 1)) == (process, 4)  # type: ignore[arg-type]
    assert sharding.share(Grid(2, 2, 2)) == (process, 4)  # type: ignore[arg-type]
    assert sharding.share(Grid(2, 1, 4)) == (process // 2, 2)  # type: ignore[arg-type]
    assert sharding.share(Grid(1, 1, 8)) == (0, 1)  # type: ignore[arg-type]

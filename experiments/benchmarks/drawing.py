"""Drawing: codes a second with a cache and without, and the nets of diffusion against torch's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Arrays, Row, compare, exact, of_jax, rates
from experiments.configs import dalle_tiny, painter_tiny
from mlm_jax.decoders.denoiser import DiffusionTransformer, UNet
from mlm_jax.drawing import written
from mlm_jax.encoders import TextEncoder
from mlm_jax.fusion import Fused
from mlm_jax.generate import GREEDY, decode
from mlm_jax.layers import Transformer, transformer
from mlm_jax.layers.tokens import every
from mlm_jax.models.dalle import Dalle
from mlm_jax.train import cast

Net = UNet | DiffusionTransformer

# --- codes ---


def code_sampling(setting: Setting, rows: int) -> Iterator[Row]:
    """Greedy, from captions; the other side reads the whole text anew for each code."""
    model = dalle_of(setting)
    text = np.random.default_rng(0).integers(1, model.words, (rows, model.length), np.int32)
    ids, count = jnp.asarray(text), int(np.prod(model.codes.eyes.grid))
    pixels = jnp.zeros((rows, *model.codes.eyes.takes.shape), jnp.uint8)
    batch = {"image": pixels, "target": ids, "target_mask": jnp.ones(ids.shape, bool)}
    params = cast(jax.jit(model.init)(jax.random.key(0), batch)["params"], setting.precision)
    with_cache = jax.jit(lambda p, ids: {"ids": written(model, p, ids, GREEDY, jax.random.key(0))})
    others = [of_jax(name, partial(way(model, count), params, ids))
              for name, way in {"without a cache, one loop": looped,
                                "without a cache, a call a code": called}.items()]  # fmt: skip
    ours = of_jax("ours", partial(with_cache, params, ids))
    what = f"DALL-E, greedy, batch {rows}, {model.length} words given, {count} codes written"
    yield rates(exact({"what": what}, ours, others, setting), rows * count, "codes/s")


def dalle_of(setting: Setting) -> Dalle:
    model = dalle_tiny.config.model
    assert isinstance(model, Dalle)
    if setting.size != "tiny":
        return model
    return replace(model, decoder=replace(model.decoder, body=Transformer(32, 1)))


def next_code(model: Dalle, params: Any, ids: jax.Array, at: Any) -> jax.Array:
    """`ids` of all places, of which those before `at` are known, with that at `at` as well."""
    logits: Any = model.apply({"params": params}, ids, Fused(), method=decode)
    said = jax.lax.dynamic_index_in_dim(logits, at - 1, axis=1, keepdims=False)
    word = said.at[:, : model.words].set(-jnp.inf).argmax(-1).astype(jnp.int32)
    return ids.at[:, at].set(word)


def looped(model: Dalle, count: int) -> Callable[..., dict[str, Any]]:
    start = model.length

    @jax.jit
    def write(params: Any, ids: jax.Array) -> dict[str, Any]:
        whole = jnp.pad(ids, [(0, 0), (0, count)])
        whole = jax.lax.fori_loop(
            start, start + count, lambda at, known: next_code(model, params, known, at), whole
        )
        return {"ids": whole[:, start:] - model.words}

    return write


def called(model: Dalle, count: int) -> Callable[..., dict[str, Any]]:
    step = jax.jit(partial(next_code, model))

    def write(params: Any, ids: jax.Array) -> dict[str, Any]:
        whole = jnp.pad(ids, [(0, 0), (0, count)])
        for i in range(count):
            whole = step(params, whole, jnp.int32(model.length + i))
        return {"ids": whole[:, model.length :] - model.words}

    return write


# --- nets of diffusion ---


def unet_step(setting: Setting, rows: int) -> Iterator[Row]:
    net = UNet((8, 16), 1, (1,)) if setting.size == "tiny" else UNet()
    return denoised("UNet", net, setting, rows)


def dit_step(setting: Setting, rows: int) -> Iterator[Row]:
    net = DiffusionTransformer(4, transformer("tiny", qk_norm=True))
    if setting.size == "tiny":
        net = replace(net, body=replace(net.body, width=32, depth=1))
    return denoised("DiT", net, setting, rows)


def denoised(title: str, net: Net, setting: Setting, rows: int) -> Iterator[Row]:
    """Forward, then forward and backward of the mean squared error; no word is padding."""
    from experiments.benchmarks import drawing_torch, reference

    reference.prepare(setting)
    arrays = inputs(setting, rows)
    given = {name: jnp.asarray(value, setting.precision) for name, value in arrays.items()}
    params = cast(opened(net, given), setting.precision)
    x = reference.tensors(arrays, setting, setting.precision)
    theirs = drawing_torch.like(net, params, arrays["x"].shape[1], arrays["text"].shape[-1])
    theirs = reference.placed(theirs, setting)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    row = {"model": f"{size / 1e6:.1f} M parameters"}
    title = f"{title}, {arrays['x'].shape[1]} px"

    see = jax.jit(lambda params, given: {"out": draw(net, params, given)})
    ours = of_jax("ours", partial(see, params, given))
    others = reference.ways(drawing_torch.draw, theirs, x, setting=setting)
    row["what"] = f"{title}, forward, batch {rows}"
    yield rates(compare(row, ours, others, setting), rows, "examples/s")

    learn = jax.jit(jax.value_and_grad(partial(loss, net)))
    ours = of_jax("ours", lambda: dict(zip(("loss", "by"), learn(params, given), strict=True)))
    ours = replace(ours, read=lambda out: learned(out["loss"], drawing_torch.named(out["by"])))
    others = [
        replace(side, read=lambda out: learned(out["loss"], reference.to_arrays(out["by"])))
        for side in drawing_torch.learning(theirs, x, setting)
    ]
    row["what"] = f"{title}, forward and backward, batch {rows}"
    yield rates(compare(row, ours, others, setting), rows, "examples/s")


def inputs(setting: Setting, rows: int) -> Arrays:
    """Pictures with noise, their times, words and what is wanted."""
    rng, side = np.random.default_rng(0), 16 if setting.size == "tiny" else 48
    text: TextEncoder = painter_tiny.config.model.text
    shapes = {"x": (rows, side, side, 3), "wanted": (rows, side, side, 3),
              "text": (rows, painter_tiny.LENGTH, text.body.width)}  # fmt: skip
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {"t": np.linspace(0.05, 0.95, rows, dtype=np.float32)}


def opened(net: Net, given: dict[str, Any]) -> Any:
    """Parameters of which none is left at 0, where gates are shut and nothing is drawn."""
    read = every(given["text"])
    params = jax.jit(net.init)(jax.random.key(0), given["x"], given["t"], None, read)["params"]
    leaves, kind = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    near = [x + 0.05 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(kind, near)


def draw(net: Net, params: Any, given: dict[str, Any]) -> Any:
    return net.apply({"params": params}, given["x"], given["t"], None, every(given["text"]))


def loss(net: Net, params: Any, given: dict[str, Any]) -> Any:
    return ((draw(net, params, given) - given["wanted"]).astype(jnp.float32) ** 2).mean()


def learned(value: Any, gradients: Arrays) -> Arrays:
    """The loss and every gradient, those over the largest of them: they are far below 1."""
    largest = np.asarray(max(np.abs(by).max() for by in gradients.values()))
    alone = {"loss": np.asarray(float(value)), "largest": largest}
    return {name: by / largest for name, by in gradients.items()} | alone

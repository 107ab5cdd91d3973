"""Nets of diffusion: that they read all they are given, and go from pictures to clips."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders.denoiser import DiffusionTransformer, UNet
from mlm_jax.layers import Block, Tokens, Transformer
from mlm_jax.layers.attention import Attention

KEY = jax.random.key(0)
BLOCK = Block(heads=2, ratio=2.0)
NETS = {
    "unet": UNet((8, 8), 1, (1,), replace(BLOCK), groups=2),
    "joint": DiffusionTransformer(4, Transformer(16, 2, replace(BLOCK))),
    "divided": DiffusionTransformer(4, Transformer(16, 1, replace(BLOCK)), "divided"),
}
T = jnp.array([0.2, 0.7])
TEXT = Tokens(jax.random.normal(KEY, (2, 3, 12)), jnp.array([[1, 1, 0], [1, 1, 1]], bool))
GIVEN = {
    "x": jax.random.normal(KEY, (2, 8, 8, 3)),
    "t": T,
    "vector": jax.random.normal(KEY, (2, 5)),
    "text": TEXT.x,
}


def drawn(shapes: Any) -> Any:
    """Parameters as they are not at the start, so that nothing hides behind a zero."""
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    return tree.unflatten([jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype) for x in leaves])


@pytest.mark.parametrize(("kind", "frames"), [("joint", 0), ("joint", 3), ("divided", 3)])
def test_rotary_positions_are_those_within_a_frame(kind: str, frames: int) -> None:
    """Column and row; those over time are 0, 1, 2."""
    block = replace(BLOCK, rotary=10.0)
    net = DiffusionTransformer(4, Transformer(16, 1, block), kind)
    x = jnp.zeros((1, *([frames] if frames else []), 8, 12, 3))
    turned: list[Any] = []

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, Attention):
            turned.append(kwargs["places"])
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        net.init(KEY, x, T[:1])
    within = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    times = frames if kind == "joint" and frames else 1
    np.testing.assert_array_equal(turned[0], within * times)
    assert [each is None for each in turned] == [False, True][: len(turned)]
    assert len(turned) == (2 if kind == "divided" else 1)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", ["joint", "unet-clip", "divided-clip"])
def test_nets_ignore_nothing(kind: str) -> None:
    """But padding of the text; of clips, every frame is read by every other."""
    net, given = NETS[kind.partition("-")[0]], dict(GIVEN)
    if kind.endswith("clip"):
        given["x"] = jax.random.normal(KEY, (2, 3, 8, 8, 3))

    def call(params: Any, given: dict) -> jax.Array:
        text = Tokens(given["text"], TEXT.mask)
        return net.apply({"params": params}, given["x"], given["t"], given["vector"], text)

    @jax.jit
    def slopes_of(params: Any) -> Any:
        said, back = jax.vjp(call, params, given)
        return back(jnp.zeros_like(said).at[(slice(None), *[0] * (said.ndim - 2))].set(1))

    text = Tokens(given["text"], TEXT.mask)
    shapes = jax.eval_shape(net.init, KEY, given["x"], T, given["vector"], text)["params"]
    grads, slopes = slopes_of(drawn(shapes))
    for name, slope in slopes.items():
        assert jnp.abs(slope).max() > 1e-6, name
        assert jnp.isfinite(slope).all()
    assert not slopes["text"][0, 2].any()
    assert jnp.abs(slopes["x"]).sum((-3, -2, -1)).all()
    named = jax.tree_util.tree_leaves_with_path(grads)
    still = [jax.tree_util.keystr(path) for path, leaf in named if not jnp.abs(leaf).max() > 0]
    assert not [name for name in still if "key']['bias" not in name]


def test_a_net_of_pictures_goes_on_as_one_of_clips() -> None:
    """Gates over time are shut at the start: each frame is then seen as a picture."""
    net, clip = NETS["unet"], jax.random.normal(KEY, (2, 3, 8, 8, 3))
    params = jax.jit(net.init)(KEY, clip, T)["params"]
    see = jax.jit(net.apply)
    assert not see({"params": params}, clip, T).any()
    gates = {k: v for k, v in params.items() if k.endswith("_time")}
    moved = drawn(params) | gates
    alone = {k: v for k, v in moved.items() if k not in gates}
    together = see({"params": moved}, clip, T)
    frames = see({"params": alone}, clip.reshape(6, 8, 8, 3), jnp.repeat(T, 3))
    np.testing.assert_allclose(together.reshape(frames.shape), frames, atol=1e-4)


@pytest.mark.parametrize("kind", ["joint", "divided"])
def test_transformers_keep_the_shape_of_clips(kind: str) -> None:
    clip = jnp.zeros((2, 3, 8, 12, 6))
    said, _ = jax.eval_shape(NETS[kind].init_with_output, KEY, clip, T)
    assert said.shape == (2, 3, 8, 12, 3)


def test_pictures_that_do_not_fit_are_refused() -> None:
    odd = jnp.zeros((1, 6, 9, 3))
    with pytest.raises(ValueError, match=r"\(6, 9\) pixels do not halve 1 times"):
        jax.eval_shape(NETS["unet"].init, KEY, odd, T[:1])
    with pytest.raises(ValueError, match=r"\(6, 9\) pixels do not divide into patches of 4"):
        jax.eval_shape(NETS["joint"].init, KEY, odd, T[:1])

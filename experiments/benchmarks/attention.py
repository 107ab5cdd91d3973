"""Attention alone, as `mlm_jax.layers.Attention` asks for it, against torch's."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import reference
from experiments.benchmarks.reference import torch
from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Row, compare, of_jax
from experiments.benchmarks.timing import significant
from mlm_jax.layers.attention import attend

HEADS, WIDTH = 12, 64
SHAPES = ((8, 197), (2, 512))  # rows, tokens
NAMES = ("query", "key", "value")


def ours(query: Any, key: Any, value: Any) -> dict[str, Any]:
    """With the mask of padding that every call in a model has, here all real."""
    real = jnp.ones((query.shape[0], 1, 1, key.shape[1]), bool)
    return {"out": attend(query, key, value, real)}


def our_gradients(*given: Any) -> dict[str, Any]:
    found = jax.grad(lambda *x: ours(*x)["out"].sum(), argnums=(0, 1, 2))(*given)
    return dict(zip(NAMES, found, strict=True))


def theirs(*given: Any) -> dict[str, Any]:
    """Heads before tokens, as torch likes them; what is given back is only looked at otherwise."""
    out = torch.nn.functional.scaled_dot_product_attention(*given)
    return {"out": out.transpose(1, 2)}


def their_gradients(*given: Any) -> dict[str, Any]:
    leaves = [x.detach().requires_grad_() for x in given]
    theirs(*leaves)["out"].sum().backward()
    return {name: x.grad.transpose(1, 2) for name, x in zip(NAMES, leaves, strict=True)}


def attention(setting: Setting) -> Iterator[Row]:
    """Forward, eager and compiled; forward and backward, eager alone."""
    reference.prepare(setting)
    for rows, tokens in SHAPES:
        shape = (3, rows, tokens, HEADS, WIDTH)
        given = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        mine = [jnp.asarray(x, setting.precision) for x in given]
        dtype = getattr(torch, setting.precision)
        other = [
            torch.tensor(np.ascontiguousarray(x.swapaxes(1, 2)), dtype=dtype).to(
                reference.device(setting)
            )
            for x in given
        ]
        title = f"attention, {rows} x {tokens} tokens x {HEADS} heads x {WIDTH}"
        products = 4 * rows * tokens**2 * HEADS * WIDTH / 1e9
        see, back = jax.jit(ours), jax.jit(our_gradients)
        yield compare(
            {"what": f"{title}, forward", "gflops": significant(products)},
            of_jax("ours", partial(see, *mine)),
            reference.ways(theirs, *other, setting=setting),
            setting,
        )
        sides = reference.ways(their_gradients, *other, setting=setting, grad=True)
        yield compare(
            {"what": f"{title}, with gradients", "gflops": significant(3 * products)},
            of_jax("ours", partial(back, *mine)),
            [side for side in sides if "compiled" not in side.name],
            setting,
        )

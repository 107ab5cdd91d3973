"""What makes a training step slow and needs no clock to be seen; each check fails where it should.

The counts are those of a GPT of one small block, with jax 0.10 and 0.11 on a CPU. A change that
leaves a band on purpose writes the new counts here, and says in its message why they are better.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.counts import Counts, compilations, counts
from mlm_jax.config import Config, Optim
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Loss
from mlm_jax.models.gpt import Gpt
from mlm_jax.train import State, make_step, prepare

LEAVES = 38  # arrays of the state
BANDS = {
    "flops": (6.6e6, 7.0e6),
    "dot": (27, 27),
    "fusion": (180, 240),
    "convert": (25, 36),
    "transpose": (26, 36),
    "copy": (40, 62),
    "host": (0, 0),
    "donated": (LEAVES, LEAVES),
}


def batch(seed: int = 0) -> dict[str, jax.Array]:
    target = np.random.default_rng(seed).integers(4, 64, (4, 17), np.int32)
    mask = np.ones(target.shape, bool)
    return jax.device_put({"target": target, "target_mask": mask, "scored": mask})


def gpt() -> Gpt:
    return Gpt(TextDecoder(64, 16, body=Transformer(32, 1, Block(heads=2, bias=False))))


def made(model: nn.Module, loss: Loss) -> tuple[State, Callable[..., Any], Callable[[], State]]:
    """Shapes of the state, the step, what makes the first state."""
    config = Config(model, loss, optim=Optim(warmup=0), steps=10)
    shapes, tx, begin = prepare(config, batch())
    return shapes, make_step(config, tx), begin


def outside(found: Counts) -> list[str]:
    """What is not within its band."""
    values = {
        **found.operations,
        "flops": found.flops,
        "host": found.host,
        "donated": found.donated,
    }
    return [name for name, (low, high) in BANDS.items() if not low <= values.get(name, 0) <= high]


def compiled(state: State, step: Any) -> Counts:
    return counts(step.lower(state, batch()).compile())


def test_a_step_is_what_it_was_and_uses_up_its_state_and_compiles_once() -> None:
    shapes, step, begin = made(gpt(), Caption())
    found = compiled(shapes, step)
    assert outside(found) == [], found
    state, batches = begin(), [batch(seed) for seed in range(3)]
    old = jax.tree.leaves(state)
    state, _ = step(state, batches[0])
    assert all(leaf.is_deleted() for leaf in old)
    with compilations() as again, jax.transfer_guard("disallow"):
        for each in batches[1:]:
            state, _ = jax.block_until_ready(step(state, each))
        assert again() == 0


# --- each check fails where it should ---


class Twice(nn.Module):
    """Reads every text forwards and backwards: the work of two."""

    inner: Gpt = field(default_factory=gpt)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, jax.Array]:
        back = {**batch, "target": batch["target"][:, ::-1]}
        both = [self.inner(each, train=train)["logits"] for each in (batch, back)]
        return {"logits": both[0] + both[1]}


@dataclass(frozen=True)
class Watched:
    """Tells the host about every loss."""

    inner: Caption = field(default_factory=Caption)

    def __call__(self, outputs: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, metrics = self.inner(outputs, batch)
        jax.debug.callback(lambda value: None, loss)
        return loss, metrics


def test_a_doubled_forward_pass_is_seen() -> None:
    assert {"flops", "dot", "fusion"} <= {*outside(compiled(*made(Twice(), Caption())[:2]))}


def test_a_call_of_the_host_is_seen() -> None:
    assert "host" in outside(compiled(*made(gpt(), Watched())[:2]))


def test_a_lost_donation_is_seen() -> None:
    state, step, _ = made(gpt(), Caption())
    assert "donated" in outside(compiled(state, jax.jit(step.__wrapped__)))


def test_a_program_for_each_python_number_is_seen() -> None:
    @partial(jax.jit, static_argnums=1)
    def scaled(x: jax.Array, rate: float) -> jax.Array:
        return x * rate

    x = jnp.ones(3)
    with compilations() as again:
        for step in range(3):
            scaled(x, 0.1 / (step + 1))
        assert again() == 3


def test_a_number_of_the_host_that_goes_in_is_seen() -> None:
    add = jax.jit(jnp.add)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="transfer"):
        add(jax.random.key_data(jax.random.key(0)), np.ones(2, np.uint32))

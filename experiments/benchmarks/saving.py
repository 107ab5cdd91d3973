"""How long training waits for a checkpoint of 100 M parameters with Adam's state (1.2 GB)."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp

from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Row
from experiments.benchmarks.timing import seconds, significant, summary
from mlm_jax.checkpoint import Checkpoints

LAYERS = {"base": 100, "tiny": 2}  # of 1 M parameters each
SAVES = 5


def checkpoint(setting: Setting) -> Iterator[Row]:
    """How long the call of `save` takes, and until all is on the disk; the first one apart."""
    keys = jax.random.split(jax.random.key(0), LAYERS[setting.size])
    params = {f"layer_{i}": jax.random.normal(key, (1000, 1000)) for i, key in enumerate(keys)}
    opt = {name: jax.tree.map(jnp.square, params) for name in ("mu", "nu")}
    trees = jax.block_until_ready({"params": params, "opt": opt})
    checkpoints = Checkpoints(setting.folder / "checkpoints", 1)
    stalls, whole = [], []
    for step in range(SAVES + 1):
        stalls.append(seconds(partial(checkpoints.save, step, trees, {})))
        whole.append(stalls[-1] + seconds(checkpoints.wait))
    checkpoints.close()
    first, *stalls = stalls
    yield {
        "what": f"checkpoint, {len(keys)} M parameters and Adam's moments, "
        f"{12 * len(keys) / 1000:.1f} GB",
        "first": {"ours": significant(first)},
        "stall": summary(stalls),
        "written": summary(whole[1:]),
    }

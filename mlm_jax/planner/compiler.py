"""The program that XLA makes of a training step, for devices that are simulated on a CPU.

Of a large model most of the time and memory goes into code for the CPU, which is not wanted, after
the program is done: 5 minutes and then over 10 for `vit_large` on two busy cores. XLA writes the
program down in between, so another process compiles, and is stopped when the program is there.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mlm_jax import sharding
from mlm_jax.config import Config, from_json, senses, to_json
from mlm_jax.layers.attention import in_one_piece
from mlm_jax.losses import Classes, Spans
from mlm_jax.train import State, make_step, prepare

OPTIONS: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",  # it is never run
    "xla_llvm_disable_expensive_passes": True,
    "xla_disable_hlo_passes": "cpu-all-reduce-combiner",  # sums stay told apart
}
WRITTEN = "*jit_step.cpu_after_optimizations.txt"
THEN = "*jit_step.cpu_after_optimizations-*"
"""What XLA writes next: the program is then whole."""


def simulate(config: Config) -> None:
    """As many devices as the mesh has: before anything asks jax for its devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", sharding.least(config.mesh))


# --- the step ---


def parts(
    config: Config, mesh: jax.sharding.Mesh
) -> tuple[State, dict[str, Any], jax.stages.Wrapped]:
    """Shapes of state and batch with their places, and the step that takes them."""
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, sharding.ROWS)
        batch = jax.tree.map(lambda x: on(x, rows), example(config))
        state, tx, _ = prepare(config, batch)
        return state, batch, make_step(config, tx)


def on(x: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def initial(config: Config) -> Any:
    """Shapes of the parameters."""

    def init(batch: Any) -> Any:
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        return config.model.init(jax.random.key(0), blank)["params"]

    return jax.eval_shape(init, example(config))


def example(config: Config) -> dict[str, Any]:
    """Shapes of a batch as `mlm_jax.data` makes them, its texts at their full length."""
    data = config.data
    batch: dict[str, Any] = {}
    for key, encoder in senses(config).items():
        one = encoder.takes
        batch[key] = jax.ShapeDtypeStruct((data.batch, *one.shape), one.dtype)
        if key == "audio":
            batch["audio_length"] = jax.ShapeDtypeStruct((data.batch,), jnp.int32)
    if isinstance(config.loss, Classes):
        label = jax.ShapeDtypeStruct((data.batch,), jnp.int32)
        taught = {"taught": label} if getattr(config.model, "taught", False) else {}
        batch |= {"label": label} | taught
    if isinstance(config.loss, Spans):
        rows = (data.batch, data.events)
        batch["event"] = jax.ShapeDtypeStruct(rows, jnp.int32)
        batch["span"] = jax.ShapeDtypeStruct((*rows, 2), jnp.float32)
        batch["event_mask"] = jax.ShapeDtypeStruct(rows, jnp.bool_)
    counts = (data.captions, data.questions, data.captions * data.contrary)
    first, *more = [texts(config, n) for n in counts if n] or [{}]
    return batch | first | ({"also": more[0]} if more else {})


def texts(config: Config, count: int) -> dict[str, Any]:
    rows, data = config.data.batch * count, config.data
    lengths = {"text": data.text_length, "target": data.target_length}
    ids = {name: jax.ShapeDtypeStruct((rows, n), jnp.int32) for name, n in lengths.items()}
    masks = {f"{name}_mask": jax.ShapeDtypeStruct(x.shape, bool) for name, x in ids.items()}
    return ids | masks | {"scored": masks["target_mask"]}


# --- the compiler ---


def here(config: Config, options: dict[str, str | bool] = OPTIONS) -> str:
    """For the devices there are."""
    mesh = sharding.make_mesh(config.mesh)
    state, batch, step = parts(config, mesh)
    with jax.set_mesh(mesh), in_one_piece():
        return step.lower(state, batch).compile(options).as_text() or ""


def apart(config: Config) -> str:
    """By `main` in another process. Raises: ValueError with what it said if it fails."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(to_json(config)))
        command = [sys.executable, "-m", "mlm_jax.planner.compiler", name]
        paths = os.pathsep.join(path for path in sys.path if path)
        with open(folder / "log", "w") as log:
            child = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": paths}
            )
        try:
            while child.poll() is None and not any(folder.glob(THEN)):
                time.sleep(0.1)
        finally:
            child.kill()
            child.wait()
        for path in folder.glob(WRITTEN):
            return path.read_text()
        raise ValueError(f"the step was not compiled:\n{(folder / 'log').read_text()[-2000:]}")


def main(folder: str) -> None:
    config = from_json(json.loads((Path(folder) / "config.json").read_text()))
    simulate(config)
    dump: dict[str, str | bool] = {
        "xla_dump_to": folder,
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_module_re": "jit_step",
    }
    here(config, OPTIONS | dump)


if __name__ == "__main__":
    main(sys.argv[1])

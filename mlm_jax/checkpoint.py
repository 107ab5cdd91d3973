"""Checkpoints through orbax: asynchronous, atomic, the last few kept, every array with its digest.

A step holds named trees of arrays ("params", "opt", perhaps "ema") and a JSON object "info". Every
process writes and reads its own parts, onto any mesh. What is read back is compared with digests;
a damaged step is passed over, loudly, for an older one.
"""

import json
import math
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32
from orbax.checkpoint import checkpoint_managers as policies

from mlm_jax import processes
from mlm_jax.config import UserError, read_json
from mlm_jax.paths import named, nested

Trees = dict[str, Any]
TREES = ("params", "opt", "ema")
NO_MESH = jax.sharding.Mesh(np.empty((), object), ())
ELSEWHERE = "cannot be read by another process"
WATCHED = "test/loss"
"""The number by which one step is better than another: the lower."""


class Saved(NamedTuple):
    step: int
    trees: Trees
    """Nested dicts of arrays, by name."""
    info: dict[str, Any]


# --- digests ---


@jax.jit
def digest(array: Array) -> UInt32[Array, ""]:
    """A sum over the elements of a hash of their bits and place, modulo 2^32.

    Computed where the array lies, and the same however it lies: whole numbers add up to the same in
    any order. The hash of an element is one to one in its bits (the end of MurmurHash3), so that a
    change of a single element is always seen, any other but for one in 2^32.
    """
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    whole = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(array, whole).astype(jnp.uint32)
    strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
    counts = (jax.lax.broadcasted_iota(jnp.uint32, array.shape, i) for i in range(array.ndim))
    place = sum((c * jnp.uint32(s) for c, s in zip(counts, strides, strict=True)), jnp.uint32(0))
    x = bits ^ ((place + jnp.uint32(1)) * jnp.uint32(0x9E3779B1))
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return (x ^ (x >> 16)).sum(dtype=jnp.uint32)


def manifest(trees: Trees) -> dict[str, list[Any]]:
    """Path -> dtype, shape and digest of each array.

    One after another: devices of a CPU, which have few threads, wait for ever on sums of theirs
    that are begun together.
    """
    return {path: [*form(leaf), int(digest(leaf))] for path, leaf in named(trees).items()}


def form(leaf: Any) -> list[Any]:
    return [str(leaf.dtype), list(leaf.shape)]


def seal(info: dict[str, Any]) -> dict[str, Any]:
    """The same with a checksum of its own."""
    return info | {"crc32": zlib.crc32(json.dumps(info, sort_keys=True).encode())}


def size(trees: Any) -> int:
    """Bytes of the arrays (or their shapes)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


# --- writing ---


class Checkpoints:
    """The checkpoints under `folder`: the newest `keep` stay, and the `best` of lowest WATCHED."""

    def __init__(self, folder: Path, keep: int, best: int = 0):
        self.folder = folder
        stay: list[Any] = [policies.LatestN(keep)]
        if best:
            stay.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[WATCHED],
                    reverse=True,
                    n=best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.manager = ocp.CheckpointManager(
            folder.absolute(),
            # the low bits of trained parameters are noise, which does not compress
            item_handlers={
                **{name: ocp.PyTreeCheckpointHandler(use_compression=False) for name in TREES},
                "info": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(stay),
                cleanup_tmp_directories=True,
            ),
        )

    def save(
        self, step: int, trees: Trees, info: dict[str, Any], watched: float | None = None
    ) -> None:
        """Begin to write; returns once the arrays are copied. `trees`: nested dicts of jax arrays.

        `watched` is the WATCHED of this step. Raises: UserError if this or the save before it
        failed; earlier steps stay whole.
        """
        trees = copied(trees)
        metrics = None if watched is None else {WATCHED: watched}
        info = {**info, **(metrics or {}), "arrays": manifest(trees)}
        info = seal(json.loads(json.dumps(info)))
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(**items, info=ocp.args.JsonSave(info)),
                metrics=metrics,
            )
        except Exception as error:  # orbax lets through whatever its storage raises
            raise self.failed(step, error) from error

    def wait(self) -> None:
        """Until what was begun is written. Raises: UserError."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:
            raise self.failed(None, error) from error

    def failed(self, step: int | None, error: Exception) -> UserError:
        what = "the last checkpoint" if step is None else f"a checkpoint at step {step}"
        whole = ", ".join(map(str, steps(self.folder))) or "none"
        return UserError(
            f"{what} could not be written under {self.folder}: {brief(error)}\n"
            f"steps that are whole: {whole}. Make room, then give the same command to go on."
        )

    def restore(self, wanted: Trees) -> Saved | None:
        """The newest step that is whole, or None if there never was one.

        `wanted` are shapes of the trees with the places where they are to lie. Damaged newer steps
        are moved to `<run>/damaged/`. Raises: UserError if all are damaged, or if a step is one of
        another model.
        """
        found = steps(self.folder)
        for step in reversed(found):
            saved = read(self.folder, step, partial(fitted, wanted, step))
            if isinstance(saved, Saved):
                if processes.leads():
                    for bad in found[found.index(step) + 1 :]:
                        self.set_aside(bad)
                processes.agree(True)
                self.manager.reload()
                return saved
            warn(self.folder, step, saved)
        if found:
            raise none_good(self.folder, found)
        return None

    def set_aside(self, step: int) -> None:
        place = self.folder.parent / "damaged"
        place.mkdir(exist_ok=True)
        taken = len(list(place.glob(f"{step}*")))
        shutil.move(self.folder / str(step), place / (f"{step}.{taken}" if taken else str(step)))

    def close(self) -> None:
        """Finish what was begun. Raises: UserError."""
        try:
            self.manager.close()
        except Exception as error:
            raise self.failed(None, error) from error


def copied(trees: Trees) -> Trees:
    """Arrays that the next step may not use up while they are written.

    From an accelerator orbax copies before it returns. Of a CPU it keeps the arrays themselves, and
    a step that donates them would wait until they are written.
    """
    if jax.default_backend() != "cpu":
        return trees
    return jax.tree.map(jnp.copy, trees)


# --- reading ---


def steps(folder: Path) -> list[int]:
    """Steps that were committed, oldest first; half-written ones have another name."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal() and p.is_dir())


def read(folder: Path, step: int, choose: Callable[[dict[str, Any]], Trees]) -> Saved | str:
    """Step `step`, verified, or what is wrong with it.

    `choose` makes of its info the shapes of what is wanted, each with its place.
    Raises: what `choose` raises.
    """
    place = (folder / str(step)).absolute()
    info = read_info(place)
    if not processes.agree(not isinstance(info, str)):
        return info if isinstance(info, str) else ELSEWHERE
    assert not isinstance(info, str)
    wanted = choose(info)
    trees: Trees | str = ""
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            trees = {name: reader.restore(place / name, args=as_args(tree))
                     for name, tree in wanted.items()}  # fmt: skip
    except Exception as error:  # damage shows as almost any exception
        trees = f"cannot be read ({brief(error)})"
    if not processes.agree(not isinstance(trees, str)):
        return trees if isinstance(trees, str) else ELSEWHERE
    assert not isinstance(trees, str)
    have = manifest(trees)
    wrong = sorted(path for path, entry in have.items() if info["arrays"].get(path) != entry)
    if not processes.agree(not wrong):
        these = f"{len(wrong)} arrays are not what was saved, such as {wrong[0]}" if wrong else ""
        return these or ELSEWHERE
    return Saved(step, trees, info)


def as_args(tree: Any) -> Any:
    like = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        ),
        tree,
    )
    return ocp.args.PyTreeRestore(item=tree, restore_args=like)


def read_info(place: Path) -> dict[str, Any] | str:
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            info: dict[str, Any] = reader.restore(place / "info")
        crc = info.pop("crc32")
    except Exception as error:
        return f"cannot be read ({brief(error)})"
    return info if seal(info)["crc32"] == crc else "its info is not what was saved"


def fitted(wanted: Trees, step: int, info: dict[str, Any]) -> Trees:
    """`wanted`, if that is what was saved. Raises: UserError."""
    saved, want = info["arrays"], named(wanted)
    wrong = [f"{p} is missing" for p in want if p not in saved]
    wrong += [f"{p} is unknown" for p in saved if p not in want]
    wrong += [
        f"{p} is {saved[p][0]} {tuple(saved[p][1])}, not {leaf.dtype} {leaf.shape}"
        for p, leaf in want.items()
        if p in saved and saved[p][:2] != form(leaf)
    ]
    if wrong:
        raise UserError(
            f"the checkpoint of step {step} is not one of this model: {'; '.join(wrong[:5])}."
            " Was the code changed since?"
        )
    return wanted


def restore_params(run: Path) -> tuple[int, Any]:
    """Step and parameters (nested dicts of arrays) of the first whole one of `preferred`.

    The moving average, where the run keeps one; on one device, whatever mesh is set. Raises:
    UserError if none is whole.
    """
    folder = run / "checkpoints"
    found = preferred(run)
    for step in found:
        with jax.set_mesh(NO_MESH):
            saved = read(folder, step, parameters)
        if isinstance(saved, Saved):
            return step, next(iter(saved.trees.values()))
        warn(folder, step, saved)
    raise none_good(folder, sorted(found))


def preferred(run: Path) -> list[int]:
    """Steps of a run, the newest first, or the best, where the run keeps the best (`keep_best`)."""
    folder = run / "checkpoints"
    found = steps(folder)
    return best_first(folder, found) if keeps_best(run) else found[::-1]


def keeps_best(run: Path) -> bool:
    return (run / "config.json").exists() and bool(read_json(run).get("keep_best"))


def best_first(folder: Path, found: Sequence[int]) -> list[int]:
    """The lowest WATCHED first, then those of which it is not known, the newest of them first."""
    infos = {step: read_info(folder.absolute() / str(step)) for step in reversed(found)}
    known = {
        step: float(info[WATCHED])
        for step, info in infos.items()
        if not isinstance(info, str) and WATCHED in info
    }
    return [*sorted(known, key=known.__getitem__), *(step for step in infos if step not in known)]


def parameters(info: dict[str, Any]) -> Trees:
    """Shapes of the average that was saved, or else of the parameters, to lie on one device."""
    trees = on_one_device(info)
    name = "ema" if "ema" in trees else "params"
    return {name: trees[name]}


def on_one_device(info: dict[str, Any]) -> Trees:
    """Shapes of all that was saved, to lie on one device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return nested(
        {
            path: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            for path, (dtype, shape, _) in info["arrays"].items()
        }
    )


def restorable(folder: Path, choose: Callable[[dict[str, Any]], Trees] = on_one_device) -> bool:
    """Whether one of the steps is whole, in all that was saved or in what `choose` takes of it."""
    with jax.set_mesh(NO_MESH):
        found = (read(folder, step, choose) for step in reversed(steps(folder)))
        return any(isinstance(each, Saved) for each in found)


def none_good(folder: Path, found: Sequence[int]) -> UserError:
    if not found:
        return UserError(f"{folder} holds no checkpoint yet")
    listed = ", ".join(map(str, found))
    return UserError(
        f"no checkpoint under {folder} is whole (found, all damaged: {listed}).\n"
        "Put back a good copy, or begin anew with another --run."
    )


def warn(folder: Path, step: int, reason: str) -> None:
    print(f"WARNING: checkpoint {folder / str(step)} is damaged: {reason}", file=sys.stderr)


def brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"

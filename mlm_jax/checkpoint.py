"""Checkpoints through orbax: asynchronous, atomic, the last few kept, every array with its digest.

A step holds named trees of arrays ("params", "opt", perhaps "ema") and a JSON object "info". What
is read back is compared with the digests; a damaged step is passed over, loudly, for an older one.
"""

import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from mlm_jax.config import UserError
from mlm_jax.paths import named

Trees = dict[str, Any]


class Saved(NamedTuple):
    step: int
    trees: Trees
    """Nested dicts of numpy arrays, by name."""
    info: dict[str, Any]


def digests(trees: Trees) -> dict[str, int]:
    """Path -> CRC-32 of the bytes of each array, with its dtype and shape."""
    return {path: digest(np.asarray(leaf)) for path, leaf in named(trees).items()}


def digest(array: np.ndarray) -> int:
    head = f"{array.dtype}{array.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(head))


def size(trees: Any) -> int:
    """Bytes of the arrays (or their shapes)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


class Checkpoints:
    """The checkpoints under `folder`, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
        )

    def save(self, step: int, trees: Trees, info: dict[str, Any]) -> None:
        """Begin to write; returns once the arrays are copied. `trees`: nested dicts of arrays.

        Raises: UserError if this or the save before it failed; earlier steps stay whole.
        """
        trees = jax.device_get(trees)  # orbax copies arrays of numpy before it returns
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        info = json.loads(json.dumps({**info, "trees": list(trees), "digests": digests(trees)}))
        try:
            self.manager.save(step, args=ocp.args.Composite(**items, info=ocp.args.JsonSave(info)))
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

    def restore(self) -> Saved | None:
        """The newest step that is whole, or None if there never was one.

        Damaged newer steps are moved to `<run>/damaged/`. Raises: UserError if all are damaged.
        """
        found = steps(self.folder)
        for step in reversed(found):
            saved = read(self.folder, step)
            if isinstance(saved, Saved):
                for bad in found[found.index(step) + 1 :]:
                    self.set_aside(bad)
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


def steps(folder: Path) -> list[int]:
    """Steps that were committed, oldest first; half-written ones have another name."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal() and p.is_dir())


def read(folder: Path, step: int, only: tuple[str, ...] = ()) -> Saved | str:
    """Step `step`, all trees or `only` those that it has, verified; or what is wrong with it."""
    place = (folder / str(step)).absolute()
    try:
        # A handler of its own for each item: what the manager knows of one step it assumes of all.
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            info = reader.restore(place / "info")
        names = [n for n in info["trees"] if n in only or not only]
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            trees = {name: jax.tree.map(np.asarray, reader.restore(place / name)) for name in names}
        want = {k: v for k, v in info["digests"].items() if k.partition("/")[0] in names}
    except Exception as error:  # damage shows as almost any exception
        return f"cannot be read ({brief(error)})"
    have = digests(trees)
    wrong = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))
    if wrong:
        return f"{len(wrong)} arrays are not what was saved, such as {wrong[0]}"
    return Saved(step, trees, info)


def restore_params(run: Path) -> tuple[int, Any]:
    """Step and parameters (nested dicts of numpy arrays) of the newest whole checkpoint of a run.

    The moving average, where the run keeps one. Raises: UserError if there is no whole checkpoint.
    """
    folder = run / "checkpoints"
    found = steps(folder)
    for step in reversed(found):
        saved = read(folder, step, only=("params", "ema"))
        if isinstance(saved, Saved):
            return step, saved.trees.get("ema", saved.trees["params"])
        warn(folder, step, saved)
    raise none_good(folder, found)


def none_good(folder: Path, found: list[int]) -> UserError:
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

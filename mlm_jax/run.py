"""A run directory: configuration, history, metrics and tokenizer, held by one process at a time."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from mlm_jax import processes
from mlm_jax.config import Config, UserError, flat, from_json, read_json, to_json

try:
    from tensorboardX import SummaryWriter
except ImportError:
    SummaryWriter = None

FREE = (
    "log_every",
    "eval_every",
    "eval_examples",
    "save_every",
    "keep",
    "keep_best",
    "require",
    "data.max_broken",
    "data.threads",
    "data.root",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)
"""Keys that do not change what is learnt: a run may go on with others."""

MADE = ("tokenizer.json", "special_tokens_map.json", "classes.json", "preprocessor_config.json")
"""Files that are made of the data as a run begins."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


class Run:
    """One open run directory; see `open_run`. Of several processes the first alone writes."""

    def __init__(self, path: Path):
        self.path = path
        self.writes = processes.leads()
        self.checkpoints = path / "checkpoints"
        self.tokenizer = path / "tokenizer.json"
        self.classes = path / "classes.json"
        self.metrics = path / "metrics.jsonl"
        self.board = None

    def rewind(self, step: int) -> None:
        """Drop the metrics beyond `step`: they will be written again. Call before `log`."""
        if not self.writes:
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        write(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        if SummaryWriter is None:
            print("tensorboardX is not installed: metrics go to metrics.jsonl alone")
        else:
            self.board = SummaryWriter(str(self.path), purge_step=step + 1 if step else None)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and the same to TensorBoard. Raises: UserError."""
        if not self.writes:
            return
        line = {"step": step, "time": round(time.time(), 3), **numbers}
        try:
            with self.metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.metrics} cannot be written: {error.strerror}."
                " Make room, then give the same command to go on from the last checkpoint."
            ) from error
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def require_space(self, need: int) -> None:
        """Raises: UserError if fewer than `need` bytes are free where the run is."""
        free = shutil.disk_usage(self.path).free
        if free < need:
            raise UserError(
                f"{self.path}: {free / 1e9:.2f} GB free, but the checkpoints of this run take"
                f" {need / 1e9:.2f} GB. Make room, lower --keep, or choose another --run."
            )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl in the run directory `path`; what a kill cut short is left out."""
    file = path / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in map(parse, lines) if line is not None]


def parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "step" in value else None


@contextmanager
def open_run(path: Path, config: Config, command: Sequence[str] = ()) -> Iterator[Run]:
    """Create `path`, or go on with it if it is a run of the same configuration.

    Raises: UserError if it is another run's, no run directory at all, not writable, or held by
    another process.
    """
    if not processes.leads():
        yield Run(path)
        return
    tree = to_json(config)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe(path)
    except OSError as error:
        raise UserError(f"cannot write to the run directory {path}: {error.strerror}") from error
    with lock(path):
        if begun(path):
            refuse_other(path, tree)
        else:
            refuse_foreign(path)
            for name in MADE:
                (path / name).unlink(missing_ok=True)
            write(path / "config.json", json.dumps(tree, indent=2) + "\n")
        remember(path, command)
        run = Run(path)
        try:
            yield run
        finally:
            if run.board is not None:
                run.board.close()


def probe(path: Path) -> None:
    """A full disk lets files be made but not filled."""
    place = path / f".probe-{os.getpid()}"
    try:
        with place.open("wb") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    finally:
        place.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, option: str = "--run") -> Iterator[None]:
    """Hold `path`/lock. The kernel lets go of it when the process ends, however it ends.

    `option` chose `path`. Raises: UserError where another process holds it.
    """
    with (path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{path} is in use by process {file.read().strip()}: wait, or choose another"
                f" {option}"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def refuse_other(path: Path, tree: Any) -> None:
    different = differences(as_now(read_json(path)), tree)
    if different:
        raise UserError(
            f"{path} is a run with another configuration (its value, then yours):\n"
            + "\n".join(f"  {key}: {old!r} -> {new!r}" for key, old, new in different)
            + "\nNothing was changed. Give the run's own values to go on with it,"
            " or choose another --run."
        )


def as_now(tree: Any) -> Any:
    """What was saved, with the defaults of fields that have come since; as it is if none fit."""
    try:
        return to_json(from_json(tree))
    except UserError:
        return tree


def differences(old: Any, new: Any, free: Collection[str] = FREE) -> list[tuple[str, Any, Any]]:
    """(key, value in old, value in new) where they differ, but for the keys in `free`."""
    a, b = flat(old), flat(new)
    keys = [k for k in dict.fromkeys([*a, *b]) if k not in free]
    absent = "(absent)"
    return [(k, a.get(k, absent), b.get(k, absent)) for k in keys if a.get(k) != b.get(k)]


def begun(path: Path) -> bool:
    """Whether anything was learnt: a start that failed before may be corrected."""
    metrics = path / "metrics.jsonl"
    logged = metrics.exists() and metrics.stat().st_size > 0
    return logged or any((path / "checkpoints").glob("*")) or (path / "damaged").exists()


def refuse_foreign(path: Path) -> None:
    others = sorted(p.name for p in path.iterdir() if p.name not in ("lock", "run.json"))
    if others and not (path / "config.json").exists():
        raise UserError(
            f"{path} is not empty and is no run directory (it holds {', '.join(others[:5])}):"
            " choose another --run"
        )


def remember(path: Path, command: Sequence[str]) -> None:
    """Add this start to run.json: one entry for each time that the run was begun or resumed."""
    file = path / "run.json"
    try:
        starts = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        starts = []
    versions = {name: version(name) for name in PACKAGES}
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": list(command),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": versions,
            "git": git(),
        }
    )
    write(file, json.dumps(starts, indent=2) + "\n")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git() -> dict[str, Any]:
    """Commit of the source and whether files differ from it; empty outside a repository."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def write(path: Path, text: str) -> None:
    """Replace `path` whole or not at all."""
    part = path.with_name(path.name + ".part")
    # names of files may hold what is no UTF-8
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)

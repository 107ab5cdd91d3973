"""Parts one after another, each in a process of its own, and their rows into one JSON file."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.benchmarks import page
from experiments.benchmarks.lean import there
from experiments.benchmarks.parts import PARTS, Part
from experiments.benchmarks.setting import Setting, to_text


class RefusedError(Exception):
    """A mistake of the user's, shown as a message."""


@dataclass(frozen=True)
class Budget:
    """Minutes that an invocation may take, counted from `began` (seconds, monotonic)."""

    minutes: float
    began: float

    def left(self) -> float:
        return self.minutes - (time.monotonic() - self.began) / 60


def main(argv: Sequence[str]) -> int:
    given = arguments(argv)
    try:
        if given.markdown:
            found = json.loads(given.json.read_text(encoding="utf-8"))
            given.markdown.write_text(page.page(found, given.json.name), encoding="utf-8")
            return 0
        return run(given)
    except (RefusedError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks",
        description="Speed beside PyTorch and transformers.",
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas (all)")
    parser.add_argument("--json", type=Path, required=True, help="results; parts are added to it")
    parser.add_argument("--markdown", type=Path, help="write a page of --json, run nothing")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=7, help="where one takes some seconds")
    parser.add_argument("--minutes", type=float, default=8.0, help="parts beyond are left out")
    parser.add_argument(
        "--size", choices=("base", "tiny"), default="base", help="tiny is for tests"
    )
    return parser.parse_args(argv)


def run(given: argparse.Namespace) -> int:
    """The chosen parts into given.json; 1 if one of them failed. Raises: RefusedError."""
    names = [name for name in given.only.split(",") if name]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise RefusedError(f"--only {','.join(unknown)}: there are {', '.join(PARTS)}")
    budget = Budget(given.minutes, time.monotonic())
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        setting = Setting(
            Path(place), given.precision, "cpu", given.threads, given.repeats, given.size
        )
        rows, problem = part("machine", setting, budget, {})
        if problem:
            raise RefusedError(f"nothing can run here: {problem}")
        here = {k: v for k, v in rows[0].items() if k != "load"}
        here |= {key: getattr(given, key) for key in ("threads", "precision", "size")}
        setting = replace(setting, device=here["device"])
        results = opened(given.json, here)
        for name in names:
            results["parts"][name] = one(name, setting, budget)
            results["left_out"] = left_out(results["parts"])
            write(given.json, results)
            print(said(name, results["parts"][name]), flush=True)
        return int(any("problem" in results["parts"][name] for name in names))


def opened(path: Path, here: Mapping[str, Any]) -> dict[str, Any]:
    """Results so far, of this very machine, or none. Raises: RefusedError; ValueError."""
    empty = {"machine": dict(here), "formula": page.FORMULA, "parts": {}}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return empty
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    differs = {k for k in here if found["machine"].get(k) != here[k]}
    if differs:
        what = ", ".join(sorted(differs))
        raise RefusedError(
            f"{path} is of another machine or setting ({what} differ): give another --json"
        )
    return found


def one(name: str, setting: Setting, budget: Budget) -> dict[str, Any]:
    """What a part gave: rows, and why there are none or not all."""
    reason = unfit(PARTS[name], setting, budget.left())
    if reason:
        return {"left_out": reason}
    began = time.monotonic()
    rows, problem = part(name, setting, budget, environment(PARTS[name]))
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "took": round(time.monotonic() - began, 1),
        "rows": rows,
    }
    return found | ({"problem": problem} if problem else {})


def unfit(part: Part, setting: Setting, left: float) -> str:
    """Why a part is not run; "" if it is. `left`: minutes."""
    absent = [name for name in part.needs if not there(name)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    needed = part.gpu if setting.device == "gpu" else part.cpu
    if not needed:
        return f"not for a {setting.device}"
    if needed > left:
        return f"{needed:g} min needed, {max(left, 0):.1f} left of --minutes"
    return ""


def environment(part: Part) -> dict[str, str]:
    """Of the process of a part: two libraries share a GPU, or one takes most of it."""
    if part.alone:
        return {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.90"}
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def part(
    name: str, setting: Setting, budget: Budget, more: Mapping[str, str]
) -> tuple[list[dict[str, Any]], str]:
    """Rows of a process of its own, as far as it came, and what went wrong ("" if nothing)."""
    folder = setting.folder / name
    folder.mkdir()
    written = folder / "rows.jsonl"
    own = to_text(replace(setting, folder=folder))
    command = [sys.executable, "-m", "experiments.benchmarks.child", name, own, str(written)]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    seconds = max(budget.left(), 0.2) * 60
    problem = ended(command, {**os.environ, **cache, **more}, folder / "stderr.txt", seconds)
    lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
    return [json.loads(line) for line in lines], problem


def ended(command: Sequence[str], environment: dict[str, str], errors: Path, seconds: float) -> str:
    """Run a process and end all that it started with it; what went wrong, "" if nothing."""
    with errors.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(command, env=environment, stderr=out, start_new_session=True)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return "stopped: --minutes were over"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    told = errors.read_text(encoding="utf-8", errors="replace").strip()[-800:]
    return (told or f"exit code {code}") if code else ""


def left_out(parts: Mapping[str, Any]) -> dict[str, str]:
    return {name: found["left_out"] for name, found in parts.items() if "left_out" in found}


def write(path: Path, results: Mapping[str, Any]) -> None:
    """The whole file or none of it."""
    half = path.with_suffix(".part")
    half.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    half.replace(path)


def said(name: str, found: Mapping[str, Any]) -> str:
    if "left_out" in found:
        return f"{name}: left out, {found['left_out']}"
    lines = [page.brief(row) for row in found["rows"]]
    if "problem" in found:
        lines.append(f"{name}: FAILED: {found['problem']}")
    return "\n".join(lines)

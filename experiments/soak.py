"""Kill a run at random moments, also inside a save, and compare it with one left alone.

python -m experiments.soak --kills 100 [--processes 2] [--seed 0] [--out runs/soak]

Parameters, optimiser state, average, counters and every number of metrics.jsonl but the clock's
must be the same, bit for bit. The run has dropout, augmentation, an average and accumulated parts.
"""

import argparse
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax import command
from mlm_jax.checkpoint import Saved, on_one_device, read, steps
from mlm_jax.config import UserError
from mlm_jax.paths import named
from mlm_jax.run import read_metrics

TRAIN = Path(__file__).with_name("train.py")
CLOCK = ("time", "pictures_per_second")


@dataclass(frozen=True)
class Soak:
    """What is killed: `words` of the command line, in `processes` at once."""

    folder: Path
    processes: int
    words: tuple[str, ...]

    def start(self, run: Path) -> list[subprocess.Popen[bytes]]:
        where = f"127.0.0.1:{free_port()}"
        started = []
        for index in range(self.processes):
            line = [sys.executable, str(TRAIN), "--config", "soak", "--run", str(run), *self.words]
            if self.processes > 1:
                line += ["--coordinator", where, "--processes", str(self.processes)]
                line += ["--process", str(index)]
            log = (self.folder / f"{run.name}-{index}.log").open("ab")
            started.append(subprocess.Popen(line, stdout=log, stderr=log))
        return started

    def finish(self, run: Path) -> None:
        """Run until it is done. Raises: UserError if it is not."""
        codes = [process.wait() for process in self.start(run)]
        if any(codes):
            raise UserError(f"{run} ended with {codes}: see {self.folder}/{run.name}-*.log")


@dataclass
class Kills:
    count: int = 0
    in_save: int = 0
    before_a_step: int = 0


def soak(work: Soak, kills: int, seed: int) -> dict[str, Any]:
    """Figures of the kills, and what differs in the end: nothing, if all is well.

    Raises: UserError if a run does not end well.
    """
    whole, cut = work.folder / "whole", work.folder / "cut"
    work.finish(whole)
    rng, done = random.Random(seed), Kills()
    while done.count < kills:
        if kill_one(work, cut, rng, done):
            break
        say(f"{done.count} kills, {done.in_save} of them in a save; at step {newest(cut)}")
    work.finish(cut)
    return {**vars(done), "processes": work.processes, "different": different(whole, cut)}


def kill_one(work: Soak, run: Path, rng: random.Random, done: Kills) -> bool:
    """Start and kill at a random moment; True if the run was finished before."""
    started = work.start(run)
    before = len(read_metrics(run))
    early, in_save = rng.random() < 0.1, rng.random() < 0.5
    if early:
        pause(started, rng.uniform(0, 5))
    else:
        pause(started, until=lambda: len(read_metrics(run)) > before)
        pause(started, rng.uniform(0, 0.5))
        if in_save:
            pause(started, 10, until=lambda: saving(run))
            pause(started, rng.uniform(0, 0.05))
    if all(process.poll() == 0 for process in started):
        return True
    done.count += 1
    done.in_save += saving(run)
    done.before_a_step += len(read_metrics(run)) <= before
    rng.choice(started).send_signal(signal.SIGKILL)
    for process in started:
        process.wait(timeout=60)
    return False


def pause(
    started: Sequence[subprocess.Popen[bytes]],
    seconds: float = 600,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Until something is so, the seconds are over or a process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        if any(process.poll() is not None for process in started):
            return
        time.sleep(0.002)


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("*tmp*"))


def newest(run: Path) -> int:
    return max(steps(run / "checkpoints"), default=0)


def different(whole: Path, cut: Path) -> list[str]:
    """What is not the same in two finished runs."""
    ones, others = last(whole), last(cut)
    wrong = [f"the last step: {ones.step}, {others.step}"] if ones.step != others.step else []
    have, want = named(others.trees), named(ones.trees)
    wrong += [path for path, leaf in want.items()
              if np.asarray(leaf).tobytes() != np.asarray(have[path]).tobytes()]  # fmt: skip
    wrong += [key for key in ones.info if ones.info[key] != others.info.get(key)]
    rows, again = (without_clock(run) for run in (whole, cut))
    wrong += [f"metrics of step {row['step']}" for row in rows if row not in again]
    return wrong + (["rows of metrics"] if len(rows) != len(again) else [])


def last(run: Path) -> Saved:
    saved = read(run / "checkpoints", newest(run), on_one_device)
    if isinstance(saved, str):
        raise UserError(f"{run}: {saved}")
    return saved


def without_clock(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(run)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def say(text: str) -> None:
    print(text, flush=True)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    own, words = parser.parse_known_args(argv)
    if own.out.exists():
        raise UserError(f"{own.out} exists: another --out, or remove it")
    own.out.mkdir(parents=True)
    steps_of = ("--steps", str(20 * own.kills + 40), *words)
    figures = soak(Soak(own.out, own.processes, steps_of), own.kills, own.seed)
    say(json.dumps(figures))
    (own.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["different"] else 0


if __name__ == "__main__":
    sys.exit(command.main(main))

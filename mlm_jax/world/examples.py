"""Examples of the world, in order, made by several processes.

An example depends on its split, its index and the size alone, so that a set is the same on any
number of processes. The workers are commands of their own, which makes them independent of what
the caller has imported or started; they end when nobody reads from them any longer.
"""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlm_jax.world import language, scene
from mlm_jax.world.render import render

SPLITS = ("train", "validation", "test", "novel")
CAPTIONS, QUESTIONS = 4, 8  # per picture
CHUNK = 100  # examples that a worker hands over at a time


def example(split: str, index: int, size: int, objects: int = 0) -> dict[str, Any]:
    """Example `index` of a split; `image` is a PNG of `size` pixels. `objects` as in `sample`."""
    rng = np.random.default_rng([SPLITS.index(split), index])
    truth = scene.sample(rng, novel=split == "novel", objects=objects)
    png = io.BytesIO()
    Image.fromarray(render(truth, size)).save(png, "PNG", compress_level=1)
    return {
        "image": png.getvalue(),
        "captions": language.captions(truth, rng, CAPTIONS),
        "questions": [
            {"kind": asked.kind, "question": asked.text, "answer": asked.answer}
            for asked in language.questions(truth, rng, QUESTIONS)
        ],
        "scene": scene.to_json(truth),
    }


def chunk(split: str, start: int, total: int, size: int, objects: int) -> list[dict[str, Any]]:
    return [example(split, i, size, objects) for i in range(start, min(start + CHUNK, total))]


def examples(
    split: str, total: int, size: int, objects: int = 0, *, processes: int
) -> Iterator[dict[str, Any]]:
    """The first `total` examples of a split; without processes where that is quicker."""
    starts = range(0, total, CHUNK)
    processes = min(processes, len(starts))
    if processes < 2:
        for start in starts:
            yield from chunk(split, start, total, size, objects)
        return
    given = (split, total, size, objects)
    workers = [begin(*given, rank, processes) for rank in range(processes)]
    try:
        for i in range(len(starts)):
            yield from receive(workers[i % processes])
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def begin(
    split: str, total: int, size: int, objects: int, rank: int, of: int
) -> "subprocess.Popen[bytes]":
    """A process that writes every `of`-th chunk, from number `rank` on, to its output."""
    arguments = [split, *map(str, (total, size, objects, rank, of))]
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments],
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the caller, who ends the workers
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def receive(worker: "subprocess.Popen[bytes]") -> list[dict[str, Any]]:
    assert worker.stdout is not None
    try:
        return pickle.load(worker.stdout)
    except EOFError as error:
        raise RuntimeError(f"a process making examples ended early ({worker.wait()})") from error


def work(split: str, total: int, size: int, objects: int, rank: int, of: int) -> None:
    for start in range(rank * CHUNK, total, of * CHUNK):
        pickle.dump(chunk(split, start, total, size, objects), sys.stdout.buffer)
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        work(sys.argv[1], *map(int, sys.argv[2:]))
    except BrokenPipeError:
        os._exit(1)  # the reader has gone; without a flush of what it no longer wants

"""Examples of the world, in order, made by several processes.

An example depends on its split, its index and its kind alone, so that a set is the same on any
number of processes. The workers are commands of their own, which makes them independent of what
the caller has imported or started; they end when nobody reads from them any longer.
"""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mlm_jax.world import clip, language, scene, story
from mlm_jax.world.render import play, render
from mlm_jax.world.sound import sound

SPLITS = ("train", "validation", "test", "novel")
CAPTIONS, QUESTIONS = 4, 8  # of a picture, or a clip
CHUNK = 100  # examples that a worker hands over at a time


class Kind(NamedTuple):
    """What examples are like: "world" or "clips", pixels on a side, and `objects` and `frames` as
    in `scene.sample` and `clip.sample`."""

    set: str = "world"
    size: int = 48
    objects: int = 0
    frames: int = 0


def example(split: str, index: int, kind: Kind) -> dict[str, Any]:
    """Example `index` of a split, as the builders take it; pictures are PNG."""
    rng = np.random.default_rng([SPLITS.index(split), index])
    return MAKE[kind.set](rng, split == "novel", kind)


def picture(rng: np.random.Generator, novel: bool, kind: Kind) -> dict[str, Any]:
    truth = scene.sample(rng, novel=novel, objects=kind.objects)
    return {
        "image": png(render(truth, kind.size)),
        "captions": language.captions(truth, rng, CAPTIONS),
        "questions": rows(language.questions(truth, rng, QUESTIONS)),
        "scene": scene.to_json(truth),
    }


def moving(rng: np.random.Generator, novel: bool, kind: Kind) -> dict[str, Any]:
    truth = clip.sample(rng, novel=novel, objects=kind.objects, frames=kind.frames)
    return {
        "video": [png(frame) for frame in play(truth, kind.size)],
        "audio": sound(truth, rng),
        "captions": story.captions(truth, rng, CAPTIONS),
        "questions": rows(story.questions(truth, rng, QUESTIONS)),
        "clip": clip.to_json(truth),
    }


MAKE = {"world": picture, "clips": moving}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def rows(questions: Iterable[language.Question]) -> list[dict[str, str]]:
    return [{"kind": q.kind, "question": q.text, "answer": q.answer} for q in questions]


def chunk(split: str, start: int, total: int, kind: Kind) -> list[dict[str, Any]]:
    return [example(split, i, kind) for i in range(start, min(start + CHUNK, total))]


def examples(split: str, total: int, kind: Kind, *, processes: int) -> Iterator[dict[str, Any]]:
    """The first `total` examples of a split; without processes where that is quicker."""
    starts = range(0, total, CHUNK)
    processes = min(processes, len(starts))
    if processes < 2:
        for start in starts:
            yield from chunk(split, start, total, kind)
        return
    given = (split, total, kind)
    workers = [begin(*given, rank, processes) for rank in range(processes)]
    try:
        for i in range(len(starts)):
            yield from receive(workers[i % processes])
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def begin(split: str, total: int, kind: Kind, rank: int, of: int) -> "subprocess.Popen[bytes]":
    """A process that writes every `of`-th chunk, from number `rank` on, to its output."""
    arguments = [split, *map(str, (total, rank, of, *kind))]
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


def work(split: str, total: int, rank: int, of: int, kind: Kind) -> None:
    for start in range(rank * CHUNK, total, of * CHUNK):
        pickle.dump(chunk(split, start, total, kind), sys.stdout.buffer)
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        split, total, rank, of, which, *numbers = sys.argv[1:]
        kind = Kind(which, *map(int, numbers))
        work(split, int(total), int(rank), int(of), kind)
    except BrokenPipeError:
        os._exit(1)  # the reader has gone; without a flush of what it no longer wants

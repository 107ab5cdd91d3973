"""The world as TFDS sets, written as ArrayRecord without TensorFlow.

    python -m mlm_jax.world.builder data world/48px
    python -m mlm_jax.world.builder data clips/48px

The version is the name of the folder: every change of the world is a change of the version, and a
set that was built before is left alone.
"""

import fcntl
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mlm_jax.world.clip import RATE
from mlm_jax.world.examples import SPLITS, Kind, examples
from mlm_jax.world.sound import SAMPLES


@dataclass
class WorldConfig(tfds.core.BuilderConfig):
    """`size` in pixels; `train` and `rest` are examples, `rest` in each of the other splits.

    `objects` in each scene or clip; 0: one to three. `frames` of a clip.
    """

    size: int = 48
    train: int = 40_000
    rest: int = 2_000
    objects: int = 0
    frames: int = 0

    @property
    def total(self) -> int:
        return self.train + self.rest * (len(SPLITS) - 1)

    @property
    def needed(self) -> int:
        """Bytes on the disk, generously: TFDS writes everything twice, and then deletes one."""
        return self.total * (max(self.frames, 1) * self.size**2 + 40 * self.frames**2 + 4_000) * 2


TEXT = tfds.features.Text()
TEXTS = {
    "captions": tfds.features.Sequence(TEXT),
    "questions": tfds.features.Sequence({"kind": TEXT, "question": TEXT, "answer": TEXT}),
}


class Made(tfds.core.GeneratorBasedBuilder):
    """What the sets of the world share; made without downloads."""

    SKIP_REGISTRATION = True
    meter: "Meter | None" = None

    def _described(self, features: dict[str, Any]) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features | TEXTS),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        title = f"building {self.name}/{self.builder_config.name}"
        self.meter = meter = Meter(title, self.builder_config.total)
        return {split: self._generate_examples(split, meter) for split in SPLITS}

    def _generate_examples(
        self, split: str, meter: "Meter"
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        total = config.train if split == "train" else config.rest
        kind = Kind(self.name, config.size, config.objects, config.frames)
        made = examples(split, total, kind, processes=os.cpu_count() or 1)
        for index, example in enumerate(made):
            yield index, {key: encoded(value) for key, value in example.items()}
            meter.advance()


def encoded(value: Any) -> Any:
    """Bytes of pictures as the files that TFDS takes them for."""
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if isinstance(value, list) and isinstance(value[0], bytes):
        return [io.BytesIO(each) for each in value]
    return value


class World(Made):
    """Pictures of coloured shapes with captions, questions and the whole truth.

    image     uint8 (size, size, 3), PNG
    captions  4 texts, each of which tells every object
    questions 8 times kind, question, answer
    scene     JSON for `scene.from_json`
    """

    name = "world"
    VERSION = tfds.core.Version("1.3.0")
    BUILDER_CONFIGS = (
        WorldConfig(name="48px"),
        WorldConfig(name="96px", size=96),
        WorldConfig(name="224px", size=224),
        WorldConfig(name="384px", size=384, train=10_000, rest=1_000),
        WorldConfig(name="tiny", train=64, rest=32),
        WorldConfig(name="one", train=20_000, objects=1),
        WorldConfig(name="one_tiny", train=64, rest=32, objects=1),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        return self._described({"image": image, "scene": TEXT})


class Clips(Made):
    """Clips of coloured shapes that do something, with sound, captions, questions and the truth.

    video     uint8 (frames, size, size, 3), PNG
    audio     int16 (samples,), SAMPLES a second
    captions  up to 4 texts, each of which tells every event
    questions up to 8 times kind, question, answer
    clip      JSON for `clip.from_json`
    """

    name = "clips"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        WorldConfig(name="48px", train=16_000, rest=1_000, frames=16),
        WorldConfig(name="112px", size=112, train=8_000, rest=500, frames=32),
        WorldConfig(name="tiny", train=64, rest=32, frames=16),
        WorldConfig(name="one", train=12_000, rest=1_000, objects=1, frames=16),
        WorldConfig(name="one_short", train=24_000, rest=1_000, objects=1, frames=8),
        WorldConfig(name="one_tiny", train=64, rest=32, objects=1, frames=16),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        size, frames = self.builder_config.size, self.builder_config.frames
        samples = round(frames / RATE * SAMPLES)
        image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        return self._described(
            {
                "video": tfds.features.Sequence(image, length=frames),  # Video needs TensorFlow
                "audio": tfds.features.Tensor(shape=(samples,), dtype=np.int16, encoding="zlib"),
                "clip": TEXT,
            }
        )


BUILDERS: dict[str, type[Made]] = {"world": World, "clips": Clips}


class Meter:
    """Counts to `total` on the standard error: a bar on a terminal, elsewhere a few lines."""

    every = 5.0  # seconds between lines

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.shown = time.monotonic()
        self.bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} examples/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(title, total=total, rate=0)
        self.bar.start()

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        last = self.done == self.total
        if self.bar.disable and (last or now - self.shown > self.every):
            self.shown = now
            rate = self.done / (now - self.start)
            print(
                f"{self.title}: {self.done} of {self.total}, {rate:.0f} examples/s", file=sys.stderr
            )
        elif not self.bar.disable and (last or self.done % 50 == 0):
            rate = self.done / (now - self.start)
            self.bar.update(self.task, completed=self.done, rate=rate)
        if last:
            self.bar.stop()


def prepare(root: str | Path, name: str = "world/48px") -> Made:
    """The set below `root`, built if it is not there; ready for `as_data_source`.

    The version's folder appears, complete, in one rename: what an interrupted build leaves is never
    read, and the next build removes it. Of several processes one builds, and the others wait.

    ValueError for an unknown config; OSError, saying what to do, if `root` cannot take the set.
    """
    kind, _, config = name.partition("/")
    config = config or "48px"
    if kind not in BUILDERS:
        raise ValueError(f"no set {kind!r}; there are: {', '.join(BUILDERS)}")
    names = [each.name for each in BUILDERS[kind].BUILDER_CONFIGS]
    if config not in names:
        near = get_close_matches(config, names, 1)
        hint = f"did you mean {kind}/{near[0]}? There" if near else "there"
        raise ValueError(f"no {kind}/{config}; {hint} are: {', '.join(names)}")
    root = Path(root).expanduser()
    builder = load(root, kind, config)
    if not Path(builder.data_dir).is_dir():
        build(root, builder)
        builder = load(root, kind, config)
    return builder


def load(root: Path, kind: str, config: str) -> Made:
    return BUILDERS[kind](config=config, data_dir=str(root), file_format="array_record")


def build(root: Path, builder: Made) -> None:
    folder = Path(builder.data_dir).parent
    name = f"{builder.name}/{builder.builder_config.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".lock"):
            if Path(
                builder.data_dir
            ).is_dir():  # built by another process, for which we have waited
                return
            for left in folder.glob("incomplete.*"):
                shutil.rmtree(left)
            room(folder, builder.builder_config.needed)
            with quiet(), tempfile.TemporaryDirectory() as downloads:
                try:
                    builder.download_and_prepare(download_dir=downloads)
                finally:
                    if builder.meter is not None:
                        builder.meter.bar.stop()  # which gives the terminal its cursor back
    except OSError as error:
        raise refusal(root, name, error) from error
    except RuntimeError as error:  # how the writer reports a disk that fills up
        if "No space left" not in str(error):
            raise
        raise refusal(root, name, OSError(ENOSPC, os.strerror(ENOSPC))) from error


def refusal(root: Path, name: str, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"cannot build {name} below {root}: {error.strerror or error}. "
        "Name a writable folder with enough room, such as --data.root DIR",
    )


def room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(ENOSPC, f"needs about {needed >> 20} MiB of disk, {free >> 20} MiB are free")


@contextmanager
def quiet() -> Iterator[None]:
    """TFDS without its bars and remarks: our bar counts all the splits as one."""
    tfds.disable_progress_bar()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases however the process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that builds {path.parent}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str]) -> int:
    if not 1 <= len(argv) <= 2:
        print("python -m mlm_jax.world.builder ROOT [world/48px | clips/48px | ...]")
        return 2
    try:
        print(prepare(*argv).data_dir)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

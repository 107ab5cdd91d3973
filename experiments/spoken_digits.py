"""Spoken digits (FSDD) as sound files with a row for each; one speaker is kept for the test.

python experiments/spoken_digits.py ../shared/data/fsdd --out data/fsdd [--test-speaker theo]

Writes clips.zip, the recordings as FLAC, and data.jsonl: audio, label, speaker and split. Another
speaker can be held out by the column of speakers alone:

    --data.fields.split speaker --data.train george+lucas+nicolas+theo --data.test jackson
"""

import argparse
import io
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlm_jax.command import main
from mlm_jax.config import UserError
from mlm_jax.data.containers import needed
from mlm_jax.run import write

with suppress(ImportError, OSError):  # an extra, of which `needed` speaks
    import soundfile

NAME, RATE = "fsdd_8k.npz", 8_000
KEYS = ("delta_lo", "delta_hi", "offsets", "digit", "speaker", "index", "speakers")


@dataclass(frozen=True)
class Spoken:
    """A recording: int16 samples, which digit, by whom, which of his takes."""

    samples: np.ndarray
    digit: int
    speaker: str
    index: int

    @property
    def file(self) -> str:
        return f"{self.digit}_{self.speaker}_{self.index}.flac"


def read(path: Path) -> list[Spoken]:
    """Raises: UserError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in KEYS}
    except Exception as error:  # a damaged one raises almost anything
        raise UserError(f"{path}: {error}; accepted: an .npz of {', '.join(KEYS)}") from error
    low, high = (found[key].astype(np.uint16) for key in ("delta_lo", "delta_hi"))
    pcm = np.cumsum((low | high << 8).view(np.int16), dtype=np.int16)
    ends, digits = found["offsets"], found["digit"]
    if len(ends) != len(digits) + 1 or ends[-1] != len(pcm):
        raise UserError(f"{path}: {len(digits)} digits, but offsets for {len(ends) - 1}")
    names = [str(found["speakers"][i]) for i in found["speaker"]]
    rows = zip(digits.tolist(), names, found["index"].tolist(), strict=True)
    return [Spoken(pcm[ends[i] : ends[i + 1]], *row) for i, row in enumerate(rows)]


def pack(recordings: Sequence[Spoken], path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for each in recordings:
            file = io.BytesIO()
            soundfile.write(file, each.samples, RATE, format="FLAC", subtype="PCM_16")
            archive.writestr(zipfile.ZipInfo(each.file), file.getvalue())
    part.replace(path)


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the set")
    parser.add_argument("--out", type=Path, default=Path("data/fsdd"))
    parser.add_argument("--test-speaker", default="theo")
    args = parser.parse_args(argv)
    needed("soundfile", "FLAC")
    recordings = read(args.folder / NAME)
    speakers = Counter(each.speaker for each in recordings)
    if args.test_speaker not in speakers:
        known = ", ".join(sorted(speakers))
        raise UserError(f"--test-speaker {args.test_speaker}: the speakers are {known}")
    args.out.mkdir(parents=True, exist_ok=True)
    pack(recordings, args.out / "clips.zip")
    rows = [
        {
            "audio": each.file,
            "label": each.digit,
            "speaker": each.speaker,
            "split": "test" if each.speaker == args.test_speaker else "train",
        }
        for each in recordings
    ]
    write(args.out / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for speaker, count in sorted(speakers.items()):
        print(f"{speaker}: {count:,}{' (test)' * (speaker == args.test_speaker)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(run))

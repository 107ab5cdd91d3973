"""GMDCSA24, what people do at home and when, as rows of frames with events; for --config gmdcsa.

python experiments/gmdcsa_events.py ../shared/data/gmdcsa24_video --out data/gmdcsa

Writes data.jsonl: the names of the frames in frames_112.zip, their rate, the events, a caption, and
as split the number of the subject.
"""

import argparse
import json
import sys
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_jax.command import main
from mlm_jax.config import UserError
from mlm_jax.data.rows import read_rows
from mlm_jax.run import write

KEYS = {"video", "subject", "fps", "n_frames", "description", "segments"}
SPELLINGS = {"Fall (FW)": "Falling (FW)"}


def frames_of(path: Path) -> dict[str, list[str]]:
    """The names of the frames of each video, in their order. Raises: UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {error}") from error
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.partition("/")[0]].append(name)
    return found


def row_of(video: dict[str, Any], frames: Sequence[str]) -> dict[str, Any]:
    """Events that are said to go on after the last frame end with it. Raises: UserError."""
    if len(frames) != video["n_frames"]:
        has = f"{len(frames)} frames in the archive, {video['n_frames']} in the row"
        raise UserError(f"{video['video']}: {has}")
    length = len(frames) / video["fps"]
    events = [
        [SPELLINGS.get(label, label), start, min(end, length)]
        for label, start, end in video["segments"]
    ]
    return {
        "video": frames,
        "rate": video["fps"],
        "events": events,
        "captions": video["description"],
        "split": str(video["subject"]),
    }


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the set")
    parser.add_argument("--out", type=Path, default=Path("data/gmdcsa"))
    args = parser.parse_args(argv)
    videos = read_rows(args.folder / "videos.jsonl", KEYS)
    frames = frames_of(args.folder / "frames_112.zip")
    rows = [row_of(video, frames[video["video"]]) for video in videos]
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{args.out}/data.jsonl: {len(rows)} clips, {sum(len(r['events']) for r in rows)} events")
    return 0


if __name__ == "__main__":
    sys.exit(main(run))

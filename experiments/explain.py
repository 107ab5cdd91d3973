"""Show what each word of a caption or an answer hangs on, or measure how good such maps are.

python experiments/explain.py --run runs/vit_tiny --image picture.png --out why.html
python experiments/explain.py --run runs/vit_tiny --image picture.png --question "..."
python experiments/explain.py --run runs/vit_tiny --measure --pictures 200 --json maps.json
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mlm_jax import command
from mlm_jax.config import SENSES, UserError

Method = Literal["attention", "rollout", "relevance", "gradient", "integrated", "occlusion"]
MEASURING = ("pictures", "json")
"""What only --measure reads."""


@dataclass(frozen=True)
class Arguments:
    """Explain the words of a run that captions and answers."""

    run: Path
    """The run directory."""
    image: Path | None = None
    """PNG, JPEG, WebP, BMP or GIF; for models of pictures."""
    video: Path | None = None
    """MP4, WebM, GIF, ...; for models of clips."""
    audio: Path | None = None
    """WAV, FLAC, MP3, Ogg, or a video with sound; for models of sounds."""
    question: str = ""
    """Left out: a caption."""
    method: tuple[Method, ...] = ()
    """Left out: all."""
    out: Path | None = None
    """The page; left out: explained.html or explained_measures.html in the run directory."""
    times: int = 1
    """Make the page so many times, and say how long it takes once all is compiled."""
    measure: bool = False
    """On pictures of the embedded world that were not seen: do maps show what a word speaks of?
    For runs of pictures alone."""
    pictures: int = 200
    """Of the test split, over 16; every other 16 choose how maps are put together, the rest count.
    """
    json: Path | None = None
    """Write the measures there too."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="explain.py", description=__doc__)
    refuse_unread(given)
    # after the command line: a typo is answered at once
    from mlm_jax.explaining.asked import require_multimodal
    from mlm_jax.explaining.methods import METHODS
    from mlm_jax.trained import look, open_trained

    trained = open_trained(given.run)
    require_multimodal(trained)
    methods: Sequence[str] = given.method or tuple(METHODS)
    name = "explained_measures.html" if given.measure else "explained.html"
    out = given.out or given.run / name
    if given.measure:
        return measured(given, trained, methods, out)
    from mlm_jax.explaining.page import explained, page_of
    from mlm_jax.run import write
    from mlm_jax.terminal import printable

    shown = look(trained, {key: p for key in SENSES if (p := getattr(given, key)) is not None})
    taken = []
    for _ in range(given.times):
        begin = time.monotonic()
        found = explained(trained, shown, given.question, methods)
        text = page_of(found)
        taken.append(time.monotonic() - begin)
    write(out, text)
    print(printable(found.text))
    warm = f", then {statistics.median(taken[1:]):.2f} s in the median" if taken[1:] else ""
    print(f"{taken[0]:.1f} s with compiling{warm}; page: {out} ({len(text) >> 10} KiB)")
    return 0


def measured(given: Arguments, trained: object, methods: Sequence[str], out: Path) -> int:
    from mlm_jax.explaining.measures import measure
    from mlm_jax.explaining.page import as_json, measures_page, print_measures
    from mlm_jax.run import write
    from mlm_jax.trained import Trained

    assert isinstance(trained, Trained)
    begin = time.monotonic()
    found = measure(trained, given.pictures, methods=methods)
    if given.json is not None:
        write(given.json, as_json(found))
    write(out, measures_page(found, given.run))
    print_measures(found, given.run)
    print(f"\n{time.monotonic() - begin:.0f} s; page: {out}")
    return 0


def refuse_unread(given: Arguments) -> None:
    """Raises: UserError for what would be passed over in silence, or cannot be written."""
    left_out = Arguments(given.run)
    unread = (*SENSES, "question", "times") if given.measure else MEASURING
    for name in unread:
        if getattr(given, name) != getattr(left_out, name):
            once = f"no --{name} with --measure, which goes through pictures of the test split once"
            raise UserError(once if given.measure else f"--{name} is for --measure alone")
    if not given.measure and all(getattr(given, key) is None for key in SENSES):
        raise UserError("nothing to explain: --image picture.png, or --measure")
    if given.times < 1:
        raise UserError("--times is at least 1")
    for name in ("out", "json"):
        path = getattr(given, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"--{name} {path}: there is no folder {path.parent}")


if __name__ == "__main__":
    sys.exit(command.main(main))

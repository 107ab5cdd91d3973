"""Evaluate a trained run; figures go to the screen, evaluation.json and report.html of the run.

python experiments/evaluate.py --run runs/vit_tiny [--split test|novel] [--json FILE] [--limit N]
python experiments/evaluate.py --run runs/vit_tiny --data mine.jsonl [--images FOLDER]

Captions: --rank. Classes: --views N. Pictures drawn: --features RUN|FILE, --clip RUN --among N.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mlm_jax import command
from mlm_jax.config import UserError


@dataclass(frozen=True)
class Arguments:
    """Evaluate a trained run."""

    run: Path
    """The run directory."""
    split: str = "test"
    """`test` is the run's own data.test; or any split of its data: novel, train[:500]."""
    data: str = ""
    """Other data in place of the run's own, named as by --data.name; `test` is then all of a file
    whose rows tell no split."""
    images: tuple[str, ...] = ()
    """Where the files lie that rows of --data name: folders, .zip, .npz; its own folder if none."""
    limit: int | None = None
    """At most so many pictures, evenly spread over the split."""
    json: Path | None = None
    """Write the figures there too."""
    rank: bool = False
    """Captions: rank all distinct ones of the split for every picture, caption/recall@k. Slow."""
    features: Path | None = None
    """Drawing: a run of CLIP, whose vectors compare with real pictures: FID, KID, CLIP score; or
    Inception-v3 as .safetensors, with the names of torchvision: FID, KID as they are published."""
    clip: Path | None = None
    """Drawing: a run of CLIP; of --among pictures for each caption only the one it finds nearest
    counts."""
    among: int = 1
    """Drawing: pictures for each caption, at least 2, with --clip."""
    guidance: float | None = None
    """Drawing: how much the caption counts, as in generate.py; as are the next three."""
    sampler: Literal["ddpm", "ddim", "dpm++2m", "heun"] | None = None
    """Drawing by diffusion."""
    steps: int | None = None
    """Drawing by diffusion."""
    told: Literal["prior", "text"] | None = None
    """Drawing by DALL-E 2: by the prior's guess, or, without the prior, by CLIP's vector of the
    caption."""
    views: int = 1
    """Classes: average over this many looks, the first as it is, the others augmented as in
    training."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="evaluate.py", description=__doc__)
    if given.json is not None and not given.json.parent.is_dir():
        raise UserError(f"--json {given.json}: there is no folder {given.json.parent}")
    if given.images and not given.data:
        raise UserError("--images needs --data")
    command.keep_memory()
    from mlm_jax import evaluate, report  # after the command line: a typo is answered at once

    begin = time.monotonic()
    figures = evaluate.evaluate(
        given.run,
        given.split,
        limit=given.limit,
        name=given.data,
        images=given.images,
        rank=given.rank,
        views=given.views,
        features=given.features,
        clip=given.clip,
        among=given.among,
        guidance=given.guidance,
        sampler=given.sampler,
        steps=given.steps,
        told=given.told,
    )
    if given.json is not None:
        given.json.write_text(evaluate.as_json(figures))
    split = evaluate.called(given.split, given.data)
    report.print_figures(figures, f"{given.run} on {split}")
    report.print_examples(given.run, split)
    print(f"{time.monotonic() - begin:.1f} s; report: {given.run / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(command.main(main))

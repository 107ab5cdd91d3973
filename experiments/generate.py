"""Describe a picture, or answer a question about it, with a trained run.

python experiments/generate.py --run runs/vit_tiny --image picture.png
python experiments/generate.py --run runs/vit_tiny --image picture.png --question "..."
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from mlm_jax import command


@dataclass(frozen=True)
class Arguments:
    """Describe a picture, or answer a question about it, with a trained run."""

    run: Path
    """The run directory."""
    image: Path
    """PNG, JPEG, WebP, BMP or GIF."""
    question: str = ""
    """Left out: a caption."""
    answers: tuple[str, ...] = ()
    """Choose among these; the probability is then shared out among them."""
    method: Literal["greedy", "sample", "beam"] = "greedy"
    temperature: float = 1.0
    """Sampling: divides the logits."""
    top_k: int = 0
    """Sampling: among this many of the likeliest words; 0 = all."""
    top_p: float = 1.0
    """Sampling: among the likeliest words that have this probability between them."""
    beams: int = 4
    n: int = 1
    """How many texts; more than one needs --method sample or beam."""
    seed: int = 0
    """Sampling."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="generate.py", description=__doc__)
    from mlm_jax import generate  # after the command line: a typo is answered at once

    trained = generate.open_trained(given.run)
    image = generate.read_picture(trained, given.image)
    for text in (given.question, *given.answers):
        words = generate.unknown(trained.tokenizer, text)
        if words:
            print(f"note: {given.run} has never seen: {', '.join(words)}", file=sys.stderr)
    how = generate.How(given.method, given.temperature, given.top_k, given.top_p, given.beams)
    ask = partial(generate.tell, trained, image, given.question, answers=given.answers)
    told = ask(how=how, count=given.n, seed=given.seed)
    for text, probability in told:
        print(f"{text}  ({share(probability)})" if given.question or len(told) > 1 else text)
    return 0


def share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1e}"


if __name__ == "__main__":
    sys.exit(command.main(main))

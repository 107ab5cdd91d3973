"""Put runs side by side: configurations, figures, curves, and what each says to a picture.

python experiments/compare.py runs/a runs/b [...] --out compare.html
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from mlm_jax import command
from mlm_jax.config import UserError


@dataclass(frozen=True)
class Arguments:
    """Put runs side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories; differences are from the first."""
    out: Path = Path("compare.html")
    """The page to write."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="compare.py", description=__doc__)
    if not given.out.parent.is_dir():
        raise UserError(f"--out {given.out}: there is no folder {given.out.parent}")
    from mlm_jax.ablation.comparison import report, sides  # a typo is answered at once
    from mlm_jax.ablation.kinds import statistics
    from mlm_jax.run import write
    from mlm_jax.terminal import printable

    found = sides(given.runs)
    for side in found:
        for problem in side.missing:
            print(printable(f"{side.path}: {problem}"), file=sys.stderr)
    write(given.out, report(found, statistics))
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(command.main(main))

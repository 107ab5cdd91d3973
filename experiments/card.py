"""Write the model card of a run, card.md, from what its directory holds.

python experiments/card.py --run runs/dalle_tiny
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from mlm_jax import command


@dataclass(frozen=True)
class Arguments:
    """Write the model card of a run."""

    run: Path
    """The run directory."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="card.py", description=__doc__)
    from mlm_jax.card import write_card  # after the command line: a typo is answered at once

    print(write_card(given.run))
    return 0


if __name__ == "__main__":
    sys.exit(command.main(main))

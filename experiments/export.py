"""Write a trained run as a published checkpoint, which the reference implementation loads.

python experiments/export.py --run runs/bert_tiny --out exported/
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from mlm_jax import command


@dataclass(frozen=True)
class Arguments:
    """Write a trained run as a published checkpoint."""

    run: Path
    """The run directory."""
    out: Path
    """A folder that does not exist yet."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="export.py", description=__doc__)
    from mlm_jax.export import export  # after the command line: a typo is answered at once

    kind, count = export(given.run, given.out)
    print(f"{given.out}: {kind}, {count:,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(command.main(main))

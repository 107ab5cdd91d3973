"""One part in a process of its own: python -m experiments.benchmarks.child PART SETTING ROWS.

ROWS is the file that its rows are written to, one JSON object a line, as soon as each is known.
"""

import json
import sys
from pathlib import Path

from experiments.benchmarks.lean import stand_in
from experiments.benchmarks.parts import PARTS, Rows
from experiments.benchmarks.setting import from_text, load, machine, pin


def main(name: str, setting: str, rows: str) -> None:
    """`name` is a part, or "machine", whose row says what this runs on."""
    given = from_text(setting)
    pin(given.threads)
    stand_in()
    from mlm_jax.command import convolve_by_eigen, keep_memory

    convolve_by_eigen()
    keep_memory()  # as train.py does; torch takes its memory from the same place
    found: Rows = iter([machine()]) if name == "machine" else PARTS[name].run(given)
    with Path(rows).open("w", encoding="utf-8") as out:
        for row in found:
            out.write(json.dumps(row | {"load": round(load(), 2)}) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

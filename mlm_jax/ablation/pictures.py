"""What was counted for each test picture: what pairs runs by picture.

A run directory may hold counts.json beside evaluation.json (of another split counts_novel.json):
{"source": ["world", "test"], "pictures": [0, 1, ...], "columns": {"right": [3, 2, ...], ...}}: the
data and the split, the places of the pictures in it, and a number for each in each column.
`mlm_jax.metrics` makes figures of the sums of columns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mlm_jax.config import UserError
from mlm_jax.report import saved_name
from mlm_jax.run import write

MOST_BYTES = 1 << 28
Source = tuple[str, str]
"""data.name and the split; None of files that were written before it was kept."""


@dataclass(frozen=True)
class Counts:
    """Columns by name, each with a number for each of `pictures` (their places in the split)."""

    pictures: tuple[int, ...]
    columns: Mapping[str, Float[np.ndarray, " N"]]
    source: Source | None = None

    def of(self, pictures: Sequence[int]) -> "Counts":
        """The same of some of the pictures, in their order. Raises: KeyError."""
        place = {picture: i for i, picture in enumerate(self.pictures)}
        rows = [place[picture] for picture in pictures]
        return Counts(tuple(pictures), {k: v[rows] for k, v in self.columns.items()}, self.source)


def save(
    run: Path,
    split: str,
    pictures: Sequence[int],
    counts: Sequence[Mapping[str, float]],
    source: Source | None = None,
) -> None:
    """`counts`: what was counted for each of `pictures`, by column; what is missing is 0.

    `split` is what was asked for, "test" for whatever the run's own is; `source` says which.
    """
    names = sorted({name for each in counts for name in each})
    columns = {name: [each.get(name, 0.0) for each in counts] for name in names}
    tree = {"source": source, "pictures": list(pictures), "columns": columns}
    write(run / saved_name("counts", split), json.dumps(tree))


def load(run: Path, split: str) -> Counts | None:
    """None where the run holds none. Raises: UserError for a damaged file."""
    path = run / saved_name("counts", split)
    if not path.exists():
        return None
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} is over {MOST_BYTES >> 20} MiB, the most accepted")
    try:
        tree = json.loads(path.read_text())
        pictures = tuple(int(each) for each in tree["pictures"])
        columns = {str(k): np.array(v, np.float64) for k, v in tree["columns"].items()}
        data, part = tree.get("source") or ("", "")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    whole = all(v.shape == (len(pictures),) and np.isfinite(v).all() for v in columns.values())
    if not columns or not whole or len(set(pictures)) != len(pictures):
        raise UserError(f"{path} is damaged: each column needs a number for each picture")
    return Counts(pictures, columns, (str(data), str(part)) if data else None)


def common(counts: Sequence[Counts]) -> list[Counts] | None:
    """The same of the pictures that all have; None where these are under two, or of other data."""
    shared = set(counts[0].pictures).intersection(*(each.pictures for each in counts))
    if len(shared) < 2 or len({each.source for each in counts}) > 1:
        return None
    return [each.of(sorted(shared)) for each in counts]

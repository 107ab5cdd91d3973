"""SHAPES asked more: many questions for each picture, answered from the grid it was drawn from.

python experiments/shapes_questions.py ../shared/data/shapes --out data/shapes

Writes train_small, train_large_regen and val with a list of questions and of answers in each row.
Train is asked its own question and others of the same grammar, and what stands beside a shape. Val
stays as it is and none of its questions is asked of train, though its converses are ("a square
below a circle" for "a circle above a square"), as the set itself does.
"""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.command import main
from mlm_jax.config import UserError
from mlm_jax.data.rows import read_rows
from mlm_jax.run import write

TRAIN, VAL = ("train_small", "train_large_regen"), "val"
# word -> which letter of a cell says so, and how
KINDS = {
    "red": (0, "r"), "green": (0, "g"), "blue": (0, "b"),
    "circle": (1, "c"), "square": (1, "s"), "triangle": (1, "t"),
}  # fmt: skip
# rows and columns from a cell to the one that is left (right, ...) of it
STEPS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}

Grid = Sequence[str]  # 9 cells row by row: colour and shape, "__" where nothing stands


def cells(row: dict[str, Any]) -> Grid:
    letters = row["grid"]
    return [letters[i : i + 2] for i in range(0, 18, 2)]


def answer(question: str, grid: Grid) -> str:
    """yes where some cell is of the first kind and related, step by step, to one of the last.

    "is a red shape left of above a square": some red cell's right neighbour is above a square.
    """
    first, *chain, last = [w for w in question.split() if w in KINDS or w in STEPS]
    found = _of_kind(last, grid)
    for relation in reversed(chain):
        down, right = STEPS[relation]
        grown = np.pad(found, 1)
        found = grown[1 - down : 4 - down, 1 - right : 4 - right]
    return "yes" if (found & _of_kind(first, grid)).any() else "no"


def _of_kind(word: str, grid: Grid) -> np.ndarray:
    place, letter = KINDS[word]
    return np.array([cell[place] == letter for cell in grid]).reshape(3, 3)


def grammar() -> Iterator[tuple[int, str]]:
    """Every question with at most two relations, and how many it has."""
    for first, last in itertools.product(KINDS, repeat=2):
        yield 0, f"is {_a(first)} {last if KINDS[last][0] == 0 else _a(last)}"
        for length in (1, 2):
            for chain in itertools.product(STEPS, repeat=length):
                relations = " ".join(map(_relation, chain))
                yield length, f"is {_a(first)} {relations} {_a(last)}"


def _a(word: str) -> str:
    return f"a {word} shape" if KINDS[word][0] == 0 else f"a {word}"


def _relation(word: str) -> str:
    return f"{word} of" if word in ("left", "right") else word


def besides(grid: Grid) -> list[tuple[str, str]]:
    """What stands beside each thing that is there once: questions with their answers."""
    words = {letter: word for word, (_, letter) in KINDS.items()}

    def name(cell: str) -> str:
        return "nothing" if cell == "__" else f"{words[cell[0]]} {words[cell[1]]}"

    asked = []
    for place, cell in enumerate(grid):
        if cell == "__" or grid.count(cell) > 1:
            continue
        for relation, (down, right) in STEPS.items():
            row, column = place // 3 + down, place % 3 + right
            if 0 <= row < 3 and 0 <= column < 3:
                text = f"what is {_relation(relation)} the {name(cell)}"
                asked.append((text, name(grid[3 * row + column])))
    return asked


def ask(
    own: tuple[str, str],
    grid: Grid,
    by_length: Sequence[Sequence[str]],
    n: int,
    dice: random.Random,
) -> list[tuple[str, str]]:
    """Its `own`, `n` more, half of them with yes for an answer if the grid allows, `n` besides."""
    asked = dict([own])
    for i in range(n):
        wanted = ("yes", "no")[i % 2]
        for _ in range(20):
            text = dice.choice(dice.choice(by_length))
            if text not in asked and answer(text, grid) == wanted:
                asked[text] = wanted
                break
    more = besides(grid)
    return list(asked.items()) + dice.sample(more, min(n, len(more)))


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split, row n of picture n: a broken one is an error. Raises: DataError."""
    return read_rows(folder / f"{split}.jsonl", {"question", "answer", "grid"})


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the set")
    parser.add_argument("--out", type=Path, default=Path("data/shapes"))
    parser.add_argument("--questions", type=int, default=8, help="of each sort for a picture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.out.resolve() == args.folder.resolve():
        raise UserError(f"--out {args.out}: the set itself stands there; name another folder")
    args.out.mkdir(parents=True, exist_ok=True)
    dice = random.Random(args.seed)
    val = read(args.folder, VAL)
    held_out = {row["question"] for row in val}
    by_length = [
        [text for length, text in grammar() if length == wanted and text not in held_out]
        for wanted in range(3)
    ]
    for split in (*TRAIN, VAL):
        rows = val if split == VAL else read(args.folder, split)
        n = 0 if split == VAL else args.questions
        lines = []
        for row in rows:
            own = row["question"], row["answer"]
            texts, answers = zip(*ask(own, cells(row), by_length, n, dice), strict=True)
            lines.append(json.dumps({"question": texts, "answer": answers}) + "\n")
        write(args.out / f"{split}.jsonl", "".join(lines))
        print(f"{args.out / split}.jsonl: {len(rows):,} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main(run))

"""NLVR asked more: of each picture of train what stands where, how many, and more of its sentences.

python -m experiments.nlvr_questions ../shared/data/nlvr --out data/nlvr

Sentences of train come with their meaning, an expression over the boxes of a picture (lilGym, Wu
et al. 2023). Run on other pictures it says whether the sentence is true of them, so that each is
asked of up to --pictures of which it is true and as many of which it is not: words alone tell
nothing. A sentence is used only where its meaning gives every label that the set has for it.
Dev stays as it is.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.nlvr_meaning import (
    Box,
    Color,
    Item,
    Meaning,
    Picture,
    Shape,
    kind,
    meaning,
    touches_wall,
)
from mlm_jax.command import main
from mlm_jax.config import UserError
from mlm_jax.data.rows import read_rows
from mlm_jax.run import write

PLACES = ("left", "middle", "right")


def describe(picture: Picture) -> str:
    """What stands where: the blocks of a tower from the ground up, else by colour and shape."""
    words = []
    for place, box in zip(PLACES, picture, strict=True):
        words.append(place)
        if box.is_tower():
            words += ["tower", *(item.color for item in sorted(box, key=lambda i: -i.y))]
            continue
        for item in sorted(box, key=lambda i: (i.color, i.shape, -i.y)):
            words += [item.color, item.shape] + ["touching"] * touches_wall(item)
    return " ".join(words)


def numbers(picture: Picture, n: int, dice: random.Random) -> dict[str, str]:
    """Up to `n` questions about a picture and their answers: how many, and colours of towers."""
    asked: dict[str, str] = {}
    for _ in range(20 * n):
        tower = kind(picture) == "tower" and dice.random() < 0.5
        text, answer = (_color if tower else _number)(picture, dice)
        if answer not in ("0", "none") or dice.random() < 0.5:
            asked[text] = answer
        if len(asked) == n:
            break
    return asked


def _color(picture: Picture, dice: random.Random) -> tuple[str, str]:
    place = dice.randrange(3)
    colors = [item.color for item in sorted(picture[place], key=lambda i: -i.y)]
    blocks = dict(zip(("first", "second", "third", "fourth"), colors, strict=False))
    blocks |= {"bottom": colors[0], "top": colors[-1]}
    which = dice.choice(["bottom", "top", "first", "second", "third", "fourth"])
    text = f"what color is the {which} block of the {PLACES[place]} tower"
    return text, blocks.get(which, "none")


def _number(picture: Picture, dice: random.Random) -> tuple[str, str]:
    tower = kind(picture) == "tower"
    color = dice.choice([None, *Color])
    shape = None if tower else dice.choice([None, *Shape])
    name = " ".join(filter(None, (color, shape or ("block" if tower else "item"))))
    place = dice.randrange(3)

    def named(box: Box) -> list[Item]:
        return [i for i in box if color in (None, i.color) and shape in (None, i.shape)]

    here, where = named(picture[place]), f"in the {PLACES[place]} box"
    answers = {
        f"how many {name}s are {where}": len(here),
        f"how many {name}s are touching the wall {where}": sum(map(touches_wall, here)),
        f"how many boxes have a {name}": sum(bool(named(box)) for box in picture),
        f"how many {name}s are there": sum(len(named(box)) for box in picture),
    }
    (text,) = dice.choices(list(answers), [4, 1, 1, 1])
    return text, str(answers[text])


def sentences(
    rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, Picture]
) -> dict[str, tuple[str, Meaning]]:
    """Sentence -> the kind of its pictures, and its meaning; those with all their labels right."""
    found: dict[str, tuple[str, Meaning]] = {}
    wrong = set()
    for row in rows:
        picture, text = pictures[row["image"]], row["sentence"]
        holds = meaning(row.get("lf") or "")
        if holds is None or holds(picture) is not row["label"]:
            wrong.add(text)
        else:
            found[text] = kind(picture), holds
    return {text: each for text, each in found.items() if text not in wrong}


def pairs(
    holds: Meaning, pictures: Mapping[str, Picture], n: int, dice: random.Random
) -> Iterator[tuple[str, bool]]:
    """Up to `n` of the pictures of which a sentence is true, and as many of which it is not."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in dice.sample(list(pictures), len(pictures)):
        truth = holds(pictures[name])
        if truth is not None and len(found[truth]) < n:
            found[truth].append(name)
        if all(len(names) == n for names in found.values()):
            break
    for true, false in zip(found[True], found[False], strict=False):
        yield true, True
        yield false, False


def ask(
    train: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Picture],
    n: int,
    dice: random.Random,
) -> dict[str, dict[str, bool]]:
    """Picture -> the sentences asked of it, and whether they are true."""
    of_kind: dict[str, dict[str, Picture]] = {"tower": {}, "scatter": {}}
    for name, picture in pictures.items():
        of_kind[kind(picture)][name] = picture
    asked: dict[str, dict[str, bool]] = {name: {} for name in pictures}
    for text, (sort, holds) in sentences(train, pictures).items():
        for name, truth in pairs(holds, of_kind[sort], n, dice):
            asked[name][text] = truth
    return asked


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the set")
    parser.add_argument("--out", type=Path, default=Path("data/nlvr"))
    parser.add_argument(
        "--pictures", type=int, default=25, help="of which a sentence is true, and not"
    )
    parser.add_argument("--counts", type=int, default=6, help="more questions of each picture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.out.resolve() == args.folder.resolve():
        raise UserError(f"--out {args.out}: the set itself stands there; name another folder")
    told = {"image", "sentence", "label"}
    dev = read_rows(args.folder / "dev.jsonl", told)
    train = [
        row
        for name in ("train_presented", "train_lf_pairs")
        for row in read_rows(args.folder / f"{name}.jsonl", told)
    ]
    boxes = read_rows(args.folder / "train_boxes.jsonl", {"image", "boxes"})
    pictures = {row["image"]: [Box(box) for box in row["boxes"]] for row in boxes}
    unknown = {row["image"] for row in train} - pictures.keys()
    if unknown:
        raise UserError(f"{args.folder}/train_boxes.jsonl: no row of the picture {min(unknown)}")
    dice = random.Random(args.seed)
    asked = ask(train, pictures, args.pictures, dice)
    rows = []
    for name, picture in pictures.items():
        answers = {text: str(truth).lower() for text, truth in asked[name].items()}
        answers |= numbers(picture, args.counts, dice)
        texts = {"sentence": list(answers), "label": list(answers.values())}
        rows.append({"image": name, "captions": describe(picture), **texts})
    args.out.mkdir(parents=True, exist_ok=True)
    for split, split_rows in (
        ("train", rows),
        ("dev", [{key: row[key] for key in sorted(told)} for row in dev]),
    ):
        text = "".join(json.dumps(row) + "\n" for row in split_rows)
        write(args.out / f"{split}.jsonl", text)
        print(f"{args.out}/{split}.jsonl: {len(split_rows):,} rows")
    used = {text for texts in asked.values() for text in texts}
    every = {row["sentence"] for row in train}
    print(f"{len(used):,} of {len(every):,} sentences, {sum(map(len, asked.values())):,} times")
    return 0


if __name__ == "__main__":
    sys.exit(main(run))

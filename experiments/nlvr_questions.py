"""NLVR asked more: of each picture of train what stands where, how many, and more of its sentences.

python experiments/nlvr_questions.py ../shared/data/nlvr --out data/nlvr

Sentences of train come with their meaning, an expression over the boxes of a picture (lilGym, Wu
et al. 2023). Run on other pictures it says whether the sentence is true of them, so that each is
asked of up to --pictures of which it is true and as many of which it is not: words alone tell
nothing. A sentence is used only where its meaning gives every label that the set has for it.
Dev stays as it is.
"""

import argparse
import ast
import json
import operator
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Any

from mlm_jax.command import main
from mlm_jax.config import UserError
from mlm_jax.data.rows import read_rows
from mlm_jax.run import write

SIDE = 100  # pixels of a box; an item of 20 at y = 80 stands on its ground
PLACES = ("left", "middle", "right")
CLOSE = 4  # pixels from a wall or corner at which an item still touches it "closely"
GAP = 1  # pixels between blocks that are stacked


# --- pictures ---


@dataclass(eq=False)
class Item:
    box: "Box"
    x: int
    y: int
    size: int
    shape: str
    color: str


class Box(list[Item]):
    """The items of one of the three grey boxes of a picture."""

    def __init__(self, items: Sequence[Sequence[Any]]):
        super().__init__(Item(self, *item) for item in items)

    def all_items_in_box(self) -> "Box":
        return self

    def is_tower(self) -> bool:
        on_ground = any(item.y + item.size == SIDE for item in self)
        blocks = all((item.shape, item.size) == ("square", 20) for item in self)
        return on_ground and blocks and len({item.x for item in self}) == 1


Picture = Sequence[Box]
Meaning = Callable[[Picture], bool | None]


def kind(picture: Picture) -> str:
    return "tower" if all(box.is_tower() for box in picture) else "scatter"


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


def count(picture: Picture, n: int, dice: random.Random) -> dict[str, str]:
    """`n` questions about a picture with their answers: how many, and the colours of towers."""
    asked: dict[str, str] = {}
    while len(asked) < n:
        text, answer = (_color if _tower(picture, dice) else _number)(picture, dice)
        if answer not in ("0", "none") or dice.random() < 0.5:
            asked[text] = answer
    return asked


def _tower(picture: Picture, dice: random.Random) -> bool:
    return kind(picture) == "tower" and dice.random() < 0.5


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
    numbers = {
        f"how many {name}s are {where}": len(here),
        f"how many {name}s are touching the wall {where}": sum(map(touches_wall, here)),
        f"how many boxes have a {name}": sum(bool(named(box)) for box in picture),
        f"how many {name}s are there": sum(len(named(box)) for box in picture),
    }
    (text,) = dice.choices(list(numbers), [4, 1, 1, 1])
    return text, str(numbers[text])


# --- the words of meanings ---


class Color(StrEnum):
    BLACK = auto()
    BLUE = auto()
    YELLOW = auto()


class Shape(StrEnum):
    CIRCLE = auto()
    SQUARE = auto()
    TRIANGLE = auto()


class Side(StrEnum):
    ANY = auto()
    BOTTOM = auto()
    LEFT = auto()
    RIGHT = auto()
    TOP = auto()


def walls(item: Item, within: int) -> set[str]:
    far = SIDE - item.size
    gaps = {
        Side.LEFT: item.x, Side.RIGHT: far - item.x, Side.TOP: item.y, Side.BOTTOM: far - item.y,
    }  # fmt: skip
    return {side for side, gap in gaps.items() if gap <= within}


def touches_wall(item: Item, side: str = Side.ANY, within: int = 0) -> bool:
    near = walls(item, within)
    return bool(near) if side == Side.ANY else side in near


def touches_corner(item: Item, side: str = Side.ANY, within: int = 0) -> bool:
    near = walls(item, within)
    corner = bool(near & {Side.LEFT, Side.RIGHT}) and bool(near & {Side.TOP, Side.BOTTOM})
    return corner and (side == Side.ANY or side in near)


def touch(a: Item, b: Item) -> bool:
    right = max(b.x - a.x - a.size, a.x - b.x - b.size)
    down = max(b.y - a.y - a.size, a.y - b.y - b.size)
    return max(right, down) <= GAP


def above(item: Item) -> list[Item]:
    """All higher ones; in a tower the next block."""
    higher = [other for other in item.box if other.y < item.y]
    return [o for o in higher if touch(item, o)] if item.box.is_tower() else higher


def below(item: Item) -> list[Item]:
    lower = [other for other in item.box if other.y > item.y]
    return [o for o in lower if touch(item, o)] if item.box.is_tower() else lower


def level(item: Item) -> int:
    """0 for the lowest of its box, 1 for the next."""
    return sorted(item.box, key=lambda i: -i.y).index(item)


def only(items: Sequence[Item]) -> Item:
    (item,) = items
    return item


def alike(trait: str) -> Callable[[Sequence[Item]], bool]:
    return lambda items: len({getattr(item, trait) for item in items}) <= 1


def has(trait: str, value: Any) -> Callable[[Item], bool]:
    return lambda item: getattr(item, trait) == value


WORDS: Mapping[str, Any] = {
    **{f"is_{color}": has("color", color) for color in Color},
    **{f"is_{shape}": has("shape", shape) for shape in Shape},
    "is_small": has("size", 10), "is_medium": has("size", 20), "is_big": has("size", 30),
    "is_bottom": lambda item: level(item) == 0,
    "is_second": lambda item: level(item) == 1,
    "is_third": lambda item: level(item) == 2,
    "is_top": lambda item: level(item) == len(item.box) - 1,
    "is_touching_wall": touches_wall,
    "is_touching_corner": touches_corner,
    "is_closely_touching_wall": lambda item, side=Side.ANY: touches_wall(item, side, CLOSE),
    "is_closely_touching_corner": lambda item, side=Side.ANY: touches_corner(item, side, CLOSE),
    "get_above": above, "get_below": below,
    "get_box_all_above": lambda item: [other for other in item.box if other.y < item.y],
    "get_box_all_below": lambda item: [other for other in item.box if other.y > item.y],
    "get_touching": lambda item: [o for o in item.box if o is not item and touch(o, item)],
    "get_set_colors": lambda items: {item.color for item in items},
    "get_set_shapes": lambda items: {item.shape for item in items},
    "query_color": lambda item: item.color, "query_shape": lambda item: item.shape,
    "filter_obj": lambda items, test: [item for item in items if test(item)],
    "filter_color": lambda items, color: [item for item in items if item.color == color],
    "filter_shape": lambda items, shape: [item for item in items if item.shape == shape],
    "all_same_color": alike("color"), "all_same_shape": alike("shape"),
    "unique": only, "count": len, "exist": bool, "set": set,
    "equal_color": operator.eq, "equal_shape": operator.eq,
    "member_of": lambda one, many: one in many, "contained": lambda few, many: few <= many,
    "ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt,
    "AND": lambda *values: all(values), "OR": lambda *values: any(values), "NOT": operator.not_,
    "All": lambda items, test: all(map(test, items)),
    "Any": lambda items, test: any(map(test, items)),
    "Color": Color, "Shape": Shape, "Side": Side,
}  # fmt: skip
GIVEN = ("all_boxes", "all_items")
ATTRIBUTES = {"all_items_in_box", "is_tower", "box", *Color.__members__, *Shape.__members__,
              *Side.__members__}  # fmt: skip
SYNTAX = (
    ast.Expression, ast.Call, ast.Lambda, ast.arguments, ast.arg, ast.Name, ast.Load, ast.Constant,
    ast.Attribute, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.Not, ast.Set,
    ast.List,
)  # fmt: skip


def meaning(expression: str) -> Meaning | None:
    """Whether a picture is as the expression says, None where that has no answer ("the item" of
    two); None for an expression with a word that is not in WORDS.

    Nothing but WORDS can be called: syntax, names and attributes are checked before it is run.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        return None
    nodes = list(ast.walk(tree))
    names = {*WORDS, *GIVEN, *(node.arg for node in nodes if isinstance(node, ast.arg))}
    for node in nodes:
        known = isinstance(node, SYNTAX)
        known &= not isinstance(node, ast.Name) or node.id in names
        known &= not isinstance(node, ast.Attribute) or node.attr in ATTRIBUTES
        if not known:
            return None
    code = compile(tree, "meaning", "eval")

    def holds(picture: Picture) -> bool | None:
        items = [item for box in picture for item in box]
        scope = {**WORDS, "all_boxes": picture, "all_items": items, "__builtins__": {}}
        try:
            return bool(eval(code, scope))
        except (AttributeError, TypeError, ValueError):
            return None

    return holds


# --- what is asked ---


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
    alike: dict[str, dict[str, Picture]] = {"tower": {}, "scatter": {}}
    for name, picture in pictures.items():
        alike[kind(picture)][name] = picture
    asked: dict[str, dict[str, bool]] = {name: {} for name in pictures}
    for text, (sort, holds) in sentences(train, pictures).items():
        for name, truth in pairs(holds, alike[sort], n, dice):
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
    dev = read_rows(args.folder / "dev.jsonl.gz", told)
    train = [
        row
        for name in ("train_presented", "train_lf_pairs")
        for row in read_rows(args.folder / f"{name}.jsonl.gz", told)
    ]
    boxes = read_rows(args.folder / "train_boxes.jsonl.gz", {"image", "boxes"})
    pictures = {row["image"]: [Box(box) for box in row["boxes"]] for row in boxes}
    dice = random.Random(args.seed)
    asked = ask(train, pictures, args.pictures, dice)
    rows = []
    for name, picture in pictures.items():
        answers = {text: str(truth).lower() for text, truth in asked[name].items()}
        answers |= count(picture, args.counts, dice)
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

"""The meanings of NLVR sentences: expressions over the boxes of a picture (lilGym, Wu et al. 2023).

"count(filter_obj(all_items, lambda x: is_blue(x) and is_top(x))) == 1". The words are those that
most sentences need; what each says was fitted to the labels that the set gives.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any

SIDE = 100  # pixels of a box; an item of 20 at y = 80 stands on its ground
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


def higher(item: Item) -> list[Item]:
    return [other for other in item.box if other.y < item.y]


def lower(item: Item) -> list[Item]:
    return [other for other in item.box if other.y > item.y]


def next_of(side: Callable[[Item], list[Item]]) -> Callable[[Item], list[Item]]:
    """All on that side; in a tower the next block alone."""
    return lambda item: [o for o in side(item) if not item.box.is_tower() or touch(item, o)]


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
    "get_above": next_of(higher), "get_below": next_of(lower),
    "get_box_all_above": higher, "get_box_all_below": lower,
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

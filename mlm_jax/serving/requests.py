"""What a client may send, read from JSON with limits; anything else is refused with a reason."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

from mlm_jax.config import SENSES
from mlm_jax.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, Background, Object, Scene

Method = Literal["greedy", "sample"]
Tone = Literal["light", "grey", "dark"]
TONES: dict[str, tuple[int, int]] = {"light": (232, 200), "grey": (128, 96), "dark": (30, 62)}
"""The two levels that a background is mixed of."""
MAX_SEED = 2**32 - 1
TEMPERATURES = (0.05, 10.0)
TOP_P = (0.01, 1.0)

Tree = Mapping[str, Any]


class Refused(Exception):  # noqa: N818
    """A request that is not answered: the HTTP status, why, and after how many seconds to retry."""

    def __init__(self, status: int, why: str, *, after: int | None = None):
        super().__init__(why)
        self.status, self.why, self.after = status, why, after


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and all of them together."""

    body: int = 8 << 20
    """Bytes of a request."""
    characters: int = 500
    """Of a question or a prompt."""
    objects: int = 8
    """In a scene."""
    pictures: int = 8
    """Drawn for one prompt."""
    pixels: int = 32_000_000
    """Of a picture."""
    frames: int = 10_000
    """Of a clip. What takes longer than `seconds` is not answered, but decoded all the same."""
    seconds: float = 30.0
    """Until a request is given up: for its body, for its answer, and for this to be taken."""
    inside: int = 64
    """Requests that are read, wait or are answered at a time."""


@dataclass(frozen=True)
class Settings:
    """How words are chosen; `words` is the most that are written, 0 for the run's own length."""

    method: Method = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    words: int = 0


@dataclass(frozen=True)
class Ask:
    """What is shown, as encoded files by "image", "video" and "audio" or as a scene; no question:
    a caption is wanted."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    scene: Scene | None = None
    question: str = ""
    maps: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Draw:
    prompt: str
    count: int = 1
    seed: int = 0


# --- the three bodies ---


def parse_ask(body: bytes, limits: Limits) -> Ask:
    """Raises: Refused."""
    tree = known(read_json(body), "", (*SENSES, "scene", "question", "maps", "settings"))
    files = {key: file_of(tree, key) for key in SENSES if key in tree}
    scene = scene_of(tree["scene"], limits) if "scene" in tree else None
    if scene is not None and files:
        refuse(f"scene: either a scene or {' and '.join(files)}, not both")
    return Ask(
        files,
        scene,
        text_of(tree, "question", limits.characters),
        flag_of(tree, "maps"),
        settings_of(tree.get("settings", {})),
    )


def parse_scene(body: bytes, limits: Limits) -> tuple[Scene, int]:
    """A scene, and how many pixels its side is to have. Raises: Refused."""
    tree = known(read_json(body), "", ("scene", "size"))
    if "scene" not in tree:
        refuse("scene: missing")
    return scene_of(tree["scene"], limits), whole_of(tree, "size", (32, 512), 256)


def parse_draw(body: bytes, limits: Limits) -> Draw:
    """Raises: Refused."""
    tree = known(read_json(body), "", ("prompt", "n", "seed"))
    prompt = text_of(tree, "prompt", limits.characters)
    if not prompt:
        refuse("prompt: missing; it says what is to be seen")
    count = whole_of(tree, "n", (1, limits.pictures), 1)
    return Draw(prompt, count, whole_of(tree, "seed", (0, MAX_SEED), 0))


# --- their parts ---


def scene_of(tree: Any, limits: Limits) -> Scene:
    """{"objects": [{shape, colour, size, x, y}], "background": kind, "tone": light}"""
    tree = known(tree, "scene", ("objects", "background", "tone"))
    things = tree.get("objects")
    if not isinstance(things, list) or not 1 <= len(things) <= limits.objects:
        refuse(f"scene.objects: a list of 1 to {limits.objects} objects is wanted")
    objects = tuple(object_of(thing, f"scene.objects[{i}]") for i, thing in enumerate(things))
    kind = choice_of(tree, "background", BACKGROUNDS, "plain", "scene.")
    first, second = TONES[choice_of(tree, "tone", get_args(Tone), "light", "scene.")]
    return Scene(objects, Background(kind, (first,) * 3, (second,) * 3, 0.6, 0.2, 1))


def object_of(tree: Any, where: str) -> Object:
    tree = known(tree, where, ("shape", "colour", "size", "x", "y"))
    for key in ("shape", "colour", "x", "y"):
        if key not in tree:
            refuse(f"{where}.{key}: missing")
    size = choice_of(tree, "size", tuple(SIZES), "large", f"{where}.")
    return Object(
        choice_of(tree, "shape", SHAPES, "", f"{where}."),
        choice_of(tree, "colour", tuple(COLOURS), "", f"{where}."),
        size,
        number_of(tree, "x", (0.0, 1.0), 0.5, f"{where}."),
        number_of(tree, "y", (0.0, 1.0), 0.5, f"{where}."),
        sum(SIZES[size]) / 2,
    )


def settings_of(tree: Any) -> Settings:
    tree, plain = known(tree, "settings", tuple(Settings.__dataclass_fields__)), Settings()
    return Settings(
        choice_of(tree, "method", get_args(Method), plain.method, "settings."),
        number_of(tree, "temperature", TEMPERATURES, plain.temperature, "settings."),
        number_of(tree, "top_p", TOP_P, plain.top_p, "settings."),
        whole_of(tree, "seed", (0, MAX_SEED), plain.seed, "settings."),
        whole_of(tree, "words", (0, 100_000), plain.words, "settings."),
    )


def file_of(tree: Tree, key: str) -> bytes:
    """An encoded file in base64: never a path, never an address."""
    text = tree[key]
    if not isinstance(text, str) or not text:
        refuse(f"{key}: the base64 of a file is wanted")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        refuse(f"{key}: not base64; wanted are a file's own bytes, no path and no address")


# --- JSON, with a type for every value ---


def read_json(body: bytes) -> Any:
    """Raises: Refused, also for what Python would let pass: NaN, deep nesting."""
    try:
        return json.loads(body.decode(), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {str(error)[:100]}") from error


def no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def known(tree: Any, where: str, keys: Sequence[str]) -> Tree:
    place = f"{where}: " if where else ""
    if not isinstance(tree, dict):
        refuse(f"{place}an object is wanted")
    for key in tree:
        if key not in keys:
            refuse(f"{place}{key[:40]!r} is not known; there are {', '.join(keys)}")
    return tree


def text_of(tree: Tree, key: str, most: int) -> str:
    """Without the blanks around it; "" where there is none."""
    text = tree.get(key, "")
    if not isinstance(text, str):
        refuse(f"{key}: a text is wanted")
    if len(text) > most:
        refuse(f"{key}: {len(text)} characters; at most {most} are read")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        refuse(f"{key}: half a character (a lone surrogate)")
    return text.strip()


def flag_of(tree: Tree, key: str) -> bool:
    flag = tree.get(key, False)
    if not isinstance(flag, bool):
        refuse(f"{key}: true or false")
    return flag


def choice_of(tree: Tree, key: str, among: Sequence[str], default: str, where: str = "") -> Any:
    value = tree.get(key, default)
    if value not in among:
        refuse(f"{where}{key}: one of {', '.join(among)}")
    return value


def number_of(
    tree: Tree, key: str, span: tuple[float, float], default: float, where: str = ""
) -> float:
    value = tree.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(f"{where}{key}: a number is wanted")
    if not span[0] <= value <= span[1]:
        refuse(f"{where}{key}: from {span[0]:g} to {span[1]:g}")
    return float(value)


def whole_of(tree: Tree, key: str, span: tuple[int, int], default: int, where: str = "") -> int:
    value = tree.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(f"{where}{key}: a whole number is wanted")
    if not span[0] <= value <= span[1]:
        refuse(f"{where}{key}: from {span[0]} to {span[1]}")
    return value


def refuse(why: str) -> NoReturn:
    raise Refused(400, why)

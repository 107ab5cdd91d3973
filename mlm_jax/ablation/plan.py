"""What an ablation compares: variants of one experiment by the keys of the command line.

An ablation is a file that exports `ablation`, an `Ablation`; those of the project are in
`experiments/ablations`. Everything is checked before anything runs.
"""

import ast
import hashlib
import importlib
import importlib.util
import io
import itertools
import math
import random
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mlm_jax import config as configs
from mlm_jax.checks import check
from mlm_jax.config import Config, UserError, flat, override, suggest, to_json
from mlm_jax.run import FREE, differences

Value = str | int | float | bool | tuple[Any, ...]
Overrides = Mapping[str, Value]
Budget = Literal["steps", "examples", "flops", "time"]
LONGEST = 100
"""Characters of the name of a folder."""
TRIES = 100
"""For each draw, to find one that was not drawn before."""
BEST = ("keep_best", "eval_every", "eval_examples", "save_every")
"""Keys that say which checkpoint is evaluated, where a run keeps the best."""


@dataclass(frozen=True)
class Variant:
    """One row of the table: what it changes, by dotted key (`model.fusion.kind`)."""

    name: str
    overrides: Overrides = field(default_factory=dict)
    config: str = ""
    """Another experiment than the ablation's, where keys cannot say it; empty: the same."""


@dataclass(frozen=True)
class Grid:
    """Every combination of some values of some keys."""

    values: Mapping[str, Sequence[Value]]

    def variants(self) -> tuple[Variant, ...]:
        combinations = itertools.product(*self.values.values())
        found = [dict(zip(self.values, chosen, strict=True)) for chosen in combinations]
        return tuple(Variant(spelled(each), each) for each in found)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, drawn evenly, or evenly in their logarithm; or `whole` ones."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, dice: random.Random) -> float | int:
        """Raises: UserError for a range that is none."""
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(f"{self}: low must be under high, and over 0 for logarithms")
        low, high = math.ceil(self.low), math.floor(self.high)
        if self.whole and low > high:
            raise UserError(f"{self}: it holds no whole number")
        if self.whole and not self.log:
            return dice.randint(low, high)
        if self.log:
            value = math.exp(dice.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = dice.uniform(self.low, self.high)
        value = float(f"{value:.4g}")
        if self.whole:
            return min(max(round(value), low), high)
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Draws:
    """The experiment as it is ("base"), and `count` random draws from ranges or from choices.

    The same `seed` draws the same, and a larger `count` goes on after what was drawn. No two draws
    are equal, so that they are fewer than `count` where ranges and choices hold no more.
    """

    ranges: Mapping[str, Range | Sequence[Value]]
    count: int = 8
    seed: int = 0

    def variants(self, base: Overrides | None = None) -> tuple[Variant, ...]:
        """`base` are values of the experiment by key, lists for tuples: what draws must not be."""
        dice = random.Random(self.seed)
        taken = [{key: (base or {}).get(spell(key)) for key in self.ranges}]
        found = [Variant("base")]
        for _ in range(TRIES * self.count):
            if len(found) > self.count:
                break
            drawn = self.draw(dice)
            values = {key: to_json(value) for key, value in drawn.items()}
            if values not in taken:
                taken.append(values)
                found.append(Variant(f"draw {len(found) - 1}: {spelled(drawn)}", drawn))
        return tuple(found)

    def draw(self, dice: random.Random) -> dict[str, Value]:
        return {
            key: values.draw(dice) if isinstance(values, Range) else dice.choice(values)
            for key, values in self.ranges.items()
        }


@dataclass(frozen=True)
class Ablation:
    """What is compared, by what, and what is held equal.

    `figures` are names of evaluation.json (`caption/facts_f1`), `splits` those of `evaluate.py`.
    Equal is the `budget`: steps; examples (steps times batch); flops (of the compiled step); or
    time (by a short measurement). `spread` is the standard deviation of a figure from seed to seed
    as far as it is known: it says before anything runs what can be seen at all.
    """

    config: str
    variants: tuple[Variant, ...] | Grid | Draws
    figures: tuple[str, ...]
    baseline: str = ""
    """The name of a variant; empty: the first."""
    splits: tuple[str, ...] = ("test",)
    budget: Budget = "steps"
    spread: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """A variant with the configuration that its runs train, but for their seed and steps."""

    name: str
    source: str
    """What --config names."""
    own: Overrides
    """What tells it from the others."""
    overrides: Overrides
    """What is put on the command line: its own, and what was given for all."""
    config: Config

    @property
    def folder(self) -> str:
        return slug(self.name)


@dataclass(frozen=True)
class Plan:
    """A checked ablation; the baseline is one of the variants."""

    name: str
    ablation: Ablation
    baseline: str
    variants: tuple[Resolved, ...]

    def by_name(self, name: str) -> Resolved:
        return next(each for each in self.variants if each.name == name)


# --- from a file ---


def folder() -> Path:
    """`experiments/ablations`, beside the configurations."""
    return configs.folder().parent / "ablations"


def names() -> dict[str, str]:
    """Name of every ablation -> first line of its docstring, read without importing it."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for path in sorted(folder().glob("*.py"))
        if path.stem != "__init__"
    }


def load(name: str) -> Ablation:
    """The ablation `fusion` (experiments/ablations/fusion.py), or `own/one.py`.

    Raises: UserError.
    """
    module = module_of(name)
    found = getattr(module, "ablation", None)
    if not isinstance(found, Ablation):
        raise UserError(f"{module.__file__} exports no Ablation called `ablation`")
    return found


def module_of(name: str) -> ModuleType:
    root = str(folder().parents[1])
    if root not in sys.path:
        sys.path.append(root)
    if not name.endswith(".py"):
        if name not in names():
            raise UserError(f"there is no ablation `{name}`{suggest(name, names())}")
        return importlib.import_module(f"experiments.ablations.{name}")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- checks ---


def make(
    name: str,
    ablation: Ablation,
    common: Overrides | None = None,
    *,
    only: Sequence[str] = (),
    tiny: bool = False,
) -> Plan:
    """Every variant with its configuration; `common` keys are set in all, before their own.

    `only` leaves out variants that are not named there, but for the baseline; `tiny` takes the
    experiment's own smallest size. Raises: UserError naming variant and key for what cannot work,
    and the variants that are in truth the same.
    """
    listed = variants_of(name, ablation, common or {}, tiny)
    known = [each.name for each in listed]
    baseline = ablation.baseline or (known[0] if known else "")
    for asked in (baseline, *only):
        if asked not in known:
            raise UserError(f"{name} has no variant `{asked}`{suggest(asked, known)}")
    if only:
        listed = tuple(each for each in listed if each.name in (baseline, *only))
    refuse_names([each.name for each in listed])
    if not ablation.figures or not ablation.splits:
        raise UserError(f"{name}: an ablation needs at least one figure and one split")
    found = tuple(resolve(ablation, each, common or {}, tiny) for each in listed)
    refuse_same(found)
    return Plan(name, ablation, baseline, found)


def variants_of(
    name: str, ablation: Ablation, common: Overrides, tiny: bool
) -> tuple[Variant, ...]:
    """As a list; of draws, which may be fewer than asked for, the number is then said."""
    kinds = ablation.variants
    if isinstance(kinds, tuple):
        return kinds
    if isinstance(kinds, Grid):
        return kinds.variants()
    base = resolve(ablation, Variant("base"), common, tiny)
    found = kinds.variants(flat(to_json(base.config)))
    if len(found) <= kinds.count:
        print(
            f"warning: {name}: {len(found) - 1} draws instead of {kinds.count}: its ranges and"
            " choices hold no more that differ from each other and from the base",
            file=sys.stderr,
        )
    return found


def refuse_names(listed: Sequence[str]) -> None:
    if len(listed) < 2:
        raise UserError(f"an ablation compares at least two variants, this has {len(listed)}")
    folders: dict[str, str] = {}
    for name in listed:
        place = slug(name)
        if not place:
            raise UserError(f"a variant is called `{name}`: letters or digits are needed")
        if place in folders:
            other = folders[place]
            raise UserError(f"variants `{other}` and `{name}` would share the folder {place}")
        folders[place] = name


def slug(name: str) -> str:
    """The name of a folder; what is cut off stands in a short hash at its end."""
    whole = re.sub(r"[^\w.+=-]+", "_", name).strip("_.")
    if len(whole) <= LONGEST:
        return whole
    return f"{whole[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def resolve(ablation: Ablation, variant: Variant, common: Overrides, tiny: bool) -> Resolved:
    source = variant.config or ablation.config
    source = tiny_of(source) if tiny else source
    own = {spell(key): value for key, value in variant.overrides.items()}
    for key in ("seed", "steps"):
        if key in own:
            raise UserError(f"variant `{variant.name}` sets {key}, which the ablation itself sets")
    keys = {spell(key): value for key, value in common.items()} | own
    if "seed" in keys:
        raise UserError("seed is set by the ablation itself, for each run: see --seeds")
    config = configs.load(source)
    changed = read(config, keys, dict.fromkeys(own, f"variant `{variant.name}`: "))
    try:
        check(changed)
    except UserError as error:
        raise UserError(f"variant `{variant.name}`: {error}") from error
    return Resolved(variant.name, source, own, keys, changed)


def tiny_of(source: str) -> str:
    """vit_tiny -> vit_tiny:tiny, own.py:one -> own.py:one_tiny"""
    return f"{source}_tiny" if ":" in source else f"{source}:tiny"


def spell(key: str) -> str:
    return key.replace("-", "_")


def read(config: Config, keys: Overrides, whose: Mapping[str, str]) -> Config:
    """`config` with `keys`. Raises: UserError for an unknown key or a value that it cannot take."""
    known = [k for k in flat(to_json(config)) if k.rpartition(".")[2] != "type"]
    for key in keys:
        if key not in known:
            raise UserError(f"{whose.get(key, '')}there is no key {key}{suggest(key, known)}")
    changed = parsed(config, keys)
    if changed is not None:
        return changed
    # what is wrong with it is found by itself, as each reading takes a quarter of a second
    wrong = [key for key, value in keys.items() if parsed(config, {key: value}) is None]
    raise UserError(
        "\n".join(
            f"{whose.get(key, '')}{key} cannot be {keys[key]!r}; {accepted(config, key, keys[key])}"
            for key in wrong or keys
        )
    )


def parsed(config: Config, keys: Overrides) -> Config | None:
    """None where the command line would be refused: it says so itself, on the screen."""
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            return override(config, words(keys))
    except SystemExit:
        return None


def accepted(config: Config, key: str, value: Value) -> str:
    """What a key takes, in words."""
    *path, name = key.split(".")
    node: Any = config
    for part in path:
        node = getattr(node, part)
    kind = typing.get_type_hints(type(node))[name]
    if typing.get_origin(kind) is Literal:
        choices = [str(each) for each in typing.get_args(kind)]
        return f"accepted: {', '.join(choices)}{near(str(value), choices)}"
    return f"accepted: {getattr(kind, '__name__', kind)}, such as {getattr(node, name)!r}"


def near(word: str, choices: Sequence[str]) -> str:
    found = suggest(word, choices)
    return found if "did you mean" in found else ""


def words(keys: Overrides) -> list[str]:
    """{"optim.lr": 0.1, "optim.freeze": ("image", "text")} as words of the command line."""
    return [word for key, value in keys.items() for word in (f"--{key}", *spread_out(value))]


def spread_out(value: Value) -> Iterator[str]:
    if isinstance(value, tuple):
        for each in value:
            yield from spread_out(each)
    else:
        yield str(value)


def spelled(keys: Overrides) -> str:
    """{"optim.lr": 0.1, "data.shift": 2} -> optim.lr=0.1 data.shift=2"""
    return " ".join(f"{key}={'+'.join(spread_out(value))}" for key, value in keys.items())


def refuse_same(variants: Sequence[Resolved]) -> None:
    """Raises: UserError naming the variants whose configurations are equal."""
    trees = [(each.name, to_json(each.config)) for each in variants]
    same = [
        f"`{a}` and `{b}`"
        for (a, one), (b, two) in itertools.combinations(trees, 2)
        if not apart(one, two)
    ]
    if same:
        raise UserError(
            f"the same configuration under two names: {'; '.join(same)}."
            " Leave one of them out, or change what it overrides."
        )


def apart(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """`differences` of two configurations in what is learnt, or in what of it is evaluated."""
    best = old.get("keep_best") or new.get("keep_best")
    return differences(old, new, {*FREE}.difference(BEST if best else ()))

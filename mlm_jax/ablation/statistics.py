"""Which differences between variants are more than luck, by seeds and by pictures.

What is drawn anew when an experiment is repeated is the seed: the first parameters, the order of
the data, dropout. All seeds are asked about the same test pictures. So seeds are the unit that is
replicated, and a bootstrap over pictures alone, of one run against one run, calls any two seeds of
one and the same variant different (arXiv:2103.03098).

The test is that of several readers who read the same cases under two conditions, seeds being the
readers: the t statistic of the differences by seed, whose variance gets added what the pictures
contribute by themselves (Obuchowski and Rockette 1995), with the degrees of freedom of Hillis
(2007, Statistics in Medicine 26, 596). With so few readers these are too many where seeds happen to
agree: of two seeds it called 7 to 12 of 100 equals different, of three 6. So nothing is found that
the paired t test over seeds does not find as well: the larger p of the two and the wider interval
count, and equals are then called different 3 to 7 times of 100, for 2, 3 or 5 seeds and however
much variants differ by picture (by drawing 800 of each).

Where two variants differ by the same on every picture, or where no counts by picture are kept,
nothing is added, and it is the paired t test over seeds; what it says is then about these very
pictures. Both assume that differences between seeds are about normal, which a figure over hundreds
of pictures is. Tests without that assumption cannot do with so few: of n differences, flipped in
sign, the smallest two-sided p is 2 / 2^n, 0.25 of three seeds and 0.0625 of five.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import special

from mlm_jax.metrics import Statistic

LEVEL = 0.05
POWER = 0.8
POINTS = 4_000
ROUNDING = 1e-12
"""Of the largest difference: what is no spread between seeds."""
MOST_FREEDOM = 1e9
"""Beyond it t is normal to all digits."""
FEW = 3
"""Seeds under which a difference must be many times its spread to be seen."""


@dataclass(frozen=True)
class Mean:
    """Over `n` seeds, with the 95 % t interval of the mean; None where there is one seed."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean difference, and the degrees of freedom that it has."""

    error: float
    freedom: float


@dataclass(frozen=True)
class Difference:
    """A variant less the baseline, over the `n` seeds that both have.

    `p` is two-sided and None where nothing can be tested. `by_picture` says whether the interval
    and the test hold for other pictures as well, and not for these alone. `corrected` fills in
    `adjusted`, Holm's p over the comparisons that were planned, and `visible`, the smallest true
    difference that 80 of 100 such ablations would have found, at the level that the correction asks
    of the first.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    by_picture: bool = False
    spreads: tuple[Spread, ...] = ()
    adjusted: float | None = None
    visible: float | None = None

    @property
    def found(self) -> bool:
        return self.adjusted is not None and self.adjusted < LEVEL


def mean(values: Sequence[float]) -> Mean:
    """Of the figures of several seeds: the interval holds what other seeds would change.

    It does not hold what other test pictures would. Raises: ValueError where there are none.
    """
    if not values:
        raise ValueError("no values: a mean needs at least one")
    middle = math.fsum(values) / len(values)
    if len(values) < 2:
        return Mean(middle, None, None, len(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = quantile(1 - LEVEL / 2, len(values) - 1) * error
    return Mean(middle, middle - reach, middle + reach, len(values))


# --- a variant against the baseline ---


def paired(
    differences: Sequence[float], pictures: Float[np.ndarray, "K N"] | None = None
) -> Difference:
    """Differences by seed; `pictures` are those of each seed (K) on each picture (N).

    Raises: ValueError where there is no seed, or `pictures` has other seeds.
    """
    n = len(differences)
    middle = mean(differences).value
    if pictures is not None and len(pictures) != n:
        raise ValueError(f"{n} seeds, but pictures of {len(pictures)}")
    by_picture = pictures is not None
    if n < 2:
        return Difference(middle, None, None, None, n, by_picture)
    spreads = [by_seed(differences)]
    if pictures is not None:
        spreads.append(by_both(differences, pictures))
    if spreads[0].error <= ROUNDING * max(map(abs, differences)):
        # no spread, no t: they agree, as where all answers are wrong
        same = 1.0 if middle == 0 else None
        return Difference(middle, None, None, same, n, by_picture)
    reach = max(quantile(1 - LEVEL / 2, each.freedom) * each.error for each in spreads)
    p = max(two_sided(middle, each) for each in spreads)
    return Difference(middle, middle - reach, middle + reach, p, n, by_picture, tuple(spreads))


def two_sided(difference: float, spread: Spread) -> float:
    """p of a t test."""
    freedom = min(spread.freedom, MOST_FREEDOM)
    return 2 * float(special.stdtr(freedom, -abs(difference) / spread.error))


def by_seed(differences: Sequence[float]) -> Spread:
    n = len(differences)
    return Spread(float(np.std(differences, ddof=1)) / math.sqrt(n), n - 1)


def by_both(differences: Sequence[float], pictures: Float[np.ndarray, "K N"]) -> Spread:
    """With what the pictures contribute, less what is seeds and pictures at once.

    The mean over columns varies by pictures and by the noise of each cell; the noise is in the
    mean over rows already, so that it is taken off once.
    """
    seeds, count = pictures.shape
    own = np.var(differences, ddof=1) / seeds
    columns, rows = pictures.mean(0), pictures.mean(1)
    cells = pictures - columns - rows[:, None] + pictures.mean()
    noise = np.square(cells).sum() / ((seeds - 1) * (count - 1)) / (seeds * count)
    added = max(float(np.var(columns, ddof=1)) / count - float(noise), 0.0)
    whole = float(own) + added
    freedom = (seeds - 1) * (whole / float(own)) ** 2 if own > 0 else math.inf
    return Spread(math.sqrt(whole), freedom)


def shares(
    statistic: Statistic, columns: Mapping[str, Float[np.ndarray, " N"]]
) -> Float[np.ndarray, " N"]:
    """What each picture contributes to a figure: its jackknife pseudo-values (Tukey 1958).

    Their mean is the figure, but for the bias that the jackknife takes off; of a plain mean over
    pictures they are the pictures' own values.
    """
    sums = {name: np.array([values.sum()]) for name, values in columns.items()}
    count = len(next(iter(columns.values())))
    without = statistic({name: sums[name] - values for name, values in columns.items()})
    return count * statistic(sums) - (count - 1) * without


# --- several variants ---


def corrected(tests: Mapping[str, Difference], comparisons: int) -> dict[str, Difference]:
    """With p values corrected over all that were planned, so that one false find is under 5 %.

    `comparisons` that were not made, of runs that failed or are to come, count as well. Raises:
    ValueError where fewer were planned than were tested.
    """
    tested = {name: test.p for name, test in tests.items() if test.p is not None}
    adjusted = dict(zip(tested, holm([*tested.values()], comparisons), strict=True))
    level = LEVEL / max(comparisons, 1)
    return {
        name: replace(
            test,
            adjusted=adjusted.get(name),
            visible=max((visible(each, level) for each in test.spreads), default=None),
        )
        for name, test in tests.items()
    }


def holm(values: Sequence[float], comparisons: int) -> list[float]:
    """p values, corrected step by step (Holm 1979): the smallest counts n times, the next n - 1.

    n is the number of `comparisons`; those without a p have one of 1. Raises: ValueError where
    there are more p values.

    holm([0.01, 0.04, 0.03], 3) -> [0.03, 0.06, 0.06]
    holm([0.01], 3) -> [0.03]
    """
    if comparisons < len(values):
        raise ValueError(f"{len(values)} p values, but {comparisons} comparisons")
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, largest = [0.0] * len(values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (comparisons - place) * values[i]))
        adjusted[i] = largest
    return adjusted


# --- what can be seen at all ---


def visible(spread: Spread, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a two-sided t test finds with probability `power`."""
    return shift_of(spread.freedom, level, power) * spread.error


@lru_cache(maxsize=1024)
def shift_of(freedom: float, level: float, power: float) -> float:
    """The same in standard errors, by halving."""
    low, high = 0.0, 1.0
    while found_share(high, freedom, level) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if found_share(middle, freedom, level) < power:
            low = middle
        else:
            high = middle
    return high


def found_share(shift: float, freedom: float, level: float = LEVEL) -> float:
    """How often a t test finds a difference of `shift` standard errors: its power.

    The mean over POINTS equally likely estimates of the error, of what a normal difference does
    beside each. (scipy's noncentral t gives nan for the large shifts that few seeds ask for.)
    """
    freedom = min(freedom, MOST_FREEDOM)
    edge = -quantile(level / 2, freedom) * errors(freedom)
    return float(np.mean(special.ndtr(shift - edge) + special.ndtr(-shift - edge)))


@lru_cache(maxsize=16)
def errors(freedom: float) -> Float[np.ndarray, " S"]:
    """Estimates of a standard error of 1."""
    middles = (np.arange(POINTS) + 0.5) / POINTS
    return np.sqrt(special.chdtri(freedom, 1 - middles) / freedom)


def quantile(share: float, freedom: float) -> float:
    return float(special.stdtrit(min(freedom, MOST_FREEDOM), share))


def foreseen(seeds: int, comparisons: int, spread: float = 1.0) -> float | None:
    """The difference that so many seeds will show, where a figure has `spread` from seed to seed.

    Variants are taken to vary independently, so that a difference varies sqrt(2) times as much.
    None for one seed, of which nothing can be tested.
    """
    if seeds < 2:
        return None
    error = math.sqrt(2 / seeds) * spread
    return visible(Spread(error, seeds - 1), LEVEL / comparisons)


def outlook(seeds: int, comparisons: int) -> str:
    """What so many seeds can show, in words."""
    smallest = foreseen(seeds, comparisons)
    if smallest is None:
        return "one seed: no difference can be tested, as nothing says how much seeds differ."
    return (
        f"{seeds} seeds, {comparisons} held against the baseline: a difference must be"
        f" {smallest:.1f} times the spread between seeds to be found in 80 of 100 such ablations."
    )


def warning(seeds: int, comparisons: int) -> str:
    """What few seeds cannot show, in words; empty where they will do."""
    smallest = foreseen(seeds, comparisons)
    if smallest is None:
        return outlook(seeds, comparisons)
    if seeds > FEW and smallest < 5:
        return ""
    return f"{outlook(seeds, comparisons)} More --seeds, or fewer variants, show smaller ones."

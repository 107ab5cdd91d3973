"""A linear probe: what can be read off frozen features by a linear map, and off pixels.

Multinomial logistic regression on standardised features, the mean of an encoder's patch tokens.
The weight of its penalty is chosen on a fifth of the labelled pictures, and all are then fitted.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mlm_jax.config import UserError, senses
from mlm_jax.data import labels, loader, sources
from mlm_jax.data.labels import Labels
from mlm_jax.data.records import Source
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.evaluators.classes import BATCH, batches, commonest_class
from mlm_jax.metrics import Ratio, bootstrap
from mlm_jax.trained import Trained

LABELLED = 2_000  # pictures of the training split that the probe learns from
HELD_OUT = 5  # one of so many chooses the penalty
PENALTIES = tuple(10.0**-power for power in range(6))
STEPS = 100

Features = Callable[[np.ndarray], Array]


class Pictures(NamedTuple):
    """Pictures, or clips, and their classes."""

    shown: np.ndarray
    label: np.ndarray


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """Accuracy of probes of the trained encoder, of the same one untrained, and of pixels."""
    config = trained.config
    ((sense, eyes),) = senses(config).items()
    learnt = trained.learnt_from
    train = sources.open_source(learnt, learnt.train, (sense,))
    classes = labels.classes_of(train, events=False)
    known = read(trained, train, classes, LABELLED)
    asked = read(trained, source, classes, limit)
    fresh = jax.jit(config.model.init)(jax.random.key(config.seed), {sense: known.shown[:1]})
    look = partial(seen, eyes, size=at_once(config, BATCH))
    readers: dict[str, Features] = {
        "accuracy": partial(look, trained.params[sense]),
        "untrained": partial(look, fresh["params"][sense]),
        "pixels": lambda shown: jnp.asarray(shown.reshape(len(shown), -1), jnp.float32),
    }
    columns = {
        name: probe(features, known, asked, len(classes)) == asked.label
        for name, features in readers.items()
    }
    columns["majority"] = asked.label == commonest_class(train, classes)
    rows = zip(*columns.values(), strict=True)
    counts = [{"pictures": 1.0, **dict(zip(columns, map(float, row), strict=True))} for row in rows]
    return Measured(
        bootstrap(counts, {f"probe/{n}": Ratio(n, "pictures", "pictures") for n in columns})
    )


def read(trained: Trained, source: Source, classes: tuple[str, ...], limit: int | None) -> Pictures:
    """Those that have a label. Raises: UserError where none has."""
    known, take = Labels(classes), trained.take
    rows = list(loader.eval_labelled(trained.config.data, source, take, known, limit))
    if not rows:
        raise UserError(f"{trained.config.data.name}: nothing with a label")
    return Pictures(*(np.stack([row[key] for row in rows]) for key in (*take.needs, "label")))


def seen(eyes: Any, params: Any, shown: np.ndarray, *, size: int) -> Array:
    """The mean of the patch tokens, (len(shown), D), `size` at a time."""
    rows: list[dict[str, Any]] = [{"shown": each} for each in shown]
    parts = batches(rows, size)
    found = [tokens_mean(eyes, params, part["shown"])[:real] for part, real in parts]
    return jnp.concatenate(found)


@partial(jax.jit, static_argnames="eyes")
def tokens_mean(eyes: Any, params: Any, shown: Array) -> Float[Array, "B D"]:
    tokens: Any = eyes.apply({"params": params}, shown)
    return tokens.x[:, len(eyes.extra) :].mean(1)


def probe(
    features: Features, known: Pictures, asked: Pictures, classes: int
) -> Int[np.ndarray, "N"]:
    """The classes of the pictures asked about, by what was learnt from the known ones."""
    x, y = features(known.shown), jnp.asarray(known.label)
    mean, std = x.mean(0), x.std(0)

    def even(part: Array) -> Array:
        return (part - mean) / (std + 1e-6)

    x = even(x)
    held = np.arange(len(x)) % HELD_OUT == 0
    fits: Sequence[float] = [
        float((predict(fit(x[~held], y[~held], weight, classes), x[held]) == y[held]).mean())
        for weight in PENALTIES
    ]
    weight = PENALTIES[int(np.argmax(fits))]
    linear = fit(x, y, weight, classes)
    parts = (asked.shown[at : at + LABELLED] for at in range(0, len(asked.shown), LABELLED))
    return np.concatenate([predict(linear, even(features(part))) for part in parts])


Linear = dict[str, Array]


@partial(jax.jit, static_argnames="classes")
def fit(x: Float[Array, "N D"], y: Int[Array, "N"], penalty: float | Array, classes: int) -> Linear:
    """Mean cross-entropy plus penalty / 2 * the square of the kernel, by L-BFGS from 0."""

    def objective(linear: Linear) -> Array:
        nats = optax.softmax_cross_entropy_with_integer_labels(apply(linear, x), y).mean()
        return nats + penalty / 2 * jnp.square(linear["kernel"]).sum()

    solver = optax.lbfgs()
    both = optax.value_and_grad_from_state(objective)

    def step(_: int, carry: Any) -> Any:
        linear, state = carry
        value, grad = both(linear, state=state)
        updates, state = solver.update(
            grad, state, linear, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(linear, updates), state

    blank = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}
    linear, _ = jax.lax.fori_loop(0, STEPS, step, (blank, solver.init(blank)))
    return linear


def apply(linear: Linear, x: Float[Array, "N D"]) -> Float[Array, "N C"]:
    return x @ linear["kernel"] + linear["bias"]


def predict(linear: Linear, x: Float[Array, "N D"]) -> Int[Array, "N"]:
    return apply(linear, x).argmax(-1)

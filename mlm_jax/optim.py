"""An optax chain from `Optim`: clip, direction, decay, learning rate, factors by path, freezing."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mlm_jax.config import Optim, UserError
from mlm_jax.paths import map_named, matches, named, require_matches


def schedule(optim: Optim, steps: int) -> optax.Schedule:
    """Learning rate at each update: linear warmup, then the shape, which ends at 0 at `steps`."""
    warmup = min(optim.warmup, steps // 2)
    shapes = {
        "cosine": optax.cosine_decay_schedule(optim.lr, steps - warmup),
        "linear": optax.linear_schedule(optim.lr, 0.0, steps - warmup),
        "constant": optax.constant_schedule(optim.lr),
    }
    # The first update moves too: it is made at lr / (warmup + 1), not at 0.
    rise = optax.linear_schedule(optim.lr / (warmup + 1), optim.lr, max(warmup, 1))
    return optax.join_schedules([rise, shapes[optim.schedule]], [warmup])


def decays(path: str, leaf: Any) -> bool:
    """Weight decay is for kernels: not biases, norms, embeddings, positions or learned queries."""
    return path.rpartition("/")[2] == "kernel" and leaf.ndim >= 2


def direction(optim: Optim) -> optax.GradientTransformation:
    """The update before decay and learning rate, pointing up the gradient."""
    if optim.name == "lion":
        return optax.scale_by_lion(optim.b1, optim.b2)
    if optim.name == "adafactor":
        # Without the parameter scale lr means what it means elsewhere (arXiv:2106.04560, 3.4).
        down = optax.adafactor(multiply_by_parameter_scale=False, momentum=optim.b1 or None)
        return optax.chain(down, optax.scale(-1.0))
    if optim.name == "muon":
        # RMS 0.2 is that of an Adam update, so that lr carries over (arXiv:2502.16982, 2.2).
        down = contrib.muon(
            1.0,
            adam_b1=optim.b1,
            adam_b2=optim.b2,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=muon_dimensions,
        )
        return optax.chain(down, optax.scale(-1.0))
    return optax.scale_by_adam(optim.b1, optim.b2)


def muon_dimensions(params: Any) -> Any:
    """Which axes of a kernel go in and out; None for what goes by Adam: all that is no kernel.

    Leading axes, such as that of scanned layers, are matrices of their own.
    """

    def dimensions(path: str, leaf: Any) -> contrib.MuonDimensionNumbers | None:
        names = path.split("/")
        if not decays(path, leaf):
            return None
        if "stem" in names or "conv" in names[-2]:  # height, width, C, D
            return contrib.MuonDimensionNumbers((-4, -3, -2), -1)
        if names[-2] in ("query", "key", "value") and leaf.ndim >= 3:  # D H K
            return contrib.MuonDimensionNumbers(-3, (-2, -1))
        if names[-2] == "out" and leaf.ndim >= 3:  # H K D
            return contrib.MuonDimensionNumbers((-3, -2), -1)
        return contrib.MuonDimensionNumbers(-2, -1)

    return map_named(dimensions, params)


def frozen(optim: Optim, params: Any) -> Any:
    """Tree of bool: True where `optim.freeze` holds a parameter still. Raises: UserError."""
    require_matches(optim.freeze, params, "optim.freeze")
    tree = map_named(lambda path, _: any(matches(path, p) for p in optim.freeze), params)
    if all(jax.tree.leaves(tree)):
        raise UserError("optim.freeze leaves no parameter to train")
    return tree


def factors(optim: Optim, params: Any) -> Any:
    """Tree of factors on the learning rate. Raises: UserError for a pattern without a match."""
    require_matches([p for p, _ in optim.lr_scale], params, "optim.lr_scale")

    def factor(path: str, _: Any) -> float:
        return ([1.0] + [f for p, f in optim.lr_scale if matches(path, p)])[-1]

    return map_named(factor, params)


def build(optim: Optim, steps: int, params: Any) -> optax.GradientTransformation:
    """The optimiser for `params` (arrays or shapes); frozen ones get no state and no update."""
    chain = [optax.clip_by_global_norm(optim.clip)] if optim.clip else []
    chain += [
        direction(optim),
        optax.add_decayed_weights(optim.weight_decay, lambda p: map_named(decays, p)),
        optax.scale_by_learning_rate(schedule(optim, steps)),
    ]
    whole: optax.GradientTransformation = optax.chain(*chain)
    if optim.freeze:
        labels = jax.tree.map(lambda f: "still" if f else "moves", frozen(optim, params))
        whole = optax.partition({"moves": whole, "still": optax.set_to_zero()}, labels)
    if optim.lr_scale:
        scale = factors(optim, params)
        scaled = optax.stateless(lambda u, _: jax.tree.map(jnp.multiply, u, scale))
        whole = optax.chain(whole, scaled)
    return whole


def ema_decay(decay: float, step: Any) -> Any:
    """Decay after `step` updates: small at first, so that the average forgets the beginning."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def count(params: Any) -> int:
    return sum(leaf.size for leaf in named(params).values())

"""Diffusion without a net: how noise is added, what is predicted, and ways back from noise.

Four things that know nothing of each other: a schedule, what the net predicts, a sampler, and
guidance. A net is a function of noisy rows, their times, and what it took to be clean at the step
before, zeros at the first (self-conditioning, arXiv:2208.04202); it may leave the last alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from mlm_jax.errors import UserError, require

LIMIT = 20.0  # the largest log of the signal-to-noise ratio, and less its smallest
BETAS = (0.1, 20.0)  # noise a unit of time, "linear": its first and last (2011.13456, appendix C)
BLIND = -10.2  # the log-SNR under which no clean data are told from noise; DDPM ends at -10.1
FINE = 4096  # places of continuous time among which the last one over it is sought

Net = Callable[[Array, Array, Array], Array]
Predicts = Literal["noise", "v", "clean", "flow"]


@dataclass(frozen=True)
class Schedule:
    """Times from 0 (clean) to 1 (noise): at t there is x = alpha(t) clean + sigma(t) noise.

    "cosine": alpha = cos(pi t / 2) (arXiv:2202.00512, section 2). "linear": noise comes in at a
    rate that grows with time (arXiv:2011.13456, equation 32). "flow": alpha = 1 - t, sigma = t
    (arXiv:2210.02747, equation 22; their time runs backwards). In the first two
    alpha^2 + sigma^2 = 1. No end is quite clean or quite noise, so that each can be had from the
    other two: log-SNR, before any shift, stays within `LIMIT`.

    With `steps` N time is discrete: 1/N, 2/N, ... 1 are the N steps of DDPM (arXiv:2006.11239,
    section 4, for "linear"; arXiv:2102.09672, equation 17, for "cosine"), and 0 the clean data.

    With `shift` s there is s times as much noise for the signal at each continuous time: what says
    the same many times over, as large pictures and the frames of a clip do, is seen through more of
    it (arXiv:2301.11093, section 3.1).
    """

    kind: Literal["cosine", "linear", "flow"] = "cosine"
    steps: int = 0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0 or (self.steps and self.kind == "flow"):
            raise UserError(f"schedule.steps is {self.steps}: at least 0, and 0 for a flow")
        if not self.shift > 0 or (self.steps and self.shift != 1):
            raise UserError(f"schedule.shift is {self.shift}: over 0, and 1 where there are steps")

    def logsnr(self, t: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """log(alpha^2 / sigma^2); it falls with time."""
        return self._even(t) - 2 * math.log(self.shift)

    def _even(self, t: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Without a shift."""
        if self.steps:
            table = jnp.asarray(self._table(), jnp.float32)
            return table[jnp.round(t * self.steps).astype(jnp.int32)]
        if self.kind == "cosine":
            angle = _between(t, math.atan(math.exp(-LIMIT / 2)), math.pi / 2)
            return -2 * jnp.log(jnp.tan(angle))
        if self.kind == "flow":
            share = _between(t, 1 / (1 + math.exp(LIMIT / 2)), 1.0)
            return 2 * (jnp.log1p(-share) - jnp.log(share))
        low, high = BETAS
        first = math.exp(-LIMIT) / low
        t = first + (1 - first) * t
        return -jnp.log(jnp.expm1(low * t + (high - low) * jnp.square(t) / 2))

    def alpha(self, t: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """How much there is of what is clean."""
        return self._share(self.logsnr(t))

    def sigma(self, t: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """How much there is of noise."""
        return self._share(-self.logsnr(t))

    def at(self, t: Float[Array, "*B"], x: Array) -> tuple[Array, Array]:
        """alpha and sigma, to be multiplied with rows like `x`."""
        return over(self.alpha(t), x), over(self.sigma(t), x)

    def _share(self, logsnr: Float[Array, "*B"]) -> Float[Array, "*B"]:
        if self.kind == "flow":
            return jax.nn.sigmoid(logsnr / 2)
        return jnp.sqrt(jax.nn.sigmoid(logsnr))

    def betas(self) -> Float[np.ndarray, "N"]:
        """The variance that each discrete step adds."""
        places = np.arange(self.steps + 1) / self.steps
        if self.kind == "linear":
            low, high = BETAS
            even = np.linspace(low, high, self.steps)  # 1e-4 to 0.02 of DDPM's 1,000
            return np.minimum(even / self.steps, 0.999)
        left = np.cos((places + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - left[1:] / left[:-1], 0.999)

    def _table(self) -> Float[np.ndarray, "M"]:
        """log-SNR at 0, 1/N, ... 1."""
        clean = np.cumprod(1 - self.betas())
        found = np.log(clean) - np.log1p(-clean)
        return np.clip(np.concatenate([[LIMIT], found]), -LIMIT, LIMIT)

    def draw(self, key: Array, rows: int) -> Float[Array, "B"]:
        """Times to learn from: each is uniform, and they are evenly spread (2107.00630, I.1)."""
        t = (jax.random.uniform(key) + jnp.arange(rows) / rows) % 1.0
        return (jnp.floor(t * self.steps) + 1) / self.steps if self.steps else t

    def times(self, steps: int, predicts: Predicts) -> Float[Array, "M"]:
        """From noise to 0 in so many steps. Raises: UserError.

        They begin at 1. Where noise is predicted they begin at the last time over `BLIND`: what is
        clean is had from it by a division by alpha, which would make anything of an error.
        """
        last = self._last_seen() if predicts == "noise" else 1.0
        if self.steps and steps > (most := round(last * self.steps)):
            raise UserError(f"{steps} steps to sample, of a schedule of {most}")
        t = jnp.linspace(last, 0.0, steps + 1)
        return jnp.round(t * self.steps) / self.steps if self.steps else t

    def _last_seen(self) -> float:
        with jax.ensure_compile_time_eval():
            t = jnp.linspace(1.0, 0.0, (self.steps or FINE) + 1)
            return float(t[jnp.argmax(self.logsnr(t) >= BLIND)])


def _between(t: Float[Array, "*B"], margin: float, end: float) -> Float[Array, "*B"]:
    """From `margin` at t = 0 to as much before `end` at 1."""
    return margin + (end - 2 * margin) * t


def over(values: Shaped[Array, "*B"], x: Array) -> Array:
    """A value for each row of `x`, or one for all, to be multiplied with it."""
    return values.reshape(*values.shape, *[1] * (x.ndim - values.ndim))


# --- what is predicted ---


def wanted(predicts: Predicts, clean: Array, noise: Array, alpha: Array, sigma: Array) -> Array:
    """What the net should say of alpha clean + sigma noise.

    "v" is alpha noise - sigma clean (arXiv:2202.00512, section 4), "flow" noise - clean, the
    velocity of a straight way (arXiv:2210.02747, equation 23).
    """
    if predicts == "noise":
        return noise
    if predicts == "clean":
        return clean
    return alpha * noise - sigma * clean if predicts == "v" else noise - clean


def split(
    predicts: Predicts, said: Array, x: Array, alpha: Array, sigma: Array
) -> tuple[Array, Array]:
    """(clean, noise) of `x` by what the net said."""
    if predicts == "noise":
        return (x - sigma * said) / alpha, said
    if predicts == "clean":
        return said, (x - alpha * said) / sigma
    if predicts == "v":
        whole = alpha**2 + sigma**2
        return (alpha * x - sigma * said) / whole, (sigma * x + alpha * said) / whole
    whole = alpha + sigma
    return (x - sigma * said) / whole, (x + alpha * said) / whole


def min_snr(
    predicts: Predicts, alpha: Array, sigma: Array, most: float = 5.0
) -> Float[Array, "*B"]:
    """Weight of the squared error that counts an error of the clean data min(SNR, `most`) times.

    arXiv:2303.09556, section 3.4.
    """
    error = {
        "noise": sigma / alpha,
        "clean": jnp.ones_like(alpha),
        "v": sigma / (alpha**2 + sigma**2),
        "flow": sigma / (alpha + sigma),
    }
    return jnp.minimum(jnp.square(alpha / sigma), most) * jnp.square(error[predicts])


# --- guidance ---


def guided(net: Net, weight: float) -> Net:
    """Without a classifier: weight * with the condition + (1 - weight) * without (2207.12598).

    `net` is asked once for twice the rows: first those with their condition, then those without.
    """

    def denoise(x: Array, t: Array, guess: Array) -> Array:
        twice = (jnp.concatenate([rows, rows]) for rows in (x, t, guess))
        said, free = jnp.split(net(*twice), 2)
        return weight * said + (1 - weight) * free

    return denoise


def thresholded(clean: Float[Array, "B *C"], share: float) -> Float[Array, "B *C"]:
    """Pixels in [-1, 1]: over the value that `share` of a row are under, if that is over 1.

    Dynamic thresholding (Imagen, arXiv:2205.11487, section 2.3).
    """
    most = jnp.quantile(jnp.abs(clean).reshape(len(clean), -1), share, axis=1)
    most = over(jnp.maximum(most, 1.0), clean)
    return jnp.clip(clean, -most, most) / most


# --- what is known ---


def alone(net: Net) -> Net:
    """`net`, told nothing of the step before."""
    return lambda x, t, guess: net(x, t, jnp.zeros_like(guess))


def keeping(net: Net, schedule: Schedule, predicts: Predicts, known: Float[Array, "B t *C"]) -> Net:
    """What `net` says, but of the first frames of each row that they are `known`.

    A sampler then makes these of their noise, and the net sees them on the way as noisy as all the
    others: the replacement method (arXiv:2204.03458, section 3.1).
    """
    count = known.shape[1]

    def denoise(x: Array, t: Array, guess: Array) -> Array:
        alpha, sigma = schedule.at(t, known)
        noise = (x[:, :count] - alpha * known) / sigma
        return net(x, t, guess).at[:, :count].set(wanted(predicts, known, noise, alpha, sigma))

    return denoise


# --- samplers ---


@dataclass(frozen=True)
class How:
    """How noise becomes data, in `steps` evenly spaced in time.

    "ddim": straight to what the net says, with `eta` times the noise of "ddpm" put in on the way
    (arXiv:2010.02502, section 4.1; eta 1 is "ddpm", arXiv:2006.11239, algorithm 2). "dpm++2m": a
    second-order multistep in log-SNR (arXiv:2211.01095, algorithm 2). "heun": a step of "ddim",
    then the mean of what the net says at both its ends, for twice the calls (arXiv:2206.00364,
    algorithm 1).

    `guidance` 1 is with the condition, 0 without it, and over 1 further away from without it.
    `threshold` is the share of `thresholded`; 0 leaves it out.
    """

    sampler: Literal["ddpm", "ddim", "dpm++2m", "heun"] = "ddim"
    steps: int = 50
    guidance: float = 1.0
    threshold: float = 0.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        fine = {
            "steps": (self.steps >= 1, "at least 1"),
            "threshold": (0 <= self.threshold <= 1, "from 0 (off) to 1"),
            "eta": (0 <= self.eta <= 1, "from 0 to 1"),
        }
        require(self, fine)
        if self.eta and self.sampler != "ddim":
            raise UserError(f"eta is {self.eta}: of ddim alone, not of {self.sampler}")

    @property
    def fresh(self) -> float:
        """The share of DDPM's noise that comes in on the way."""
        return 1.0 if self.sampler == "ddpm" else self.eta


def sample(
    net: Net,
    schedule: Schedule,
    noise: Float[Array, "B *C"],
    how: How,
    *,
    predicts: Predicts,
    key: Array | None = None,
) -> Float[Array, "B *C"]:
    """Data from `noise`, in one compiled loop. `key` where noise comes in on the way.

    Raises: UserError; ValueError.
    """
    times = schedule.times(how.steps, predicts)
    start = schedule.sigma(times[0]) * noise
    return _Way(net, schedule, how, predicts).follow(start, times, key)


def invert(
    net: Net, schedule: Schedule, clean: Float[Array, "B *C"], how: How, *, predicts: Predicts
) -> Float[Array, "B *C"]:
    """The noise that `sample` makes `clean` of (arXiv:2010.02502, section 4.3). Raises: ValueError.

    Thresholding cannot be turned back, nor noise that comes in. What was clean at the step before
    would be another on the way back: it is of `sample` with the net `alone`.
    """
    if how.fresh or how.threshold:
        raise ValueError("only a way without noise and thresholding leads back")
    times = schedule.times(how.steps, predicts)[::-1]
    end = _Way(alone(net), schedule, how, predicts).follow(clean, times, None)
    return end / schedule.sigma(times[-1])


@dataclass(frozen=True)
class _Way:
    """From time to time by a sampler, in either direction."""

    net: Net
    schedule: Schedule
    how: How
    predicts: Predicts

    def follow(
        self, x: Float[Array, "B *C"], times: Float[Array, "M"], key: Array | None
    ) -> Float[Array, "B *C"]:
        if self.how.fresh and key is None:
            raise ValueError("noise comes in on the way: it needs a key")
        kinds: dict[str, Any] = {"dpm++2m": self._multistep, "heun": self._heun}
        step = kinds.get(self.how.sampler, self._ddim)

        def one(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            own = None if key is None else jax.random.fold_in(key, i)
            return step(carry, times, i, own), None

        start = x.astype(jnp.float32)
        (x, _), _ = jax.lax.scan(one, (start, jnp.zeros_like(start)), jnp.arange(self.how.steps))
        return x

    def look(self, x: Array, t: Array, guess: Array) -> tuple[Array, Array]:
        """(clean, noise), as the net sees `x` at time t; `guess` is what was clean before."""
        alpha, sigma = self.schedule.at(t, x)
        said = self.net(x, jnp.broadcast_to(t, len(x)), guess).astype(jnp.float32)
        clean, noise = split(self.predicts, said, x, alpha, sigma)
        if self.how.threshold:
            clean = thresholded(clean, self.how.threshold)
            noise = (x - alpha * clean) / sigma
        return clean, noise

    def _ddim(
        self, carry: tuple[Array, Array], times: Array, i: Array, key: Array | None
    ) -> tuple[Array, Array]:
        (x, guess), (t, s) = carry, (times[i], times[i + 1])
        clean, noise = self.look(x, t, guess)
        alpha, sigma = self.schedule.at(s, x)
        ahead, fresh = alpha * clean, self.how.fresh
        if not fresh or key is None:
            return ahead + sigma * noise, clean
        lost = -jnp.expm1(self.schedule.logsnr(t) - self.schedule.logsnr(s))
        new = jax.random.normal(key, x.shape)
        kept = jnp.sqrt(1 - fresh**2 * lost)
        return ahead + sigma * (kept * noise + fresh * jnp.sqrt(lost) * new), clean

    def _heun(
        self, carry: tuple[Array, Array], times: Array, i: Array, key: Array | None
    ) -> tuple[Array, Array]:
        """The trapezoid of dx = clean dalpha + noise dsigma; the last step is one of "ddim"."""
        (x, guess), (t, s) = carry, (times[i], times[i + 1])
        clean, noise = self.look(x, t, guess)
        (alpha, sigma), (a, b) = self.schedule.at(s, x), self.schedule.at(t, x)
        ahead = alpha * clean + sigma * noise

        def corrected() -> Array:
            clean_there, noise_there = self.look(ahead, s, clean)
            moved = (alpha - a) * (clean + clean_there) + (sigma - b) * (noise + noise_there)
            return x + moved / 2

        return jax.lax.cond(i == self.how.steps - 1, lambda: ahead, corrected), clean

    def _multistep(
        self, carry: tuple[Array, Array], times: Array, i: Array, key: Array | None
    ) -> tuple[Array, Array]:
        """What is clean is taken from this step and the one before; not in the first and last."""
        (x, before), (t, s) = carry, (times[i], times[i + 1])
        clean, _ = self.look(x, t, before)
        (alpha, sigma), (_, b) = self.schedule.at(s, x), self.schedule.at(t, x)
        old, now, then = (self.schedule.logsnr(at) / 2 for at in (times[i - 1], t, s))
        alone = (i == 0) | (i == self.how.steps - 1)
        more = jnp.where(alone, 0.0, (then - now) / (2 * (now - old)))
        pulled = clean + more * (clean - before)
        return sigma / b * x - alpha * jnp.expm1(now - then) * pulled, clean

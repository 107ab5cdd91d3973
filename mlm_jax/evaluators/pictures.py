"""How near generated pictures are to real ones, to their texts, and to what was learnt from.

Everything is computed from features that the caller gives, of whatever network: figures compare
only where the features are the same. FID and KID of fewer pictures differ from those of more.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mlm_jax.metrics import RESAMPLES, Figure, Ratio, bootstrap, divide, figure_of, redrawn

SAME = 1e-6  # cosines nearer to 1 than that are of one text
CHUNK = 1024  # training pictures at a time

Features = Float[np.ndarray, "N D"]


# ---- sets of pictures


def fid(generated: Features, real: Float[np.ndarray, "M D"]) -> float:
    """Fréchet distance of two normal distributions with the means and covariances of the features.

    arXiv:1706.08500, equation 6: |m - n|² + tr(S + T - 2 (S T)^½). No interval: few pictures make
    it too large (arXiv:1911.07023), and redrawn ones, which repeat, larger still.
    """
    return frechet(*normal(generated), *normal(real))


def normal(features: Features) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    """Mean and unbiased covariance."""
    features = features.astype(np.float64)
    mean = features.mean(0)
    rest = features - mean
    return mean, rest.T @ rest / max(len(features) - 1, 1)


def frechet(
    mean: Float[np.ndarray, " D"],
    covariance: Float[np.ndarray, "D D"],
    mean_real: Float[np.ndarray, " D"],
    covariance_real: Float[np.ndarray, "D D"],
) -> float:
    """S T has the eigenvalues of S^½ T S^½, which is symmetric: no root of a matrix is needed
    that could become complex."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ covariance_real @ root), 0)).sum()
    apart = ((mean - mean_real) ** 2).sum()
    return float(apart + np.trace(covariance) + np.trace(covariance_real) - 2 * shared)


def kid(
    generated: Features,
    real: Float[np.ndarray, "M D"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Figure:
    """Squared maximum mean discrepancy with the kernel (x·y / D + 1)³, unbiased.

    arXiv:1801.01401, section 4; it may be below 0. All pictures are used at once instead of blocks
    of them. The interval is over redrawn pictures of both sets, a picture and its own copy not
    being a pair. At least two pictures of each.
    """
    n, m = len(generated), len(real)
    drawn = redrawn(n, resamples=resamples, seed=seed)
    drawn_real = redrawn(m, resamples=resamples, seed=seed + 1)
    times = np.concatenate([np.ones((1, n)), drawn])
    times_real = np.concatenate([np.ones((1, m)), drawn_real])
    cross = ((times @ kernel(generated, real)) * times_real).sum(1) / (n * m)
    values = within(times, kernel(generated, generated)) - 2 * cross
    return figure_of(values + within(times_real, kernel(real, real)), n)


def kernel(x: Features, y: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3


def within(times: Float[np.ndarray, "S N"], k: Float[np.ndarray, "N N"]) -> Float[np.ndarray, " S"]:
    """The mean of `k` over pairs of different pictures, taken so many `times`."""
    pairs = ((times @ k) * times).sum(1) - times**2 @ k.diagonal()
    return divide(pairs, times.sum(1) ** 2 - (times**2).sum(1))


# ---- pictures and their texts


def clip_score(images: Features, texts: Features, *, weight: float = 2.5) -> Figure:
    """The mean of `weight` times the cosine of each picture and its text, not below 0.

    arXiv:2104.08718, section 3. Both are unit vectors.
    """
    scores = weight * np.maximum((images * texts).sum(1), 0)
    rows = [{"score": float(score), "pictures": 1.0} for score in scores]
    return bootstrap(rows, {"score": Ratio("score", "pictures", "pictures")})["score"]


def r_precision(images: Features, texts: Features, *, others: int = 99, seed: int = 0) -> Figure:
    """The share of pictures that are nearer to their own text than to `others` drawn ones.

    arXiv:1711.10485, section 4, with R = 1 and vectors of a contrastive model. Texts equal to the
    own are not drawn; a tie is not right. All the others, where there are no more.
    Raises: ValueError if all texts are the same.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for image, own in zip(images, texts, strict=True):
        different = np.flatnonzero(texts @ own < 1 - SAME)
        if not len(different):
            raise ValueError("all texts are the same: no picture can be nearer to its own")
        drawn = rng.permutation(different)[:others]
        right = bool((texts[drawn] @ image < own @ image).all())
        rows.append({"right": float(right), "pictures": 1.0})
    return bootstrap(rows, {"right": Ratio("right", "pictures", "pictures")})["right"]


# ---- pictures and what was learnt from


class Nearest(NamedTuple):
    """Of each picture the nearest in training."""

    row: Int[np.ndarray, " N"]
    distance: Float[np.ndarray, " N"]
    """Mean squared difference of levels, 0 to 65,025; 0 is the same picture."""


def nearest(
    pictures: UInt8[np.ndarray, "N *T H W 3"], training: UInt8[np.ndarray, "M *T H W 3"]
) -> Nearest:
    """The training picture, or clip, with the least squared difference.

    `training` may be memory-mapped.
    """
    flat = levels(pictures)
    row = np.zeros(len(flat), int)
    least = np.full(len(flat), np.inf)
    for start in range(0, len(training), CHUNK):
        part = levels(training[start : start + CHUNK])
        apart = (part**2).sum(1) - 2 * flat @ part.T  # but for what is the same for all
        row = np.where(apart.min(1) < least, start + apart.argmin(1), row)
        least = np.minimum(apart.min(1), least)
    return Nearest(row, (least + (flat**2).sum(1)) / flat.shape[1])


def levels(pictures: UInt8[np.ndarray, "N *T H W 3"]) -> Float[np.ndarray, "N P"]:
    """In double precision, in which sums of products of levels are exact."""
    return pictures.reshape(len(pictures), -1).astype(np.float64)

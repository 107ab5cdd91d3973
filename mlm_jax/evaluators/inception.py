"""Features of Inception-v3, by which FID and KID are published, from a file of its weights.

The network of arXiv:1512.00567 as FID's own is (arXiv:1706.08500): means over what lies inside the
picture alone, and in the last block a largest value for a mean. Tensors have torchvision's names.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mlm_jax.config import UserError
from mlm_jax.pretrained.files import Stored, safetensors

SIDE = 299
BATCH = 16
EPS = 1e-3
WINDOW = (3, 3)

Map = Float[Array, "B H W C"]
Weights = Mapping[str, tuple[Any, Any]]
"""A kernel (h, w, C, D) and a bias (D,) by the name of the convolution."""
Pool = Callable[[Map], Map]


class Inception(NamedTuple):
    """The network, with the batch norm of each convolution multiplied out."""

    path: Path
    weights: Weights

    def see(self, pictures: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N 2048"]:
        """BATCH pictures at a time. Raises: UserError for clips."""
        if pictures.ndim != 4:
            raise UserError(f"{self.path} sees pictures, and these are clips")
        parts = (pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH))
        return np.concatenate([np.asarray(features(self.weights, part)) for part in parts])


def load(path: Path) -> Inception:
    """Raises: UserError for a file of another network, or a damaged one."""
    stored = dict(safetensors(path))
    weights = dict(folded(stored, path))
    picture = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.uint8)
    try:
        jax.eval_shape(features, weights, picture)
    except KeyError as error:
        raise UserError(
            f"{path} has no {error.args[0]}.conv.weight: it is no Inception-v3 with the names of"
            " torchvision"
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no Inception-v3, its shapes do not fit: {error}") from error
    return Inception(path, weights)


def folded(
    stored: Mapping[str, Stored], path: Path
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Convolutions by name, each multiplied out with its batch norm. Raises: UserError."""
    for name in (each.removesuffix(".conv.weight") for each in stored if ".conv.weight" in each):
        parts = [f"{name}.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if missing := [part for part in parts if part not in stored]:
            raise UserError(f"{path} has no {', '.join(missing)}")
        scale, shift, mean, variance = (stored[part].read().astype(np.float32) for part in parts)
        scale = scale / np.sqrt(variance + EPS)
        kernel = stored[f"{name}.conv.weight"].read().astype(np.float32).transpose(2, 3, 1, 0)
        yield name, (kernel * scale, shift - mean * scale)


@jax.jit
def features(weights: Weights, pictures: UInt8[Array, "B H W 3"]) -> Float[Array, "B 2048"]:
    """What the last layer before the classes sees: the mean over places."""
    x = jnp.asarray(pictures, jnp.float32) / 127.5 - 1
    x = jax.image.resize(x, (len(x), SIDE, SIDE, 3), "linear", antialias=False)
    conv, inside = partial(convolved, weights), partial(convolved, weights, padding="VALID")
    x = inside("Conv2d_1a_3x3", x, stride=2)
    x = conv("Conv2d_2b_3x3", inside("Conv2d_2a_3x3", x))
    x = inside("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", halved(x)))
    x = halved(x)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = wide(partial(chain, weights, name), x)
    x = first_reduction(partial(chain, weights, "Mixed_6a"), x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = crossed(partial(chain, weights, name), x)
    x = second_reduction(partial(chain, weights, "Mixed_7a"), x)
    x = forked(partial(chain, weights, "Mixed_7b"), x, mean)
    x = forked(partial(chain, weights, "Mixed_7c"), x, largest)
    return x.mean((1, 2))


# --- its blocks, figures 5 to 7 of the paper; `branch` is a chain of convolutions by name ---

Branch = Callable[..., Map]


def wide(branch: Branch, x: Map) -> Map:
    return join(
        branch(x, "branch1x1"),
        branch(x, "branch5x5_1", "branch5x5_2"),
        branch(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        branch(mean(x), "branch_pool"),
    )


def first_reduction(branch: Branch, x: Map) -> Map:
    return join(
        branch(x, "branch3x3", stride=2),
        branch(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2),
        halved(x),
    )


def crossed(branch: Branch, x: Map) -> Map:
    return join(
        branch(x, "branch1x1"),
        branch(x, *(f"branch7x7_{i}" for i in (1, 2, 3))),
        branch(x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
        branch(mean(x), "branch_pool"),
    )


def second_reduction(branch: Branch, x: Map) -> Map:
    return join(
        branch(x, "branch3x3_1", "branch3x3_2", stride=2),
        branch(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)), stride=2),
        halved(x),
    )


def forked(branch: Branch, x: Map, pool: Pool) -> Map:
    narrow = branch(x, "branch3x3_1")
    double = branch(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return join(
        branch(x, "branch1x1"),
        *(branch(narrow, f"branch3x3_2{side}") for side in "ab"),
        *(branch(double, f"branch3x3dbl_3{side}") for side in "ab"),
        branch(pool(x), "branch_pool"),
    )


def chain(weights: Weights, block: str, x: Map, *names: str, stride: int = 1) -> Map:
    """One convolution after the other; the last in steps of `stride`, which see no edge if 2."""
    *before, last = names
    for name in before:
        x = convolved(weights, f"{block}.{name}", x)
    padding = "VALID" if stride > 1 else "SAME"
    return convolved(weights, f"{block}.{last}", x, stride, padding)


def convolved(weights: Weights, name: str, x: Map, stride: int = 1, padding: str = "SAME") -> Map:
    kernel, bias = weights[name]
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y + bias)


def join(*branches: Map) -> Map:
    return jnp.concatenate(branches, axis=-1)


def mean(x: Map) -> Map:
    return nn.avg_pool(x, WINDOW, padding="SAME", count_include_pad=False)


def largest(x: Map) -> Map:
    return nn.max_pool(x, WINDOW, padding="SAME")


def halved(x: Map) -> Map:
    return nn.max_pool(x, WINDOW, (2, 2))

"""Random weights of Inception-v3 and pictures for it, the same wherever they are drawn."""

from collections.abc import Mapping

import numpy as np


def weigh(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Of convolutions (out, in, height, width) by name, and their batch norms."""
    found = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        rng = np.random.default_rng(number)
        width = shape[0]
        spread = np.sqrt(2 / np.prod(shape[1:]))
        found[f"{name}.conv.weight"] = rng.normal(0, spread, shape)
        found[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, width)
        found[f"{name}.bn.bias"] = rng.normal(0, 0.1, width)
        found[f"{name}.bn.running_mean"] = rng.normal(0, 0.1, width)
        found[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, width)
    return {name: array.astype(np.float32) for name, array in found.items()}


def pictures() -> dict[str, np.ndarray]:
    """Small ones, and one that is larger than what the network sees."""
    rng = np.random.default_rng(0)
    return {
        f"of_{side}": rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
        for side, count in ((48, 2), (320, 1))
    }

"""Inception-v3 against FID's own network, and files that are none."""

import re
from pathlib import Path

import numpy as np
import pytest
from inception_weights import pictures, weigh
from safetensors.numpy import save_file

from mlm_jax.config import UserError
from mlm_jax.evaluators import inception

GOLDEN = Path(__file__).parent / "golden" / "inception.npz"


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as golden:
        shapes = zip(golden["names"].tolist(), golden["shapes"].tolist(), strict=True)
        return weigh({name: tuple(shape) for name, shape in shapes})


@pytest.fixture(scope="module")
def file(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(weights, path)
    return path


def test_features_are_those_of_fid(file: Path) -> None:
    net = inception.load(file)
    with np.load(GOLDEN) as golden:
        for name, shown in pictures().items():
            np.testing.assert_allclose(net.see(shown), golden[name], rtol=1e-4, atol=1e-4)


def test_what_is_no_inception_is_refused(
    file: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="sees pictures, and these are clips"):
        inception.load(file).see(np.zeros((1, 2, 48, 48, 3), np.uint8))
    part = tmp_path / "part.safetensors"
    first, bias = "Conv2d_1a_3x3", "Conv2d_1a_3x3.bn.bias"
    some = {name: array for name, array in weights.items() if first not in name}
    other = {f"{first}.conv.weight": np.zeros((32, 4, 3, 3), np.float32)}
    without = {name: array for name, array in weights.items() if name != bias}
    for given, told in (
        (some, rf"part\.safetensors has no {first}\.conv\.weight: it is no Inception-v3"),
        (weights | other, "its shapes do not fit"),
        (without, rf"has no {re.escape(bias)}"),
    ):
        save_file(given, part)
        with pytest.raises(UserError, match=told):
            inception.load(part)
    part.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"part\.safetensors"):
        inception.load(part)

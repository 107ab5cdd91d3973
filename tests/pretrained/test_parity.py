"""Live against the reference, over drawn sizes; needs the extra `parity`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlm_jax.paths import named
from mlm_jax.pretrained import load, save

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import ours  # noqa: E402
import reference  # noqa: E402

NAMES = list(reference.CASES)
SEEDS = [int(seed) for seed in os.environ.get("MLM_JAX_PARITY_SEEDS", "0,1").split(",")]
WRITERS = [name for name in NAMES if reference.CASES[name].generate]
OLD_PYTHON = os.environ.get("MLM_JAX_TRANSFORMERS_4")


def make(name: str, seed: int, regime: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(seed)
    drawn = reference.draw(seed * len(NAMES) + NAMES.index(name))
    model = reference.weigh(reference.CASES[name].make(drawn), seed, regime)
    model.save_pretrained(folder)
    return model, drawn


@pytest.mark.parametrize("regime", ["default", "wide"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_reference(
    name: str, seed: int, regime: str, tmp_path: Path
) -> None:
    model, drawn = make(name, seed, regime, tmp_path / "model")
    compare(name, model, tmp_path / "model", reference.inputs(drawn, seed=seed))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("Bert", "GPT2"))])
def test_pixels_beside_whole_patches_are_not_seen(name: str, tmp_path: Path) -> None:
    drawn = reference.draw(1)
    drawn["pixels"] += drawn["patch"] - 1
    model = reference.weigh(reference.CASES[name].make(drawn), 1, "wide")
    model.save_pretrained(tmp_path)
    compare(name, model, tmp_path, reference.inputs(drawn))


def compare(name: str, model: Any, folder: Path, given: reference.Arrays) -> None:
    with torch.no_grad():
        wanted = reference.CASES[name].run(model, given)
    read = load(folder)
    found = ours.run(read.model, read.params, given)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        # rounding grows with the size of what is added up, so for large logits so does the bound
        bound = 2e-5 * max(1.0, float(np.abs(value).max()) / 2)
        assert np.abs(found[key] - value).max() < bound, key


@pytest.mark.parametrize("name", WRITERS)
def test_fifty_texts_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    model, drawn = make(name, 5, "wide", tmp_path / "model")
    given = reference.inputs(drawn, rows=50, seed=5)
    case = reference.CASES[name]
    assert case.generate is not None
    with torch.no_grad():
        wanted = case.generate(model, given)
    read = load(tmp_path / "model")
    np.testing.assert_array_equal(ours.write(read.model, read.params, given), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_loads_in_the_reference(name: str, dtype: str, tmp_path: Path) -> None:
    """Nothing missing, unexpected or of another shape; every tensor bit for bit; in shards too."""
    model, _ = make(name, 3, "wide", tmp_path / "model")
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "cast")
    read = load(tmp_path / "cast")
    for shard in (20_000, 5_000_000_000):
        out = tmp_path / f"out{shard}"
        save(out, read.model, read.params, config=read.config, idle=read.idle, shard=shard)
        again = load(out)
        before, after = named(read.params), named(again.params)
        assert before.keys() == after.keys()
        assert all(before[k].dtype == after[k].dtype for k in before)
        assert all(before[k].tobytes() == after[k].tobytes() for k in before)
        there, info = type(model).from_pretrained(out, output_loading_info=True, dtype=dtype)
        assert not any(info.values()), info
        state = model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in there.state_dict().items())


@pytest.mark.skipif(not OLD_PYTHON, reason="MLM_JAX_TRANSFORMERS_4: a Python with transformers 4")
def test_what_is_written_loads_in_transformers_4(tmp_path: Path) -> None:
    for name in NAMES:
        make(name, 3, "wide", tmp_path / "model")
        read = load(tmp_path / "model")
        save(tmp_path / "out" / name, read.model, read.params, config=read.config, idle=read.idle)
    script = Path(__file__).with_name("loads_in_4.py")
    done = subprocess.run(
        [str(OLD_PYTHON), script, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == set(NAMES)
    assert not any(any(problems.values()) for problems in told.values()), told

"""What is saved comes back bit for bit; what is damaged is noticed."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.checkpoint import Checkpoints, digest, restore_params, steps
from mlm_jax.config import UserError
from mlm_jax.paths import named


def trees(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    kernel = rng.normal(size=(64, 65)).astype(np.float32)
    kernel[0, :3] = [np.nan, -0.0, np.inf]
    return {
        "params": {"image": {"kernel": jnp.asarray(kernel), "half": jnp.ones(5, jnp.bfloat16)}},
        "opt": {"0": {"count": jnp.array(step, jnp.int32)}},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with steps 1, 2 and 3; 0 was dropped, since three are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in range(4):
        checkpoints.save(step, trees(step), {"batches": step, "window": [{"loss": 0.1}]})
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def restore(run: Path) -> Any:
    checkpoints = Checkpoints(run / "checkpoints", keep=3)
    try:
        return checkpoints.restore()
    finally:
        checkpoints.close()


def damage(run: Path, step: int) -> None:
    """Flip one byte in the middle of the largest file."""
    files = [p for p in (run / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_what_is_saved_does_not_change_under_later_steps(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    array = np.zeros((8, 1_000_000), np.float32)
    checkpoints.save(0, {"params": {"x": array}}, {"batches": 0, "window": []})
    array[:] = 1
    checkpoints.wait()
    saved = checkpoints.restore()
    checkpoints.close()
    assert saved is not None
    assert not saved.trees["params"]["x"].any()


def test_comes_back_bit_for_bit(run: Path) -> None:
    saved = restore(run)
    assert saved.step == 3
    assert saved.info["batches"] == 3
    assert saved.info["window"] == [{"loss": 0.1}]
    want, have = named(trees(3)), named(saved.trees)
    assert want.keys() == have.keys()
    for path, leaf in want.items():
        assert have[path].dtype == leaf.dtype
        assert have[path].tobytes() == np.asarray(leaf).tobytes(), path


def test_the_last_ones_are_kept(run: Path) -> None:
    assert steps(run / "checkpoints") == [1, 2, 3]


def test_nothing_yet(tmp_path: Path) -> None:
    assert restore(tmp_path) is None
    with pytest.raises(UserError, match="no checkpoint yet"):
        restore_params(tmp_path)


def test_digest_sees_bits_dtype_and_shape() -> None:
    zeros = np.zeros((2, 3), np.float32)
    others = [-zeros, zeros.T, zeros.astype(np.int32), zeros.ravel(), np.ones_like(zeros)]
    assert digest(zeros) == digest(zeros.copy())
    assert digest(zeros) not in [digest(other) for other in others]


def test_damage_is_noticed_and_an_older_step_used(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(run, 3)
    assert restore_params(run)[0] == 2
    assert steps(run / "checkpoints") == [1, 2, 3]
    assert restore(run).step == 2
    assert f"WARNING: checkpoint {run / 'checkpoints' / '3'} is damaged" in capfd.readouterr().err
    assert steps(run / "checkpoints") == [1, 2]
    assert (run / "damaged" / "3").is_dir()


def test_the_step_can_be_saved_again(run: Path) -> None:
    damage(run, 3)
    checkpoints = Checkpoints(run / "checkpoints", keep=3)
    checkpoints.restore()
    checkpoints.save(3, trees(3), {})
    checkpoints.wait()
    checkpoints.close()
    assert restore(run).step == 3


@pytest.mark.parametrize("name", ["params", "opt", "info"])
def test_missing_parts_are_noticed(run: Path, name: str) -> None:
    (run / "checkpoints" / "3" / name).rename(run / "gone")
    assert restore(run).step == 2


def test_truncated_files_are_noticed(run: Path) -> None:
    for path in (run / "checkpoints" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert restore(run).step == 2


def test_swapped_arrays_are_noticed(run: Path) -> None:
    """Both parts are whole, but of different steps: only the digests tell."""
    (run / "checkpoints" / "3" / "params").rename(run / "gone")
    (run / "checkpoints" / "2" / "params").rename(run / "checkpoints" / "3" / "params")
    assert restore(run).step == 1


def test_never_begins_anew_in_silence(run: Path) -> None:
    for step in (1, 2, 3):
        damage(run, step)
    with pytest.raises(UserError, match="found, all damaged: 1, 2, 3"):
        restore(run)
    with pytest.raises(UserError, match="found, all damaged: 1, 2, 3"):
        restore_params(run)
    assert steps(run / "checkpoints") == [1, 2, 3]


def test_half_written_step_is_not_read(run: Path) -> None:
    (run / "checkpoints" / "3").rename(run / "checkpoints" / "3.orbax-checkpoint-tmp-1")
    assert restore(run).step == 2


def test_params_are_the_average_where_there_is_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(5, trees(5), {})
    checkpoints.save(6, {**trees(6), "ema": {"mean": jnp.ones(2)}}, {})
    checkpoints.wait()
    checkpoints.close()
    step, params = restore_params(tmp_path)
    assert step == 6
    np.testing.assert_array_equal(params["mean"], 1)


def test_what_changes_after_save_returns_is_not_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    mutable, window = np.zeros(1000, np.float32), [{"loss": 1.0}]
    checkpoints.save(1, {"params": {"x": mutable}}, {"window": window})
    mutable[:] = 1
    window.clear()
    checkpoints.close()
    saved = restore(tmp_path)
    assert saved.trees["params"]["x"].max() == 0
    assert saved.info["window"] == [{"loss": 1.0}]


FULL = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from mlm_jax.checkpoint import Checkpoints, steps
    from mlm_jax.config import UserError
    folder = Path(sys.argv[1])
    checkpoints = Checkpoints(folder, keep=3)
    checkpoints.save(1, {"params": {"x": np.random.default_rng(0).normal(size=1000)}}, {})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what follows does not fit
    try:
        checkpoints.save(2, {"params": {"x": np.random.default_rng(0).normal(size=100_000)}}, {})
        checkpoints.wait()
    except UserError as error:
        print(error)
    assert steps(folder) == [1], steps(folder)
"""


def test_full_disk_leaves_earlier_steps(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / "checkpoints")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout
    assert "steps that are whole: 1" in done.stdout
    assert restore(tmp_path).step == 1

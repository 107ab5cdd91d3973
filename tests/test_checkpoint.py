"""What is saved comes back bit for bit; what is damaged is noticed."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.checkpoint import (
    Checkpoints,
    Saved,
    digest,
    manifest,
    on_one_device,
    read,
    restore_params,
    steps,
)
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


def like(tree: Any) -> Any:
    """The shapes of a tree, to lie on one device."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


WANTED = like(trees(0))


def restore(run: Path, wanted: Any = WANTED) -> Any:
    checkpoints = Checkpoints(run / "checkpoints", keep=3)
    try:
        return checkpoints.restore(wanted)
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
    array = jnp.zeros((8, 1_000_000))
    wanted = like({"params": {"x": array}})
    checkpoints.save(0, {"params": {"x": array}}, {"batches": 0, "window": []})
    jax.jit(lambda x: x + 1, donate_argnums=0)(array)
    assert array.is_deleted()
    checkpoints.wait()
    saved = checkpoints.restore(wanted)
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


def test_digest_sees_bits_dtype_place_and_shape() -> None:
    zeros = jnp.zeros((2, 3))
    arrays = [zeros, -zeros, zeros.T, zeros.astype(jnp.int32), zeros.ravel(), zeros.at[1, 2].set(1),
              zeros.at[1, 1].set(1), zeros.astype(bool), zeros.astype(jnp.bfloat16)]  # fmt: skip
    entries = [str(manifest({"x": array})) for array in arrays]
    assert manifest({"x": zeros}) == manifest({"x": zeros.copy()})
    assert len(set(entries)) == len(arrays)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, bool, np.int8])
def test_digest_is_that_of_the_docstring(dtype: Any) -> None:
    """Again, in whole numbers of Python."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2 if dtype is bool else 100, (3, 4, 5)).astype(dtype)
    total, full = 0, 2**32
    bits = array.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.itemsize])
    for place, word in enumerate(bits.ravel().tolist()):
        x = word ^ ((place + 1) * 0x9E3779B1 % full)
        x = (x ^ (x >> 16)) * 0x85EBCA6B % full
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % full
        total += x ^ (x >> 16)
    assert int(digest(jnp.asarray(array))) == total % full


def test_digest_is_the_same_however_the_array_lies() -> None:
    mesh = jax.make_mesh((2, 4), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)
    array = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    for spec in (("a", "b"), (None, "a"), (("a", "b"),), ()):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        assert int(digest(jax.device_put(array, place))) == int(digest(jnp.asarray(array)))


def test_many_arrays_over_few_devices_of_a_cpu() -> None:
    """Two hundred sums over two devices; begun together they wait for each other for ever."""
    script = """
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        from mlm_jax.checkpoint import manifest
        mesh = jax.make_mesh((2,), ("fsdp",))
        place = jax.NamedSharding(mesh, jax.P("fsdp"))
        array = jax.device_put(jax.numpy.ones((512, 64)), place)
        print(len(manifest({"params": {str(i): array for i in range(200)}})))
    """
    code = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(code, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "200\n"


@pytest.mark.parametrize("disagreed", [1, 2, 3])
def test_what_another_process_cannot_read_is_not_taken(
    run: Path, monkeypatch: pytest.MonkeyPatch, disagreed: int
) -> None:
    """Its facts, its arrays, their digests: all go on from the same step."""
    asked: list[bool] = []

    def agree(good: bool) -> bool:
        asked.append(good)
        return good and len(asked) != disagreed

    monkeypatch.setattr("mlm_jax.processes.agree", agree)
    step = steps(run / "checkpoints")[-1]
    assert read(run / "checkpoints", step, on_one_device) == "cannot be read by another process"
    assert asked == [True] * disagreed


def test_comes_back_onto_another_mesh(run: Path) -> None:
    mesh = jax.make_mesh((2, 4), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(leaf: Any) -> Any:
        where = rows if leaf.ndim == 2 else whole
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    saved = restore(run, jax.tree.map(place, WANTED))
    kernel = saved.trees["params"]["image"]["kernel"]
    assert kernel.sharding == rows
    want = np.asarray(trees(3)["params"]["image"]["kernel"])
    assert np.asarray(kernel).tobytes() == want.tobytes()


def test_the_best_are_kept_besides_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, best=2)
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0]):
        checkpoints.save(step, trees(step), {}, loss)
    checkpoints.close()
    assert steps(tmp_path / "checkpoints") == [1, 2, 4]
    assert restore_params(tmp_path)[0] == 4
    (tmp_path / "config.json").write_text('{"keep_best": 2}')
    assert restore_params(tmp_path)[0] == 1
    damage(tmp_path, 1)
    assert restore_params(tmp_path)[0] == 2


def test_another_model_is_told_from_damage(run: Path) -> None:
    other = like({"params": {"image": {"kernel": jnp.ones(3)}}, "opt": trees(0)["opt"]})
    with pytest.raises(UserError, match=r"kernel is float32 \(64, 65\), not float32 \(3,\)"):
        restore(run, other)
    with pytest.raises(UserError, match="params/image/half is unknown"):
        restore(run, other)


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
    checkpoints.restore(WANTED)
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


FULL = """
    import resource, sys
    from pathlib import Path
    import jax
    from mlm_jax.checkpoint import Checkpoints, steps
    from mlm_jax.config import UserError
    folder = Path(sys.argv[1])
    checkpoints = Checkpoints(folder, keep=3)
    x = jax.random.normal(jax.random.key(0), 100_000)
    checkpoints.save(1, {"params": {"x": x[:1000]}}, {})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what follows does not fit
    try:
        checkpoints.save(2, {"params": {"x": x}}, {})
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
    wanted = like({"params": {"x": jnp.zeros(1000)}})
    assert restore(tmp_path, wanted).step == 1


def hurt(folder: Path, rng: np.random.Generator) -> str:
    """Flip one bit of a file below `folder`, or cut its end off; what was done."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    at = int(rng.integers(len(content)))
    if rng.random() < 0.3:
        path.write_bytes(content[:at])
        return f"{path.relative_to(folder)} cut to {at} of {len(content)} bytes"
    content[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"{path.relative_to(folder)} byte {at} of {len(content)}"


def damages(tmp_path: Path, count: int) -> tuple[int, int]:
    """Of `count` damaged steps: how many are refused, how many come back as they were."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, trees(1), {"batches": 1, "window": [{"loss": 0.1}]})
    checkpoints.close()
    whole = read(tmp_path / "checkpoints", 1, on_one_device)
    assert isinstance(whole, Saved)
    refused, harmless = 0, 0
    for seed in range(count):
        copy = tmp_path / f"copy-{seed}"
        shutil.copytree(tmp_path / "checkpoints", copy)
        done = hurt(copy / "1", np.random.default_rng(seed))
        saved = read(copy, 1, on_one_device)
        if isinstance(saved, str):
            refused += 1
        else:
            assert saved.info == whole.info, done
            for path, leaf in named(whole.trees).items():
                have = np.asarray(named(saved.trees)[path])
                assert have.tobytes() == np.asarray(leaf).tobytes(), done
            harmless += 1
        shutil.rmtree(copy)
    return refused, harmless


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_loads_in_silence(tmp_path: Path) -> None:
    refused, _ = damages(tmp_path, 20)
    assert refused >= 5


@pytest.mark.scale
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_none_of_five_hundred_damages_loads_in_silence(tmp_path: Path) -> None:
    refused, harmless = damages(tmp_path, 500)
    print(f"{refused} refused, {harmless} in bytes that are not read")
    assert refused + harmless == 500
    assert refused >= 200

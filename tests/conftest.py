"""What tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

# Tests compile more than they compute: LLVM without its optimisations takes a third less time. It
# has to be said before jax starts.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

import jax
import pytest
from jaxtyping import install_import_hook

# Wrong shapes and dtypes fail at the function that was called, by the name of the argument.
TYPED = ("layers", "encoders", "fusion", "decoders", "models", "losses")
install_import_hook([f"mlm_jax.{name}" for name in TYPED], "beartype.beartype")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="session")
def _one_device() -> Iterator[None]:
    """Training runs on one of the simulated devices, but for tests that ask for more."""
    from mlm_jax import sharding  # after the hook above

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(autouse=True, scope="module")
def _few_maps() -> Iterator[None]:
    """Let programs go before there are too many: each is some 200 maps of memory, 350 tests have
    left 27,000, and a process may have 65,530, beyond which it ends in a segmentation fault."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture
def strict() -> Iterator[None]:
    """No dtype is promoted in silence (optax and flax's bfloat16 norms do promote)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real data sets: MLM_JAX_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MLM_JAX_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the shared data sets are not at {folder} (set MLM_JAX_DATA)")
    return folder

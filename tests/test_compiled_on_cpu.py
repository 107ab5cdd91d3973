"""What a script has XLA make of a program on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def printed(code: str, **surroundings: str) -> str:
    """By a process of its own, as flags and cores are read once."""
    given = {**os.environ, "JAX_PLATFORMS": "cpu", **surroundings}
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, check=True, text=True
    )
    return done.stdout


CONVOLUTION = """
from mlm_jax.command import convolve_by_eigen
{before}
import jax, jax.numpy as jnp
def convolved(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
x, kernel = jnp.ones((4, 24, 24, 32)), jnp.ones((3, 3, 32, 32))
print(jax.jit(convolved).lower(x, kernel).compile().as_text())
"""


@pytest.mark.parametrize("told", ["", "--xla_backend_optimization_level=1"])
def test_convolutions_are_not_left_to_one_thread(told: str) -> None:
    def program(before: str, flags: str) -> str:
        return printed(CONVOLUTION.format(before=before), XLA_FLAGS=flags)

    assert "__ynn_fusion" not in program("convolve_by_eigen()", told)
    if "__ynn_fusion" not in program("", told):
        pytest.skip("this version of XLA does not leave them to YNNPACK")
    own = "--xla_cpu_experimental_ynn_fusion_type=+individual_convolution"
    assert "__ynn_fusion" in program("convolve_by_eigen()", own), "what the user says counts"


ELEMENTS = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{count}])
from mlm_jax.command import cache
cache()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: jax.lax.erf(x) * x).lower(jnp.ones((8, 256, 512))).compile().as_text())
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores",
)
def test_a_program_kept_by_one_core_is_not_run_on_two(tmp_path: Path) -> None:
    def program(count: int) -> str:
        code = ELEMENTS.format(count=count)
        return printed(code, XLA_FLAGS="", MLM_JAX_CACHE=str(tmp_path))

    shared = '"outer_dimension_partitions":["2"]'
    assert shared not in program(1)
    assert shared in program(2)
    assert any((tmp_path / "1_cores").iterdir())
    assert any((tmp_path / "2_cores").iterdir())

"""Whom a script has convolutions on a CPU computed by."""

import os
import subprocess
import sys

import pytest

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
        code = CONVOLUTION.format(before=before)
        given = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=given, capture_output=True, check=True, text=True
        )
        return done.stdout

    assert "__ynn_fusion" not in program("convolve_by_eigen()", told)
    if "__ynn_fusion" not in program("", told):
        pytest.skip("this version of XLA does not leave them to YNNPACK")
    own = "--xla_cpu_experimental_ynn_fusion_type=+individual_convolution"
    assert "__ynn_fusion" in program("convolve_by_eigen()", own), "what the user says counts"

"""The commands: what they refuse, and a server of its own process that is measured and ended."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import serve
from mlm_jax.config import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--batch", "0"], "--batch is 0"),
        (["--waiting", "0"], "--waiting is 0"),
        (["--seconds", "0"], "--seconds is 0"),
        (["--port", "70000"], "--port 70000"),
        (["--host", "203.0.113.1"], "--host 203.0.113.1"),
        ([], "nowhere"),
    ],
)
def test_what_is_wrong_is_said(given, why):
    port = [] if "--port" in given else ["--port", "0"]
    with pytest.raises(UserError, match=why):
        serve.main(["--run", "nowhere", *port, *given])


def test_a_port_that_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
            serve.main(["--run", "nowhere", "--port", port])


@pytest.mark.slow
def test_a_server_is_measured(run, tmp_path):
    """`experiments/serve.py` starts, answers some askers without an error, and ends."""
    command = [sys.executable, "-m", "experiments.benchmarks.serving", "--run", str(run)]
    command += ["--askers", "3", "--minutes", "0.02", "--think", "0.1", "--json", "figures.json"]
    cache = {"MLM_JAX_CACHE": str(ROOT / ".jax_cache"), "PYTHONPATH": str(ROOT)}
    cache["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    told = subprocess.run(
        command, cwd=tmp_path, env=os.environ | cache, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "interrupted" not in told.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    for part in figures["parts"].values():
        assert part["errors"] == 0
        assert part["answers"] > 0
        assert 0 < part["p50_ms"] <= part["p95_ms"] <= part["longest_ms"]
    assert figures["parts"]["many"]["askers"] == 3
    assert figures["memory_mib"]["end"] > 0

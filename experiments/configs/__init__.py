"""One experiment, one file: its docstring is its command, and it exports `config` and `tiny`."""

import os
from pathlib import Path

REAL = os.environ.get("MLM_JAX_DATA", str(Path(__file__).resolve().parents[3] / "shared" / "data"))
"""The folder of real data sets; MLM_JAX_DATA names another."""

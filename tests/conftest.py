"""What tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real data sets: MLM_JAX_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MLM_JAX_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the shared data sets are not at {folder} (set MLM_JAX_DATA)")
    return folder

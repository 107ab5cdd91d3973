"""One run and one server for all tests of the playground."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `demo` is not installed")
pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")

from served import Server, serving, write_run

from mlm_jax.serving.answering import Playground
from mlm_jax.serving.requests import Limits
from mlm_jax.trained import Trained, open_trained


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("serving") / "run")


@pytest.fixture(scope="session")
def trained(run) -> Trained:
    return open_trained(run)


@pytest.fixture(scope="session")
def server(trained) -> Iterator[Server]:
    with serving(Playground(trained, Limits(), (1, 4))) as server:
        yield server

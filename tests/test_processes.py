"""Several processes do what one does, and none of them waits for the dead."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from experiments.soak import free_port
from mlm_jax.checkpoint import steps
from mlm_jax.config import UserError
from mlm_jax.processes import Place, find, first_host
from mlm_jax.run import read_metrics

ROOT = Path(__file__).resolve().parents[1]
SLURM = {
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NODELIST": "gpu[07-10],other",
    "SLURM_JOB_ID": "123",
}
PODS = {
    "JOB_COMPLETION_INDEX": "1",
    "MLM_JAX_PROCESSES": "4",
    "MLM_JAX_COORDINATOR": "train-0-0.train",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
FLAGS = {"coordinator": "host:1234", "processes": 3, "process": 2}
NONE = dict.fromkeys(FLAGS)


# --- who a process is ---


@pytest.mark.parametrize(
    ("flags", "env", "place"),
    [
        (NONE, {}, None),
        (NONE, {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (NONE, SLURM, Place("gpu07:55650", 8, 5, "SLURM")),
        (
            NONE,
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_LOCALID": "1"},
            Place("gpu07:55650", 8, 5, "SLURM", 1),
        ),
        (NONE, {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0"},
         Place("gpu07:55650", 8, 5, "SLURM")),
        (NONE, PODS, Place("train-0-0.train:55527", 4, 1, "Kubernetes")),
        (NONE, MPI, Place("127.0.0.1:55527", 2, 1, "MPI", 1)),
        (NONE, {"PMI_SIZE": "2", "PMI_RANK": "0", "MLM_JAX_COORDINATOR": "a:1"},
         Place("a:1", 2, 0, "MPI")),
        (FLAGS, {**SLURM, **PODS, **MPI}, Place("host:1234", 3, 2, "flags")),
        (NONE, {**MPI, **PODS, **SLURM}, Place("gpu07:55650", 8, 5, "SLURM")),
        (NONE, {**MPI, **PODS}, Place("train-0-0.train:55527", 4, 1, "Kubernetes")),
    ],
)  # fmt: skip
def test_where_a_process_stands(
    flags: Mapping[str, Any], env: dict[str, str], place: Place | None
) -> None:
    assert find(flags, env) == place


@pytest.mark.parametrize(
    ("flags", "env", "message"),
    [
        ({**NONE, "processes": 2}, {}, "--processes without --coordinator --process"),
        ({**FLAGS, "process": 3}, {}, "process 3 of 3: from 0 to 2"),
        ({**FLAGS, "coordinator": "host"}, {}, "HOST:PORT"),
        (
            NONE,
            {"JOB_COMPLETION_INDEX": "0"},
            "MLM_JAX_PROCESSES is not set: how many pods .* 1 where each trains alone",
        ),
        (NONE, {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "MPI was found, but MLM_JAX_COORD"),
    ],
)
def test_contradictions(flags: Mapping[str, Any], env: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(flags, env)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node[003-005,9],other", "node003"), ("a,b", "a"), ("a", "a"), ("n[7]", "n7"),
     ("rack1-n[12,15]", "rack1-n12")],
)  # fmt: skip
def test_first_host_of_a_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


# --- real processes ---


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_pictures(tmp_path_factory.mktemp("toy") / "pictures")


def start(pictures: Path, run: Path, count: int, *words: str, **each: str) -> list[Any]:
    """`count` processes; `each` p1="--optim.lr 1" are words of process 1 alone."""
    where = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count):
        place = ["--coordinator", where, "--processes", str(count), "--process", str(index)]
        line = [sys.executable, str(ROOT / "experiments" / "train.py"), "--config", "soak",
                "--data.name", str(pictures), "--steps", "30", "--save-every", "10",
                "--run", str(run), *(place if count > 1 else []), *words,
                *each.get(f"p{index}", "").split()]  # fmt: skip
        environment = {**os.environ, "MLM_JAX_CACHE": str(pictures.parent / "cache")}
        started.append(
            subprocess.Popen(
                line,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def ends(started: list[Any], timeout: float = 600) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each."""
    outputs = [process.communicate(timeout=timeout) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, outputs, strict=True)]


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Step -> what was logged that does not depend on the clock."""
    rows = [row for row in read_metrics(run) if "loss" in row]
    return {row["step"]: {k: row[k] for k in ("loss", "accuracy", "grad_norm")} for row in rows}


def assert_same(run: Path, whole: Path) -> None:
    have, want = losses(run), losses(whole)
    assert have.keys() == want.keys()
    for step, row in want.items():
        np.testing.assert_allclose(
            list(have[step].values()), list(row.values()), rtol=2e-3, err_msg=f"step {step}"
        )


@pytest.fixture(scope="module")
def whole(pictures: Path) -> Path:
    """The run of one process."""
    run = pictures.parent / "one"
    ((code, out, error),) = ends(start(pictures, run, 1))
    assert code == 0, error
    assert "finished 30 steps" in out
    return run


@pytest.mark.scale
@pytest.mark.parametrize(
    ("count", "words"), [(2, ("--mesh.fsdp", "2")), (2, ("--mesh.tensor", "2")), (4, ())]
)
def test_several_processes_learn_what_one_learns(
    pictures: Path, whole: Path, tmp_path: Path, count: int, words: tuple[str, ...]
) -> None:
    done = ends(start(pictures, tmp_path / "run", count, *words))
    assert [code for code, _, _ in done] == [0] * count, done[-1][2]
    assert "finished 30 steps" in done[0][1]
    assert f"process 1 of {count} by flags" in done[1][1]
    assert_same(tmp_path / "run", whole)


def wait_for_step(run: Path, step: int, started: list[Any], timeout: float = 400) -> None:
    end = time.monotonic() + timeout
    while step not in steps(run / "checkpoints"):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in started), ends(started)
        time.sleep(0.05)


@pytest.mark.scale
@pytest.mark.parametrize(("victim", "then"), [(1, 2), (0, 1)])
def test_where_one_is_killed_the_others_stop_and_all_go_on(
    pictures: Path, whole: Path, tmp_path: Path, victim: int, then: int
) -> None:
    run = tmp_path / "run"
    started = start(pictures, run, 2)
    wait_for_step(run, 10, started)
    started[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    other = started[1 - victim]
    _, error = other.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert other.returncode not in (0, -signal.SIGKILL)
    assert "another process is gone" in error or "another task died" in error
    done = ends(start(pictures, run, then))
    assert [code for code, _, _ in done] == [0] * then, done[-1][2]
    assert "going on in" in done[0][1]
    assert_same(run, whole)


@pytest.mark.scale
def test_killed_twenty_times_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.soak", "--kills", "20", "--out", str(tmp_path / "out"),
         "--data.root", str(tmp_path / "data")],
        cwd=ROOT,
        env={**os.environ, "MLM_JAX_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["count"] == 20
    assert figures["in_save"] > 0
    assert figures["different"] == []


@pytest.mark.scale
def test_a_signal_to_one_stops_all_after_a_save(
    pictures: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    started = start(pictures, run, 2)
    wait_for_step(run, 10, started)
    started[1].send_signal(signal.SIGTERM)
    done = ends(started)
    assert [code for code, _, _ in done] == [128 + signal.SIGTERM] * 2, done
    assert 10 < steps(run / "checkpoints")[-1] < 30
    assert [code for code, _, _ in ends(start(pictures, run, 2))] == [0, 0]
    assert_same(run, whole)


@pytest.mark.scale
def test_another_configuration_is_found_before_the_first_step(
    pictures: Path, tmp_path: Path
) -> None:
    done = ends(start(pictures, tmp_path / "run", 2, p1="--optim.lr 0.5"))
    assert [code for code, _, _ in done] == [2, 2], done
    for _, _, error in done:
        assert "process 1 was started with another configuration" in error
        assert "optim.lr: 0.5, 0.001" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.scale
def test_a_coordinator_that_does_not_answer(pictures: Path, tmp_path: Path) -> None:
    started = start(pictures, tmp_path / "run", 2, "--join-timeout", "3")
    started[0].kill()
    started[0].communicate()
    ((code, _, error),) = ends(started[1:], timeout=60)
    assert code == 2
    assert "does not answer within 3 s (--join-timeout)" in error


@pytest.mark.scale
def test_a_process_that_never_comes(pictures: Path, tmp_path: Path) -> None:
    started = start(pictures, tmp_path / "run", 2, "--join-timeout", "5")
    started[1].kill()
    started[1].communicate()
    ((code, _, error),) = ends(started[:1], timeout=90)
    assert code == 2
    assert "not all 2 came to 127.0.0.1" in error
    assert "within 5 s (--join-timeout)" in error

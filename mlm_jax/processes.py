"""Several processes as one: who they are, and what they agree on.

One process for each host, or for each device: `jax.distributed` makes of them one machine with all
devices. Process 0 writes metrics and messages; all of them read data and write checkpoints.
"""

import argparse
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from mlm_jax.config import UserError

PORT = 55_527
TIMEOUT = 300
HEARTBEAT = 30
"""Seconds without a sign of life after which a process is taken for dead."""
GRACE = 2
"""Seconds that process 0 stays after an error, so that others come to say theirs."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that were started together."""

    coordinator: str
    """host:port of process 0."""
    count: int
    index: int
    by: str
    """How it was found out."""
    local: int | None = None
    """The one device of the host that is this process's, where a host has several processes."""


# --- who we are ---


def from_command_line(argv: Sequence[str]) -> tuple[Place | None, int, list[str]]:
    """The place by flags or else by the environment, the seconds to wait, and the other words.

    Raises: UserError for flags or variables that contradict each other.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--coordinator", metavar="HOST:PORT")
    parser.add_argument("--processes", type=int, metavar="N")
    parser.add_argument("--process", type=int, metavar="I")
    parser.add_argument("--join-timeout", type=int, metavar="SECONDS", default=TIMEOUT)
    own, rest = parser.parse_known_args(argv)
    flags = {"coordinator": own.coordinator, "processes": own.processes, "process": own.process}
    return find(flags, os.environ), own.join_timeout, rest


def find(flags: Mapping[str, Any], env: Mapping[str, str]) -> Place | None:
    """Flags, then SLURM, Kubernetes, MPI; None for a process alone. Raises: UserError."""
    given = {name: value for name, value in flags.items() if value is not None}
    if given:
        missing = [f"--{name}" for name in flags if name not in given]
        if missing:
            raise UserError(f"--{' --'.join(given)} without {' '.join(missing)}: all or none")
        named = Place(given["coordinator"], given["processes"], given["process"], "flags")
        return checked(named)
    for method in (slurm, kubernetes, mpi):
        place = method(env)
        if place is not None:
            return checked(place)
    return None


def slurm(env: Mapping[str, str]) -> Place | None:
    """A task of a SLURM step; the coordinator runs on the first host of its list."""
    if int(env.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in env:
        return None
    nodes = env.get("SLURM_STEP_NODELIST") or need(env, "SLURM_JOB_NODELIST", "SLURM")
    port = PORT + int(env.get("SLURM_JOB_ID", "0")) % 4096
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_NTASKS_PER_NODE", "1")
    several = re.match(r"1\b", per_node) is None  # such as 4(x2)
    local = int(need(env, "SLURM_LOCALID", "SLURM")) if several else None
    where = f"{first_host(nodes)}:{port}"
    return Place(where, int(env["SLURM_NTASKS"]), int(env["SLURM_PROCID"]), "SLURM", local)


def first_host(nodes: str) -> str:
    """node[003-005,9],other -> node003"""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    if found is None:
        raise UserError(f"no host in the SLURM list {nodes!r}")
    return found.group(1) + (found.group(2) or "")


def kubernetes(env: Mapping[str, str]) -> Place | None:
    """A pod of an Indexed Job; how many there are and the first one's name the job must tell."""
    if "JOB_COMPLETION_INDEX" not in env:
        return None
    count = int(need(env, "MLM_JAX_PROCESSES", "Kubernetes"))
    if count < 2:
        return None
    where = need(env, "MLM_JAX_COORDINATOR", "Kubernetes")
    where = where if ":" in where else f"{where}:{PORT}"
    return Place(where, count, int(env["JOB_COMPLETION_INDEX"]), "Kubernetes")


def mpi(env: Mapping[str, str]) -> Place | None:
    """A rank of Open MPI, or of an MPI that tells as MPICH does."""
    for size, rank, local in (
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ):
        if int(env.get(size, "1")) < 2 or rank not in env:
            continue
        several = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", env.get("MPI_LOCALNRANKS", "1"))) > 1
        all_here = env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == env[size]
        where = env.get("MLM_JAX_COORDINATOR") or ("127.0.0.1" if all_here else None)
        where = where or need(env, "MLM_JAX_COORDINATOR", "MPI")
        where = where if ":" in where else f"{where}:{PORT}"
        own = int(env[local]) if several and local in env else None
        return Place(where, int(env[size]), int(env[rank]), "MPI", own)
    return None


NEEDED = {
    "MLM_JAX_PROCESSES": "how many pods train together; 1 where each trains alone",
    "MLM_JAX_COORDINATOR": "the host of process 0, or HOST:PORT",
}


def need(env: Mapping[str, str], name: str, by: str) -> str:
    if name not in env:
        means = f": {NEEDED[name]}" if name in NEEDED else ""
        raise UserError(f"{by} was found, but {name} is not set{means}")
    return env[name]


def checked(place: Place) -> Place:
    host, _, port = place.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"coordinator {place.coordinator!r}: HOST:PORT is needed")
    if not 0 <= place.index < place.count:
        raise UserError(f"process {place.index} of {place.count}: from 0 to {place.count - 1}")
    return place


# --- joining and leaving ---


@contextmanager
def joined(place: Place | None, timeout: int = TIMEOUT) -> Iterator[None]:
    """Make one machine of all processes for the body; an error in it ends this process at once.

    Otherwise it would wait for the others at the door, and they for it: so they notice within
    seconds, or where nothing is sent, HEARTBEAT. Raises: UserError.
    """
    join(place, timeout)
    if place is None:
        yield
        return
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        gone = "another process is gone, or the network: the same command, given to all, goes on"
        leave(f"{gone} from the last checkpoint ({str(error).splitlines()[0]})", 1)
    except (UserError, ValueError, OSError) as error:
        leave(str(error), 2)


def leave(message: str, code: int) -> None:
    print(f"error: process {jax.process_index()}: {message}", file=sys.stderr, flush=True)
    if leads():
        time.sleep(GRACE)
    os._exit(code)


def join(place: Place | None, timeout: int = TIMEOUT) -> None:
    """Make one machine of all processes; followers say no more than errors from here on.

    Ends the process if they do not come together within `timeout` seconds. Raises: UserError if
    the coordinator does not answer.
    """
    if place is None:
        return
    print(f"process {place.index} of {place.count} by {place.by}, coordinator {place.coordinator}",
          flush=True)  # fmt: skip
    if place.index:
        wait_for(place.coordinator, timeout)
    # jax ends a process with a trace of its own where its timeout is over: ours is over first
    alone = threading.Timer(timeout, never_together, (place, timeout))
    alone.daemon = True
    alone.start()
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=own_device(place),
        # by itself jax would take the one device of the number of the task on its host
        cluster_detection_method="deactivate",
        initialization_timeout=timeout + HEARTBEAT,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=HEARTBEAT,
    )
    alone.cancel()
    total = int(together(np.array([jax.local_device_count()])).sum())
    if total != jax.device_count():
        raise UserError(f"{jax.device_count()} devices, but the processes have {total} in all")
    if place.index:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def never_together(place: Place, timeout: int) -> None:
    print(
        f"error: process {place.index}: not all {place.count} came to {place.coordinator} within"
        f" {timeout} s (--join-timeout)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def own_device(place: Place) -> int | None:
    """Which of the devices that a process sees is its own; None: all, as where it is shown one."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if shown is not None and "," not in shown else place.local


def wait_for(coordinator: str, timeout: int) -> None:
    """Raises: UserError if nobody answers there: jax would end the process without a word."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"the coordinator {coordinator} does not answer within {timeout} s"
                    f" (--join-timeout): {error.strerror or error}"
                ) from error
            time.sleep(0.2)


# --- what we agree on ---


def leads() -> bool:
    return jax.process_index() == 0


def together(values: np.ndarray) -> np.ndarray:
    """The values of every process, one after the other, on all of them."""
    return np.asarray(multihost_utils.process_allgather(values))


def agree(good: bool) -> bool:
    """Whether all say so; every process must ask."""
    return good if jax.process_count() == 1 else bool(together(np.array([good])).all())


@contextmanager
def leader_first() -> Iterator[None]:
    """The body is run by process 0, then by the others. Raises: UserError if it failed there."""
    if jax.process_count() == 1:
        yield
        return
    if not leads():
        if not agree(True):
            raise UserError("process 0 stopped; its message says why")
        yield
        return
    try:
        yield
    except BaseException:
        agree(False)
        raise
    agree(True)


def most(values: Sequence[int]) -> Any:
    """The largest of each of the values over all processes, on its way: nothing waits for it."""
    mine = np.array([values], np.int32)
    rows = NamedSharding(all_devices(), PartitionSpec("process"))
    return largest()(jax.make_array_from_process_local_data(rows, mine))


@cache
def all_devices() -> jax.sharding.Mesh:
    grid = np.array(jax.devices()).reshape(jax.process_count(), -1)
    return jax.sharding.Mesh(grid, ("process", "local"))


@cache
def largest() -> Any:
    everywhere = NamedSharding(all_devices(), PartitionSpec())
    return jax.jit(lambda x: jnp.max(x, axis=0), out_shardings=everywhere)


def same(text: str) -> list[str]:
    """The texts of all processes if they differ, else nothing."""
    if jax.process_count() == 1:
        return []
    mine = np.frombuffer(text.encode(), np.uint8)
    room = int(together(np.array([len(mine)])).max())
    rows = together(np.pad(mine, (0, room - len(mine))))
    texts = [row.tobytes().rstrip(b"\0").decode() for row in rows]
    return texts if len(set(texts)) > 1 else []

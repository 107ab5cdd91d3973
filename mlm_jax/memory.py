"""Memory that is free, and what a compiled program needs of it."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax


def needed(program: jax.stages.Compiled) -> int:
    """Bytes on a device besides what the program is given; 0 where the compiler does not tell."""
    sizes: Any = program.memory_analysis()
    if sizes is None:
        return 0
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes  # the rest is what was given
    return int(sizes.temp_size_in_bytes + new)


def free() -> int:
    """Bytes that are free on the accelerator, no end where it does not tell, or beside a CPU."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return free_on_host()
    found = device.memory_stats() or {}
    return int(found.get("bytes_limit", sys.maxsize) - found.get("bytes_in_use", 0))


def free_on_host(system: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that the system has left, and a control group (v2) that the process may be in."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        fields = dict(line.split(":") for line in system.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) << 10
    with suppress(OSError, ValueError):  # without a limit it is "max"
        most = int((group / "memory.max").read_text())
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, most - int(used["anon"]))
    return free

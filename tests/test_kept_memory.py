"""A script keeps the memory of a step."""

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import ctypes, resource
from mlm_jax.command import keep_memory
{before}
size, libc = 64 << 20, ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # no huge pages: a few would do
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def take():
    piece = libc.malloc(size)
    libc.memset(piece, 1, size)
    libc.free(piece)
take()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or Path("/dev/nvidiactl").exists(),
    reason="on glibc, and where there is no GPU",
)
def test_memory_that_was_freed_is_used_again() -> None:
    def faults(before: str) -> int:
        code = FAULTS.format(before=before)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return int(done.stdout)

    assert faults("keep_memory()") < 100, "pages that the system had to clear"
    assert faults("") > 1000, "it is not so without"

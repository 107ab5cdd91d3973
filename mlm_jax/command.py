"""What the scripts of experiments/ share: the command line, mistakes as messages, the cache."""

import argparse
import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jaxlib.version

from mlm_jax.checks import check
from mlm_jax.config import Config, UserError, folder, load, names, override, read
from mlm_jax.terminal import printable_lines

STARTED = time.monotonic()
# of glibc's mallopt, and their numbers in malloc.h
ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1


def main(verb: Callable[[Sequence[str]], int]) -> int:
    """Run `verb` on the command line; the exit code: 2 for a user's mistake, 130 after Ctrl-C."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        convolve_by_eigen()
        cache()
        return verb(sys.argv[1:])
    # data and models raise ValueError for what a user can put right, the system OSError
    except (UserError, ValueError, OSError) as error:
        if os.environ.get("MLM_JAX_TRACEBACK"):
            raise
        print(f"error: {printable_lines(message(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def cli(argv: Sequence[str], program: str = "train.py") -> tuple[Config, Path]:
    """`--config NAME [--run DIR] [--key value ...]` -> the configuration and the run directory.

    Without --config, an existing --run DIR gives the configuration. DIR is runs/NAME by default.
    Raises: UserError; SystemExit(2) with a message by tyro for unknown keys and wrong values.
    """
    parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="NAME")
    parser.add_argument("--run", metavar="DIR", type=Path)
    own, rest = parser.parse_known_args(argv)
    if own.config is not None:
        config = load(own.config)
        title = f"{program} --config {own.config}"
    elif own.run is not None and (own.run / "config.json").exists():
        config = read(own.run)
        title = f"{program} --run {own.run}"
    elif own.run is not None and not {"-h", "--help"} & {*rest}:
        raise UserError(f"--run {own.run}: no run is there; a new one needs --config NAME")
    else:
        print(usage(program))
        raise SystemExit(0 if {"-h", "--help"} & {*rest} else 2)
    run = own.run or Path("runs") / Path(own.config).name.removesuffix(".py").replace(":", "-")
    config = override(config, rest, title)
    check(config)
    return config, run


def usage(program: str) -> str:
    known = "\n".join(f"    {name:<16} {line}" for name, line in names().items())
    return (
        f"{program} --config NAME [--run DIR] [--key value ...]   begin, or go on with runs/NAME\n"
        f"{program} --run DIR                                    go on with an existing run\n"
        f"{program} --config NAME --help                         every key with its value\n"
        f"\nExperiments ({folder()}), or the path of a file like them:\n{known or '    none'}"
    )


def message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, UserError) or type(error).__module__.startswith("mlm_jax."):
        return str(error)
    return f"{error}\n(MLM_JAX_TRACEBACK=1 shows where)"


def convolve_by_eigen() -> None:
    """Gradients of convolutions on a CPU take half as long, a U-Net's step 0.87 times.

    XLA leaves convolutions to YNNPACK otherwise, on one thread. It reads its flags when the first
    array is made, and ends the process at one that it does not know: jaxlib 0.10.2 and 0.12.0 do.
    """
    flag, told = "--xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
    if flag not in told and (0, 10, 2) <= jaxlib.version.__version_info__ < (0, 13):
        os.environ["XLA_FLAGS"] = f"{told} {flag}=-individual_convolution".strip()


def cache() -> None:
    """Keep compiled programs in MLM_JAX_CACHE, ~/.cache/mlm_jax/jax by default; "" turns it off.

    What is read there is run, so only a folder that is ours alone is used. Each number of cores has
    a folder of its own: jax's name of a program does not tell it, and one that XLA compiled for one
    core stays on it where there are more.
    """
    place = os.environ.get("MLM_JAX_CACHE", str(Path.home() / ".cache" / "mlm_jax" / "jax"))
    if not place:
        return
    path = Path(place) / f"{cores()}_cores"
    for made in (path.parent, path):
        try:
            made.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = made.stat()
        except OSError as error:
            print(f"no compilation cache: {made}: {error.strerror}", file=sys.stderr)
            return
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            print(f"no compilation cache: others can write to {made}", file=sys.stderr)
            return
    jax.config.update("jax_compilation_cache_dir", str(path.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cores() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_memory() -> None:
    """Do not give back what was freed, but use it again: a step on a CPU takes 0.7 times as long.

    XLA takes the memory of a step at once and frees it afterwards. So large a piece is mapped anew
    each time by glibc, and the system clears it page by page. Nothing is done elsewhere than on
    glibc, where there is a GPU, and where MALLOC_... says how memory is to be had.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    told = any(name.startswith("MALLOC_") for name in os.environ)
    if mallopt is not None and not told and not Path("/dev/nvidiactl").exists():
        for option, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
            mallopt(option, value)

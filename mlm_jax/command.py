"""What the scripts of experiments/ share: mistakes as messages, and the compilation cache."""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from mlm_jax.config import UserError

STARTED = time.monotonic()


def main(verb: Callable[[Sequence[str]], int]) -> int:
    """Run `verb` on the command line; the exit code: 2 for a user's mistake, 130 after Ctrl-C."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        cache()
        return verb(sys.argv[1:])
    # data and models raise ValueError for what a user can put right, the system OSError
    except (UserError, ValueError, OSError) as error:
        if os.environ.get("MLM_JAX_TRACEBACK"):
            raise
        print(f"error: {message(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, UserError) or type(error).__module__.startswith("mlm_jax."):
        return str(error)
    return f"{error}\n(MLM_JAX_TRACEBACK=1 shows where)"


def cache() -> None:
    """Keep compiled programs in MLM_JAX_CACHE, ~/.cache/mlm_jax/jax by default; "" turns it off.

    What is read there is run, so only a folder that is ours alone is used.
    """
    place = os.environ.get("MLM_JAX_CACHE", str(Path.home() / ".cache" / "mlm_jax" / "jax"))
    if not place:
        return
    path = Path(place)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = path.stat()
    except OSError as error:
        print(f"no compilation cache: {path}: {error.strerror}", file=sys.stderr)
        return
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        print(f"no compilation cache: others can write to {path}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(path.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

"""A page to try a run on: show it pictures, ask, let it draw; and a JSON API beside it.

python experiments/serve.py --run runs/vit_tiny [--port 8000] [--host 127.0.0.1]

The description of the API is at /openapi.json. Needs the extra `demo`.
"""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tyro

from mlm_jax import command
from mlm_jax.config import UserError


@dataclass(frozen=True)
class Arguments:
    """Try a trained run in the browser."""

    run: Path
    """The run directory."""
    port: int = 8000
    """0: any that is free."""
    host: str = "127.0.0.1"
    """The address to listen at. Anything but this machine's own loopback lets others in, without a
    password."""
    names: tuple[str, ...] = ()
    """Further names by which the page may be called, where it does not listen at loopback alone."""
    batch: int = 16
    """At most so many are answered at a time."""
    waiting: int = 64
    """At most so many requests are read, wait or are answered; more are told to come again."""
    seconds: float = 30.0
    """For one answer, and again for a client to take it."""
    blocked: Path | None = None
    """Drawing: a list of words that are refused, in place of the project's own."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="serve.py", description=__doc__)
    for name, least in {"batch": 1, "waiting": 1, "port": 0}.items():
        if getattr(given, name) < least:
            raise UserError(f"--{name} is {getattr(given, name)}: at least {least}")
    if given.seconds <= 0:
        raise UserError(f"--seconds is {given.seconds:g}: over 0")
    try:
        import uvicorn

        from mlm_jax.serving.connections import protocol
        from mlm_jax.serving.server import application, hosts_of, is_loopback
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"{error.name} is missing: pip install -e '.[demo]' brings it") from error
    from mlm_jax import prompts
    from mlm_jax.serving.answering import Playground
    from mlm_jax.serving.batching import sizes_to
    from mlm_jax.serving.requests import Limits
    from mlm_jax.trained import open_trained

    listening = listen(given.host, given.port)
    limits = Limits(seconds=given.seconds, inside=given.waiting)
    playground = Playground(
        open_trained(given.run), limits, sizes_to(given.batch), given.blocked or prompts.LIST
    )
    print(f"{given.run}: step {playground.trained.step}", file=sys.stderr)
    playground.warm_up(lambda what: print(f"compiling: {what}", file=sys.stderr))
    served = application(playground, hosts_of(given.host, given.names))
    port = listening.getsockname()[1]
    if not is_loopback(given.host):
        print(
            f"warning: whoever reaches {given.host} can use this; there is no password",
            file=sys.stderr,
        )
    host = f"[{given.host}]" if ":" in given.host else given.host
    print(f"http://{host}:{port}/  (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        served.guarded,
        http=protocol(limits.seconds),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * given.waiting,
        timeout_graceful_shutdown=3,
    )
    with suppress(KeyboardInterrupt):  # which uvicorn raises once more when all is closed
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Raises: UserError where the address is in use, or is none of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port}: {reason}") from error


if __name__ == "__main__":
    sys.exit(command.main(main))

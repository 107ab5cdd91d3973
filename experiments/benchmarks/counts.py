"""What of a compiled step does not depend on the clock: FLOPs, operations, donation, host calls."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)$", re.M)
ALIAS = re.compile(r"\(\d+, \{[\d, ]*\}, (?:may|must)-alias\)")
TO_HOST = ("infeed", "outfeed", "send", "recv")
COMPILED = "/jax/core/compile/backend_compile_duration"


class Counts(NamedTuple):
    """`flops` as XLA counts them, element-wise ones too; `host`: operations that meet the host;
    `donated`: inputs whose memory the outputs take over."""

    flops: float
    operations: Counter[str]
    host: int
    donated: int


def counts(compiled: Any) -> Counts:
    """Of `jax.jit(f).lower(...).compile()`."""
    text = compiled.as_text()
    found = OPERATION.findall(text)
    host = sum(
        name in TO_HOST or (name == "custom-call" and "callback" in rest) for name, rest in found
    )
    donated = len(ALIAS.findall(text.partition("\n")[0]))
    return Counts(
        float(compiled.cost_analysis()["flops"]), Counter(name for name, _ in found), host, donated
    )


@contextmanager
def compilations() -> Iterator[Callable[[], int]]:
    """Inside, how many programs were compiled since the beginning."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: len(seen)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)

"""Signals that ask for an end: the loop saves after its step and leaves."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import jax


@dataclass
class Stop:
    """The signal that asks for an end: this process got it, or all agreed that one of them did."""

    asked: int | None = None
    agreed: int | None = None

    @property
    def signal(self) -> int | None:
        return self.asked if jax.process_count() == 1 else self.agreed


@contextmanager
def signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask the loop to save and leave; a second Ctrl-C leaves at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked is not None and number == signal.SIGINT:
            os._exit(128 + number)
        stop.asked = number
        os.write(2, b"\nstopping: saving after this step (Ctrl-C again: leave at once)\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

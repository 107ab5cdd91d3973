"""Progress: a live line where there is a terminal, plain lines where there is none."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mlm_jax.command import STARTED
from mlm_jax.config import Config

SHOWN = 6
"""Numbers of a line that are printed; all go to metrics.jsonl."""


class Progress:
    """Counts the steps of a run from `start` on."""

    def __init__(self, config: Config, start: int):
        self.steps, self.batch = config.steps, config.data.batch
        self.first = start + 1
        self.mark = (start, time.monotonic())
        self.speed = 0.0
        self.live = sys.stdout.isatty()
        columns = (
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:.0f} pictures/s"),
            TimeRemainingColumn(compact=True),
        )
        self.bar = Bar(*columns, console=Console(), disable=not self.live)
        self.task = self.bar.add_task("", total=self.steps, completed=start, loss=0.0, rate=0.0)
        self.number = start

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def advance(self, number: int, loss: float) -> None:
        """Step `number` is done."""
        self.number = number
        if number == self.first:
            self.say(f"first step {time.monotonic() - STARTED:.1f} s after the start")
            self.mark = (number, time.monotonic())
        since, then = self.mark
        passed = time.monotonic() - then
        if number > since and passed > 0:
            self.speed = (number - since) * self.batch / passed
        self.bar.update(self.task, completed=number, loss=loss, rate=self.speed)

    def rate(self) -> float:
        """Pictures a second since it was last asked, without the first step, which compiles."""
        self.mark = (self.number, time.monotonic())
        return round(self.speed, 1)

    def line(self, number: int, numbers: dict[str, float]) -> None:
        """A line of metrics, with the time to go."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:SHOWN])
        left = (self.steps - number) * self.batch / self.speed if self.speed else 0.0
        self.say(f"step {number}/{self.steps}  {shown}  {clock(left)} to go")

    def say(self, text: str) -> None:
        if self.live:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)


def clock(seconds: float) -> str:
    """3661 -> 1:01:01"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

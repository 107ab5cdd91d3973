"""How long askers of the playground wait, one alone and many at a time, over real connections.

    python -m experiments.benchmarks.serving --run runs/vit_tiny --askers 32 --minutes 5

`experiments/serve.py` runs as a process of its own, and is asked at 127.0.0.1 alone. An asker sends
a picture of the embedded world of its own, with a question or for a caption in turn, waits for the
whole answer, thinks (`--think` seconds on average, evenly from half to one and a half of that), and
asks again. Three parts: one asker alone who thinks, then many who think, for `--minutes`, then for
a shorter while one and many who do not think at all, which is as much as the server can do.
Latency is from the first byte sent to the last received; an error is any status but 200.
"""

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from experiments import serve
from experiments.benchmarks.setting import machine
from mlm_jax import command
from mlm_jax.config import UserError
from mlm_jax.run import write
from mlm_jax.world.language import questions
from mlm_jax.world.render import render
from mlm_jax.world.scene import sample

PICTURES = 64
ALONE = 40.0  # seconds of each part but the longest
MOST = 200_000  # requests, in all


@dataclass(frozen=True)
class Arguments:
    """Measure the playground."""

    run: Path
    askers: int = 32
    minutes: float = 5.0
    think: float = 1.0
    """Seconds between an answer and the next question, on average."""
    beside: str = ""
    """What else ran on the machine, to be written down."""
    json: Path | None = None
    """Write the figures there."""


@dataclass
class Part:
    """What so many askers met."""

    askers: int
    think: float
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Milliseconds, to the nearest tenth."""
        p50, p95, most = (
            round(1000 * float(np.percentile(self.latencies, share)), 1) for share in (50, 95, 100)
        )
        return {
            "askers": self.askers,
            "think_s": self.think,
            "seconds": round(self.seconds, 1),
            "answers": len(self.latencies),
            "answers_per_s": round(len(self.latencies) / self.seconds, 1),
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
            "p50_ms": p50,
            "p95_ms": p95,
            "longest_ms": most,
        }


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="serving", description=__doc__)
    if not (given.askers >= 1 and given.minutes > 0 and given.think >= 0):
        raise UserError("--askers: at least 1; --minutes: over 0; --think: at least 0")
    started = [sys.executable, serve.__file__, "--run", str(given.run), "--port", "0"]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = port_of(server.stdout.readline())
            figures = asyncio.run(measure(given, port, server.pid))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    text = json.dumps(figures, indent=1)
    print(text)
    if given.json is not None:
        write(given.json, text + "\n")
    return 0


def port_of(line: str) -> int:
    """Of the line that the server prints. Raises: UserError where it has ended instead."""
    if not line.startswith("http://127.0.0.1:"):
        raise UserError("the server did not start: see above")
    return int(line.split("/")[2].split(":")[1])


async def measure(given: Arguments, port: int, pid: int) -> dict[str, Any]:
    bodies = make_bodies()
    short = min(ALONE, 60 * given.minutes)
    await part_of(Part(given.askers, 0.0), short / 4, port, bodies)  # every path once
    resting = memory(pid)
    alone = await part_of(Part(1, given.think), short, port, bodies)
    many = await part_of(Part(given.askers, given.think), 60 * given.minutes, port, bodies)
    loaded = memory(pid)
    alone_busy = await part_of(Part(1, 0.0), short, port, bodies)
    many_busy = await part_of(Part(given.askers, 0.0), short, port, bodies)
    parts = {
        "alone": alone, "many": many, "alone_no_think": alone_busy, "many_no_think": many_busy,
    }  # fmt: skip
    told = {name: part.summary() for name, part in parts.items()}
    return {
        "run": given.run.resolve().name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "beside": given.beside,
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "memory_mib": {"start": resting, "after_many": loaded, "end": memory(pid)},
        "p95_many_over_alone": ratio(told["many"], told["alone"]),
        "p95_many_over_alone_no_think": ratio(told["many_no_think"], told["alone_no_think"]),
        "parts": told,
    }


def ratio(many: dict[str, Any], alone: dict[str, Any]) -> float:
    return round(many["p95_ms"] / alone["p95_ms"], 2)


def make_bodies() -> list[bytes]:
    """Requests about pictures of the world, every other one a question."""
    rng, bodies = np.random.default_rng(0), []
    for i in range(PICTURES):
        scene = sample(rng)
        file = io.BytesIO()
        Image.fromarray(render(scene, 48)).save(file, "PNG")
        tree = {"image": base64.b64encode(file.getvalue()).decode()}
        if i % 2:
            tree["question"] = questions(scene, rng, 1)[0].text
        bodies.append(json.dumps(tree).encode())
    return bodies


async def part_of(part: Part, seconds: float, port: int, bodies: list[bytes]) -> Part:
    """Ask for so long; the askers begin within one time of thinking."""
    begin = time.monotonic()
    askers = [
        asker(part, i, begin + seconds, port, bodies[i:] + bodies[:i]) for i in range(part.askers)
    ]
    await asyncio.gather(*askers)
    part.seconds = time.monotonic() - begin
    print(part.summary(), file=sys.stderr)
    return part


async def asker(part: Part, which: int, end: float, port: int, bodies: Sequence[bytes]) -> None:
    """On one connection that is kept, and opened again after an error."""
    rng = np.random.default_rng(which)
    await asyncio.sleep(part.think * float(rng.random()))
    count, streams = 0, await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end and len(part.latencies) + len(part.errors) < MOST:
        begin = time.monotonic()
        try:
            status = await ask(*streams, port, bodies[count % len(bodies)])
        except (OSError, EOFError) as error:
            status = repr(error)
        if status == "200":
            part.latencies.append(time.monotonic() - begin)
        else:
            part.errors.append(status)
            streams[1].close()
            streams = await asyncio.open_connection("127.0.0.1", port)
        count += 1
        await asyncio.sleep(part.think * float(rng.uniform(0.5, 1.5)))
    streams[1].close()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, body: bytes
) -> str:
    """The status of the answer, which is read to its end."""
    writer.write(
        f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
    return head.split()[1]


def memory(pid: int) -> int:
    """MiB that the server holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


if __name__ == "__main__":
    sys.exit(command.main(main))

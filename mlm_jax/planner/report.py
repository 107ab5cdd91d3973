"""A plan as text, and as JSON."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlm_jax.config import Config
from mlm_jax.planner.collectives import Collective, axes_of
from mlm_jax.planner.hardware import COMPUTE, ROOM, Hardware
from mlm_jax.planner.predict import Step, predict, seconds, sort_of
from mlm_jax.planner.program import Program, growth, unit_of

HIDES = {"summed": "2/3 of the work", "shared": "all the work", "waited": "nothing"}


@dataclass(frozen=True)
class Plan:
    """Everything that is printed."""

    name: str
    precision: str
    hardware: Hardware
    program: Program
    largest: int | None = None
    """The largest batch, for all devices; 0: not even the smallest fits; None: not asked."""

    @property
    def step(self) -> Step:
        program = self.program
        return predict(
            program.kernels, program.collectives, program.devices, self.hardware, self.precision
        )

    @property
    def room(self) -> float:
        """Bytes of a device that a program can have."""
        return ROOM * self.hardware.memory

    @property
    def fits(self) -> bool:
        return self.program.memory.total <= self.room

    @property
    def limit(self) -> str:
        return self.step.limit if self.fits else "device memory"

    def with_largest(self, config: Config, *, elsewhere: bool = True) -> "Plan":
        """Compiles the step of `config` once more, for another batch."""
        line = growth(config, self.program, elsewhere=elsewhere)
        return replace(self, largest=line.largest(self.room, unit_of(config, self.program)))

    def mfu(self, flops: float, reached: float = 1.0) -> float:
        peak = self.hardware.peak(self.precision) * reached
        return flops / (self.step.seconds * self.program.devices * peak)

    def json(self) -> dict[str, Any]:
        program = self.program
        return {
            "name": self.name,
            "precision": self.precision,
            "hardware": asdict(self.hardware),
            "mesh": program.axes,
            "batch": program.batch,
            "parameters": program.parameters,
            "memory": asdict(program.memory) | {"total": program.memory.total, "room": self.room},
            "cpu_temporary": program.cpu_temporary,
            "flops": {
                "model": program.flops,
                "causal": program.causal,
                "executed_by_a_device": program.executed,
            },
            "exchanges": [asdict(row) for row in exchanges(self)],
            "seconds": self.step.seconds,
            "parts": self.step.parts,
            "examples_per_second": program.batch / self.step.seconds,
            "mfu": self.mfu(program.flops),
            "mfu_causal": self.mfu(program.flops - program.causal),
            "limit": self.limit,
            "largest_batch": self.largest,
            "compile_seconds": program.compiling,
        }


@dataclass(frozen=True)
class Exchanges:
    """Collectives of one kind, role and axes, together."""

    kind: str
    role: str
    axes: tuple[str, ...]
    count: int
    bytes: float
    sent: float
    """By each device."""
    inside: float
    """Seconds."""
    between: float
    hides: str


def exchanges(plan: Plan) -> list[Exchanges]:
    """The rows of the table, those that take longest first."""
    alike: dict[tuple[str, str, tuple[str, ...]], list[Collective]] = defaultdict(list)
    for c in plan.program.collectives:
        alike[c.kind, c.role, axes_of(c.groups, plan.program.axes)].append(c)
    table = []
    for (kind, role, axes), them in alike.items():
        times = [seconds(c, plan.hardware) for c in them]
        table.append(
            Exchanges(
                kind=kind,
                role=role,
                axes=axes,
                count=sum(c.times for c in them),
                bytes=sum(c.times * c.bytes for c in them),
                sent=sum(c.sent for c in them),
                inside=sum(inside for inside, _ in times),
                between=sum(between for _, between in times),
                hides=HIDES[sort_of(them[0])],
            )
        )
    return sorted(table, key=lambda row: -max(row.inside, row.between))


def text(plan: Plan) -> str:
    return "\n".join([*_head(plan), *_memory(plan), *_flops(plan), *_network(plan), *_time(plan)])


def _head(plan: Plan) -> Iterator[str]:
    program, row = plan.program, plan.hardware
    mesh = " × ".join(f"{axis} {size}" for axis, size in program.axes.items())
    yield (
        f"{plan.name}: {program.parameters:,} parameters, batch {program.batch},"
        f" {program.devices} devices ({mesh}), {plan.precision};"
        f" compiled and read in {program.compiling:.0f} s"
    )
    yield (
        f"{row.name}: {row.peak(plan.precision) / 1e12:.0f} TFLOP/s, {row.memory / 1e9:.0f} GB at"
        f" {row.traffic / 1e12:.2f} TB/s, nodes of {row.per_node}, {row.link / 1e9:.0f} GB/s inside"
        f" from each device, {row.egress / 1e9:g} GB/s out of a node,"
        f" {100 * row.loss:g} % lost by each doubling of nodes"
    )
    yield f"  {row.source}"


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.program.memory
    yield "\nmemory of a device, GB"
    yield from _lines({name: f"{size / 1e9:.3f}" for name, size in asdict(memory).items()})
    own = f"{plan.program.cpu_temporary / 1e9:.3f}  not part of the sum"
    yield from _lines({"temporary, of a CPU": own})
    room = f"of {plan.room / 1e9:.1f}, {100 * ROOM:.0f} % of what it has"
    yield from _lines({"together": f"{memory.total / 1e9:.3f}  {room}"})


def largest(plan: Plan) -> str:
    """The line of the largest batch, which takes a compilation of its own."""
    found = f"{plan.largest:,}, by a line through two compiled batches"
    none = "none: the smallest that the mesh can share out does not fit"
    return next(_lines({"largest batch": found if plan.largest else none}))


def _flops(plan: Plan) -> Iterator[str]:
    program = plan.program
    share = program.flops / program.devices
    yield "\nFLOPs of matrix products, 2 for each multiply-add, T"
    yield from _lines({
        "model": f"{program.flops / 1e12:.3f}  a step on all devices, 3 × forward",
        "useless by causality": f"{program.causal / 1e12:.3f}",
        "a device": f"{program.executed / 1e12:.3f}  {program.executed / share:.2f} of its share",
    })  # fmt: skip


def _network(plan: Plan) -> Iterator[str]:
    table = exchanges(plan)
    if not table:
        return
    yield "\nexchanges in a step; GB of the whole arrays, GB that each device sends, ms alone"
    heads = ("what", "of", "over", "times", "arrays", "sent", "inside", "between", "behind")
    yield _row(*heads)
    for r in table:
        figures = (f"{r.bytes / 1e9:.3f}", f"{r.sent / 1e9:.3f}", f"{1e3 * r.inside:.2f}")
        over = "+".join(r.axes)
        yield _row(r.kind, r.role, over, str(r.count), *figures, f"{1e3 * r.between:.2f}", r.hides)


def _row(what: str, of: str, over: str, *rest: str) -> str:
    *figures, behind = rest
    return f"  {what:<19}{of:<12}{over:<19}{''.join(f'{f:>9}' for f in figures)}  {behind}"


def _time(plan: Plan) -> Iterator[str]:
    step, program = plan.step, plan.program
    peak = plan.hardware.peak(plan.precision) / 1e12
    yield "\npredicted step, ms"
    yield from _lines({name: f"{1e3 * part:.2f}" for name, part in step.parts.items()})
    rates = f"{program.batch / step.seconds:,.0f} examples/s"
    yield from _lines({"together": f"{1e3 * step.seconds:.2f}  {rates}"})
    full, halved = (plan.mfu(f) for f in (program.flops, program.flops - program.causal))
    reached = plan.mfu(program.flops, COMPUTE)
    yield from _lines({
        "MFU": f"{100 * full:.1f} % of {peak:.0f} TFLOP/s (causal attention halved:"
        f" {100 * halved:.1f} %), {100 * reached:.1f} % of the {COMPUTE * peak:.0f} in reach",
        "limit": plan.limit,
    })  # fmt: skip


def _lines(rows: dict[str, str]) -> Iterator[str]:
    return (f"  {name:<28}{value}" for name, value in rows.items())

"""How long a step takes: the work of a device, and what is sent while nothing hides it.

Network (shared by all rows of `hardware.TABLE`): a group with k devices in each of m nodes gathers
or scatters B bytes in max(B (k-1)/k / link, n B (m-1)/m / egress), where n groups share a node; a
sum over all takes twice that. The time to start a message is left out: what is small is free.

Sums of gradients hide behind 2/3 of the computation, the way back; weights gathered and gradients
scattered behind all of it; what activations wait for, behind nothing. Of what could be hidden the
share OVERLAP is.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlm_jax.planner.collectives import Collective
from mlm_jax.planner.hardware import COMPUTE, NETWORK, TRAFFIC, Hardware
from mlm_jax.planner.kernels import Kernel

OVERLAP = 0.9
WAY_BACK = 2 / 3
INSIDE, BETWEEN = "network inside the node", "network between nodes"


@dataclass(frozen=True)
class Span:
    """Where the groups of an exchange lie."""

    size: int
    """Devices of a group."""
    nodes: int
    """Nodes that it is spread over."""
    sharing: float
    """Groups that send out of the same node."""

    @property
    def members(self) -> float:
        """Devices of a group in a node."""
        return self.size / self.nodes


def span(groups: Sequence[Sequence[int]], per_node: int) -> Span:
    """Of devices that fill nodes one after the other; the group that is spread most counts."""
    nodes = max(len({device // per_node for device in group}) for group in groups)
    touching: dict[int, int] = defaultdict(int)
    for group in groups:
        for node in {device // per_node for device in group}:
            touching[node] += 1
    return Span(len(groups[0]), nodes, max(touching.values()))


def exchange(
    kind: str, size: float, where: Span, hardware: Hardware, reached: float = NETWORK
) -> tuple[float, float]:
    """Seconds inside the nodes and between them for `size` bytes; both go on at once."""
    link, egress = hardware.link * reached, hardware.egress * reached
    k, m, g = where.members, where.nodes, where.size
    if kind == "all-to-all":
        inside = size * (k - 1) / g / link
        return inside, where.sharing * k * size * (g - k) / g / egress if m > 1 else 0.0
    if kind == "collective-permute":  # groups are pairs
        return (0.0, where.sharing * size / egress) if m > 1 else (size / link, 0.0)
    ways = 2 if kind == "all-reduce" else 1
    inside = ways * size * (k - 1) / k / link
    return inside, ways * where.sharing * size * (m - 1) / m / egress if m > 1 else 0.0


@dataclass(frozen=True)
class Sent:
    """Seconds that exchanges take where nothing hides them, by what they can hide behind."""

    summed: float = 0.0
    """Gradients over copies of the model."""
    shared: float = 0.0
    """Weights gathered, gradients scattered."""
    waited: float = 0.0
    """Activations."""

    def exposed(self, work: float, overlap: float = OVERLAP) -> float:
        """Seconds that `work` seconds of computation do not hide."""
        hidden = overlap * min(self.summed, WAY_BACK * work)
        return self.total - hidden - overlap * min(self.shared, max(work - hidden, 0.0))

    @property
    def total(self) -> float:
        return self.summed + self.shared + self.waited


def jitter(hardware: Hardware, devices: int) -> float:
    """What is left of the speed with that many nodes."""
    return float((1 - hardware.loss) ** math.log2(max(1.0, devices / hardware.per_node)))


# --- of a compiled program ---


@dataclass(frozen=True)
class Step:
    """Seconds of a step and what they go to."""

    seconds: float
    parts: dict[str, float]

    @property
    def limit(self) -> str:
        return max(self.parts, key=lambda name: self.parts[name])


def sort_of(collective: Collective) -> str:
    """The field of `Sent` that it belongs to."""
    if collective.role == "activations":
        return "waited"
    summed = collective.role == "gradients" and collective.kind == "all-reduce"
    return "summed" if summed else "shared"


def seconds(collective: Collective, hardware: Hardware) -> tuple[float, float]:
    """All its times together, inside nodes and between them."""
    where = span(collective.groups, hardware.per_node)
    inside, between = exchange(collective.kind, collective.bytes, where, hardware)
    return collective.times * inside, collective.times * between


def predict(
    kernels: Iterable[Kernel],
    collectives: Iterable[Collective],
    devices: int,
    hardware: Hardware,
    precision: str,
) -> Step:
    rate, bandwidth = hardware.peak(precision) * COMPUTE, hardware.traffic * TRAFFIC
    parts = dict.fromkeys(("compute", "memory traffic", INSIDE, BETWEEN, "jitter"), 0.0)
    for kernel in kernels:
        multiplied, moved = kernel.flops / rate, kernel.bytes / bandwidth
        name = "compute" if multiplied >= moved else "memory traffic"
        parts[name] += kernel.times * max(multiplied, moved)
    work = sum(parts.values())
    sums: dict[str, float] = defaultdict(float)
    places: dict[str, float] = defaultdict(float)
    for collective in collectives:
        inside, between = seconds(collective, hardware)
        sums[sort_of(collective)] += max(inside, between)
        places[INSIDE if inside >= between else BETWEEN] += max(inside, between)
    sent = Sent(**sums)
    exposed = sent.exposed(work)
    for place, taken in places.items():
        parts[place] = exposed * taken / sent.total if sent.total else 0.0
    parts["jitter"] = (work + exposed) * (1 / jitter(hardware, devices) - 1)
    return Step(sum(parts.values()), parts)

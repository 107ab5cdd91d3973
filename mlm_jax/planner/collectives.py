"""What devices send to each other, read out of a compiled program."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlm_jax.planner.hlo import Computation, Instruction, Module, between_products
from mlm_jax.planner.memory import Widths

MESH = (
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\))? \{([^}]*)\}"
)
"""mesh['x'=2,'y'=4] {'y'}, its devices in order, or as device_ids=([4,2]T(1,0)) or (0,2,...)."""
SAME = {"bitcast", "copy", "convert", "transpose", "reshape"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    bytes: the whole array, as it is before it is scattered and after it is gathered. groups: the
    devices that take part, by their place in the mesh; of a permutation the pairs that send.
    """

    kind: str
    bytes: float
    groups: tuple[tuple[int, ...], ...]
    times: int
    role: str
    """weights: nothing is computed before it; gradients: nothing after it; else activations."""
    what: str
    """The operation it comes from."""

    @property
    def size(self) -> int:
        """Devices of a group."""
        return len(self.groups[0])

    @property
    def sent(self) -> float:
        """Bytes that each device sends, all times together."""
        if self.kind == "collective-permute":
            return self.times * self.bytes
        ways = 2 if self.kind == "all-reduce" else 1
        return self.times * ways * self.bytes * (self.size - 1) / self.size


def collectives(module: Module, devices: int) -> list[Collective]:
    widths = Widths(module)
    return [
        found
        for computation, times in module.steps()
        for found in exchanges(module, widths, computation, times, devices)
    ]


def exchanges(
    module: Module, widths: Widths, computation: Computation, times: int, devices: int
) -> Iterator[Collective]:
    """Of one computation: for each instruction one for each kind and role of its arrays."""
    after, before = between_products(module, computation)
    for i in computation.instructions:
        kind = i.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        permuted = kind == "collective-permute"
        groups = pairs(i.rest) if permuted else groups_of(i.rest, devices)
        if not groups or len(groups[0]) == 1:
            continue
        sums: dict[tuple[str, str], float] = defaultdict(float)
        for place, name in enumerate(i.operands):
            out = result(computation, i, place)
            scatters = kind == "all-reduce" and scattered(module, computation, out, len(groups[0]))
            role = "activations" if name in after and out.name in before else ""
            role = role or ("gradients" if name in after else "weights")
            size = true_bytes(widths, computation, i, computation.by_name[name])
            whole = size * len(groups[0]) if kind == "all-gather" else size
            sums["reduce-scatter" if scatters else kind, role] += whole
        named = re.search(r'op_name="([^"]*)"', i.rest)
        for (own, role), size in sums.items():
            yield Collective(own, size, groups, times, role, named[1] if named else "")


def true_bytes(
    widths: Widths, computation: Computation, i: Instruction, sent: Instruction
) -> float:
    promoted = any(name.endswith("_promoted") for name in i.called("to_apply"))
    narrow = promoted or widths.rounded(computation, sent)
    return sent.bytes / 2 if narrow and sent.parts[0].kind == "f32" else sent.bytes


def result(computation: Computation, i: Instruction, place: int) -> Instruction:
    """What a collective gives for its operand at `place`: itself, or that part of its tuple."""
    users = computation.users[i.name]
    if i.opcode.endswith("-start") and len(users) == 1:
        return result(computation, users[0], place)
    for user in users:
        index = re.search(r"\bindex=(\d+)", user.rest)
        if user.opcode == "get-tuple-element" and index and int(index[1]) == place:
            return user
    return i


def scattered(module: Module, computation: Computation, out: Instruction, size: int) -> bool:
    """Whether all that use a sum cut out one `size`-th of it by the number of the device.

    XLA turns this into reduce-scatter for GPUs and TPUs (ReduceScatterCreator), not for CPUs.
    """
    total = out.parts[0].elements

    def ends(scope: Computation, name: str) -> set[str]:
        """What becomes of a value: it is cut, or leaves the computation, or something else."""
        return set().union(*(end(scope, user, name) for user in scope.users[name]))

    def end(scope: Computation, user: Instruction, name: str) -> set[str]:
        inner = module.fused(user)
        if user.opcode == "dynamic-slice":
            return {"cut"} if user.parts[0].elements * size == total else {"other"}
        if inner is not None:
            places = [n for n, operand in enumerate(user.operands) if operand == name]
            found = set().union(*(ends(inner, inner.parameters[n].name) for n in places))
        else:
            found = {"leaves"} if user.opcode in SAME else {"other"}
        if "leaves" in found and not (user.root and scope is not computation):
            found = found - {"leaves"} | ends(scope, user.name)
        return found

    return ends(computation, out.name) == {"cut"}


def axes_of(groups: Sequence[Sequence[int]], axes: dict[str, int]) -> tuple[str, ...]:
    """Axes of the mesh that the devices of a group differ in."""
    places = np.array(np.unravel_index(np.array(groups), tuple(axes.values())))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(name for name, differs in zip(axes, differ, strict=True) if differs)


def groups_of(rest: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """replica_groups: {{0,1},{2,3}}, {} for all, [2,4]<=[4,2]T(1,0), or as in MESH."""
    listed = re.search(r"replica_groups=\{(\{[\d,{} ]*\})?\}", rest)
    if listed:
        if not listed[1]:
            return (tuple(range(devices)),)
        return tuple(
            tuple(int(n) for n in group.split(","))
            for group in re.findall(r"\{([\d,]+)\}", listed[1])
        )
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        order = ints(iota[4]) if iota[4] else None
        return rows(numbered(ints(iota[3]), order), int(iota[2]))
    mesh = re.search(MESH, rest)
    if mesh is None:
        raise ValueError(f"replica groups of an unknown form: {rest[:200]}")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    along = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[5])
    cuts = [(name, int(a or 1), int(b) if b else sizes[name]) for name, a, b in along]
    if mesh[2]:
        numbers = numbered(ints(mesh[2]), ints(mesh[3]) if mesh[3] else None)
    else:
        numbers = ints(mesh[4]) if mesh[4] else list(range(math.prod(sizes.values())))
    return tuple(tuple(numbers[place] for place in group) for group in mesh_groups(sizes, cuts))


def mesh_groups(
    sizes: dict[str, int], cuts: Sequence[tuple[str, int, int]]
) -> tuple[tuple[int, ...], ...]:
    """Groups of places in a mesh of `sizes`, along parts of its axes.

    A part is (axis, product of the parts of the axis before it, size): 'x':(2)4 is ("x", 2, 4).
    """
    split: list[tuple[int, bool]] = []
    for name, size in sizes.items():
        at = 1
        for before, part in sorted((before, part) for axis, before, part in cuts if axis == name):
            split += [(before // at, False), (part, True)]
            at = before * part
        split.append((size // at, False))
    order = sorted(range(len(split)), key=lambda n: split[n][1])
    group = math.prod(size for size, inside in split if inside)
    return rows(numbered([size for size, _ in split], order), group)


def ints(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def numbered(shape: Sequence[int], order: Sequence[int] | None) -> list[int]:
    """0, 1, 2, ... laid out as `shape`, its axes put into `order`, read row by row."""
    grid = np.arange(math.prod(shape)).reshape(shape)
    return (grid if order is None else grid.transpose(order)).ravel().tolist()


def rows(flat: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(flat[n : n + size]) for n in range(0, len(flat), size))


def pairs(rest: str) -> tuple[tuple[int, ...], ...]:
    """source_target_pairs without those that send to themselves."""
    found = re.search(r"source_target_pairs=\{([\d,{}]*)\}", rest)
    every = re.findall(r"\{(\d+),(\d+)\}", found[1]) if found else []
    return tuple((int(a), int(b)) for a, b in every if a != b)

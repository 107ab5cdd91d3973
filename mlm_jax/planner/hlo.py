"""The text of a compiled program (HLO) as instructions, and the matrix products in it."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

WIDTH = {"pred": 1, "s4": 0.5, "u4": 0.5, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4,
         "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
         "token": 0}  # fmt: skip


class Part(NamedTuple):
    """One array: an instruction has several where it gives a tuple."""

    kind: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        return self.elements * WIDTH.get(self.kind, 1)  # 8 bits of any kind: s8, u8, f8e4m3fn


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    parts: tuple[Part, ...]
    inside: str
    """What stands in the brackets: names of operands, or a number."""
    rest: str
    root: bool

    @cached_property
    def operands(self) -> tuple[str, ...]:
        if self.opcode in ("parameter", "constant"):
            return ()
        return tuple(re.findall(r"%([\w.\-]+)", self.inside))

    @cached_property
    def fusion(self) -> str | None:
        """The computation that a fusion is made of."""
        return self.called("calls")[0] if self.opcode == "fusion" else None

    @cached_property
    def bytes(self) -> float:
        return sum(part.bytes for part in self.parts)

    def called(self, *keys: str) -> list[str]:
        """Names of the computations that stand behind `keys`: calls=%a, branches={%a, %b}."""
        found = (re.search(rf"\b{key}=(\{{[^}}]*\}}|%[\w.\-]+)", self.rest) for key in keys)
        return [name for f in found if f for name in re.findall(r"%([\w.\-]+)", f[1])]

    def numbers(self, key: str) -> tuple[int, ...]:
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.rest)
        return tuple(int(n) for n in found[1].split(",") if n) if found else ()


@dataclass
class Computation:
    name: str
    instructions: list[Instruction] = field(default_factory=list)
    """In the order in which they are done."""

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {i.name: i for i in self.instructions}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = defaultdict(list)
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users

    @cached_property
    def root(self) -> Instruction:
        return next(i for i in reversed(self.instructions) if i.root)

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(i.inside): i for i in self.instructions if i.opcode == "parameter"}


@dataclass
class Module:
    entry: Computation
    computations: dict[str, Computation]
    products: dict[tuple[str, str], float] = field(default_factory=dict)
    """What `products` has found: (computation, instruction) -> FLOPs."""

    def steps(self) -> Iterator[tuple[Computation, int]]:
        """Computations that are gone through, and how often; those of fusions are not among them.

        The body of a loop counts as often as it turns; all branches of a condition count, since
        the one of the training step that changes nothing costs nothing.
        """
        waiting = [(self.entry, 1)]
        while waiting:
            computation, times = waiting.pop()
            yield computation, times
            for i in computation.instructions:
                waiting += [(inner, times * n) for inner, n in self.inner(i)]

    def inner(self, i: Instruction) -> list[tuple[Computation, int]]:
        """Computations that an instruction goes through, and how often."""
        if i.opcode == "while":
            names, turns = i.called("body"), self.turns(i)
        elif i.opcode == "conditional":
            names, turns = (
                i.called("branch_computations", "true_computation", "false_computation"),
                1,
            )
        elif i.opcode in ("call", "async-start"):
            names, turns = i.called("calls", "to_apply"), 1
        else:
            return []
        return [(self.computations[name], turns) for name in names]

    def turns(self, loop: Instruction) -> int:
        """How often a loop turns: as XLA found it, else the one number in its condition, else 1."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
        if known:
            return int(known[1])
        condition = self.computations[loop.called("condition")[0]]
        constants = [i.inside for i in condition.instructions if i.opcode == "constant"]
        return int(constants[0]) if len(constants) == 1 and constants[0].isdigit() else 1

    def fused(self, i: Instruction) -> Computation | None:
        return None if i.fusion is None else self.computations[i.fusion]


# --- reading ---


def parse(text: str) -> Module:
    """Text of `jax.stages.Compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry = current = Computation("")
    for line in text.splitlines():
        if line.startswith("  ") and " = " in line:
            current.instructions.append(instruction(line))
        elif line.startswith(("%", "ENTRY")) and line.endswith("{"):
            name = re.search(r"%([\w.\-]+) \(", line)
            assert name is not None, line
            current = computations[name[1]] = Computation(name[1])
            if line.startswith("ENTRY"):
                entry = current
    return Module(entry, computations)


def instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    end = closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    kind, right = right[:end], right[end:].lstrip()
    opening = right.index("(")
    end = closing(right, opening)
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=right[:opening],
        parts=parts(kind),
        inside=right[opening + 1 : end],
        rest=right[end + 1 :],
        root=left.startswith("ROOT "),
    )


def closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.start()
    raise ValueError(f"no closing bracket: {text[:80]}")


def parts(kind: str) -> tuple[Part, ...]:
    """`(f32[2,3]{1,0}, bf16[])` -> its arrays, in order."""
    return tuple(
        Part(name, tuple(int(n) for n in shape.split(",") if n))
        for name, shape in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", kind)
    )


# --- products ---


def products(module: Module, computation: Computation, i: Instruction) -> float:
    """FLOPs of matrix products and convolutions in an instruction, 2 for each multiply-add."""
    inner = module.fused(i)
    if inner is None:
        return multiplied(computation, i) if i.opcode in ("dot", "convolution") else 0.0
    key = computation.name, i.name
    if key not in module.products:
        module.products[key] = sum(products(module, inner, j) for j in inner.instructions)
    return module.products[key]


def multiplied(computation: Computation, i: Instruction) -> float:
    left, right = (computation.by_name[name].parts[0].shape for name in i.operands[:2])
    out = i.parts[0].elements
    if i.opcode == "dot":
        return 2.0 * out * math.prod(left[d] for d in i.numbers("lhs_contracting_dims"))
    # dim_labels=b01f_01io->b01f: every output sums over the kernel but for its output features,
    # and but for the holes that the way back puts between the inputs of a stride
    labels = re.search(r"dim_labels=\w+_(\w+)->", i.rest)
    assert labels is not None, i.rest
    holes = re.search(r"lhs_dilate=([\dx]+)", i.rest)
    spread = math.prod(int(n) for n in holes[1].split("x")) if holes else 1
    return 2.0 * out * math.prod(right) / right[labels[1].index("o")] / spread


def between_products(module: Module, computation: Computation) -> tuple[set[str], set[str]]:
    """Instructions that a matrix product comes before, and those that one comes after.

    A product with itself is in both. Sums of squares, products that give one number, are none.
    """
    after: set[str] = set()
    before: set[str] = set()
    is_product = {
        i.name
        for i in computation.instructions
        if i.parts and i.parts[0].shape and products(module, computation, i)
    }
    for i in computation.instructions:
        if i.name in is_product or after.intersection(i.operands):
            after.add(i.name)
    for i in reversed(computation.instructions):
        if i.name in is_product or any(user.name in before for user in computation.users[i.name]):
            before.add(i.name)
    return after, before

"""Bytes of the values of a compiled program: how wide they are, when they live, what moves them.

Programs compiled for simulated devices on a CPU differ from those for a GPU in one way that counts
here: a CPU has no bfloat16, so every bfloat16 value is widened to float32 before it is multiplied
or sent. `Widths` finds float32 values that were, or at once will be, rounded to bfloat16, and they
count 2 bytes; so the bytes are those of the program as it was written.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from mlm_jax.planner.hlo import Computation, Instruction, Module

Question = Callable[[Computation, Instruction], bool]

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
        "partition-id", "replica-id", "while", "conditional", "call", "opt-barrier"}  # fmt: skip
MOVES = {"bitcast", "copy", "reshape", "transpose", "slice", "dynamic-slice", "broadcast",
         "all-gather", "all-to-all", "collective-permute", "get-tuple-element", "concatenate",
         "tuple", "copy-start", "copy-done", "gather", "pad", "reverse"}  # fmt: skip
"""What changes no number: out comes as rounded as it went in."""


class Widths:
    """Bytes of float32 values that a program with bfloat16 would hold in bfloat16."""

    def __init__(self, module: Module):
        self.module = module
        self.known: dict[tuple[str, str, str], bool] = {}

    def bytes(self, computation: Computation, i: Instruction) -> float:
        if self.rounded(computation, i) or self.absorbed(computation, i):
            return sum(p.bytes / 2 if p.kind == "f32" else p.bytes for p in i.parts)
        return i.bytes

    def rounded(self, computation: Computation, i: Instruction) -> bool:
        """Whether it comes out of a conversion from bfloat16."""
        return self._remember("rounded", computation, i, self._rounded)

    def absorbed(self, computation: Computation, i: Instruction) -> bool:
        """Whether all that use it turn it into bfloat16 first."""
        return self._remember("absorbed", computation, i, self._absorbed)

    def _remember(self, what: str, computation: Computation, i: Instruction, ask: Question) -> bool:
        key = what, computation.name, i.name
        if key not in self.known:
            self.known[key] = False  # in a loop of questions nothing is known
            self.known[key] = ask(computation, i)
        return self.known[key]

    def _rounded(self, computation: Computation, i: Instruction) -> bool:
        if any(part.kind == "bf16" for part in i.parts):
            return False
        sources = [computation.by_name[name] for name in i.operands]
        if i.opcode == "convert":
            return sources[0].parts[0].kind == "bf16" or self.rounded(computation, sources[0])
        if i.opcode in ("all-reduce", "reduce-scatter"):
            return any(name.endswith("_promoted") for name in i.called("to_apply"))
        inner = self.module.fused(i)
        if inner is not None:
            return self.rounded(inner, inner.root)
        floats = [s for s in sources if any(p.kind in ("f32", "bf16") for p in s.parts)]
        return (
            i.opcode in MOVES and bool(floats) and all(self.rounded(computation, s) for s in floats)
        )

    def _absorbed(self, computation: Computation, i: Instruction) -> bool:
        if i.root or not any(part.kind == "f32" for part in i.parts):
            return False
        users = computation.users[i.name]
        return bool(users) and all(self._absorbs(computation, user, i.name) for user in users)

    def _absorbs(self, computation: Computation, user: Instruction, name: str) -> bool:
        if user.opcode == "convert":
            return user.parts[0].kind == "bf16"
        if user.opcode in ("all-reduce", "reduce-scatter") and self.rounded(computation, user):
            return True
        inner = self.module.fused(user)
        if inner is not None:
            places = [n for n, operand in enumerate(user.operands) if operand == name]
            return all(self.absorbed(inner, inner.parameters[n]) for n in places)
        return user.opcode in MOVES and self.absorbed(computation, user)


def traffic(module: Module, widths: Widths, computation: Computation, i: Instruction) -> float:
    """Bytes that an instruction reads and writes. Of what is cut out of an array, the piece.

    A conversion between float32 and bfloat16 alone is a CPU's, see above: it counts nothing.
    """
    if i.opcode in FREE or only_converts(module, i):
        return 0.0
    inner = module.fused(i)
    out = widths.bytes(computation, i)
    if inner is None:
        if i.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * out
        if i.opcode == "dynamic-update-slice":
            return 2 * computation.by_name[i.operands[1]].bytes
        return out + sum(widths.bytes(computation, computation.by_name[o]) for o in i.operands)
    if inner.root.opcode == "dynamic-update-slice":
        out = inner.by_name[inner.root.operands[1]].bytes
    read = 0.0
    for n, operand in enumerate(i.operands):
        users = inner.users[inner.parameters[n].name]
        whole = widths.bytes(computation, computation.by_name[operand])
        if users and all(u.opcode in ("dynamic-slice", "slice", "gather") for u in users):
            whole = min(whole, sum(widths.bytes(inner, u) for u in users))
        elif users and all(u is inner.root and u.opcode == "dynamic-update-slice" for u in users):
            whole = min(whole, out)
        read += whole
    return out + read


def only_converts(module: Module, i: Instruction) -> bool:
    inner = module.fused(i)
    floats = {"f32", "bf16"}
    if inner is None:
        return i.opcode == "convert" and i.parts[0].kind in floats
    work = [j for j in inner.instructions if j.opcode not in ("parameter", "bitcast")]
    return bool(work) and all(j.opcode == "convert" and j.parts[0].kind in floats for j in work)


def peak(module: Module, widths: Widths | None = None) -> float:
    """Bytes that live at once at most, arguments and results apart, in the order of the program.

    With `widths` those of bfloat16, for a device that has it; without, those of the program itself,
    which `memory_analysis().temp_size_in_bytes` should agree with.
    """
    known: dict[str, float] = {}

    def size(computation: Computation, i: Instruction) -> float:
        if i.opcode in FREE - {"conditional", "call"}:
            return 0.0
        if widths is None:
            return i.bytes
        return 0.0 if only_converts(module, i) else widths.bytes(computation, i)

    def highest(computation: Computation) -> float:
        if computation.name not in known:
            known[computation.name] = _highest(module, computation, size, highest)
        return known[computation.name]

    return highest(module.entry)


def _highest(
    module: Module,
    computation: Computation,
    size: Callable[[Computation, Instruction], float],
    highest: Callable[[Computation], float],
) -> float:
    """`peak` of one computation. A value lives until its last use, or the last use of a view."""
    owners: dict[str, list[set[str]]] = {}
    """Of each part of an instruction's result, the instructions whose bytes it is."""
    last: dict[str, int] = {}
    for n, i in enumerate(computation.instructions):
        sources = [owners[name] for name in i.operands]
        view = i.opcode in FREE or size(computation, i) == 0
        owners[i.name] = viewed(i, sources) if view else [{i.name}]
        if not view or i.opcode in ("while", "conditional", "call"):
            last.update(dict.fromkeys(_all(part for source in sources for part in source), n))
    kept = _all(owners[computation.root.name])  # results have a place of their own
    ends: dict[int, list[str]] = defaultdict(list)
    for name, n in last.items():
        ends[n].append(name)
    sizes = {
        i.name: 0.0 if i.name in kept else size(computation, i) for i in computation.instructions
    }
    live = most = 0.0
    for n, i in enumerate(computation.instructions):
        live += sizes[i.name]
        most = max(most, live + max((highest(inner) for inner, _ in module.inner(i)), default=0.0))
        live -= sum(sizes[name] for name in ends[n])
        if i.name not in last:
            live -= sizes[i.name]
    return most


def viewed(i: Instruction, sources: list[list[set[str]]]) -> list[set[str]]:
    """Owners of the parts of what has no bytes of its own, from those of its operands."""
    if i.opcode == "tuple":
        return [_all(source) for source in sources]
    if i.opcode == "while":
        return sources[0]
    index = re.search(r"\bindex=(\d+)", i.rest)
    if i.opcode == "get-tuple-element" and index and int(index[1]) < len(sources[0]):
        return [sources[0][int(index[1])]]
    return [_all(part for source in sources for part in source)]


def _all(parts: Iterable[set[str]]) -> set[str]:
    return set().union(*parts)

"""The work of a device in a compiled program, cut into kernels as a GPU would fuse it.

A CPU's compiler fuses less than a GPU's: counted kernel by kernel ViT-B/16 in bfloat16 would move
1.4 GB for a picture. Here element-wise operations are worked out where they are needed, from what
is in memory anyway: what goes into products, exchanges, loops and results, and what sums and
lookups give. That is what fusion can reach at best, 0.91 GB for a picture, half of it in products.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mlm_jax.planner.collectives import COLLECTIVES
from mlm_jax.planner.hlo import Computation, Instruction, Module, products
from mlm_jax.planner.memory import FREE, Widths, only_converts, traffic

SUMS = {"reduce", "reduce-window"}
LOOKUPS = {"dynamic-slice", "dynamic-update-slice", "gather", "scatter", "sort", "slice"}


@dataclass(frozen=True)
class Kernel:
    """FLOPs of matrix products and bytes read and written, one time; how often it runs."""

    flops: float
    bytes: float
    times: int


def kernels(module: Module, widths: Widths) -> list[Kernel]:
    return [
        Kernel(flops, moved, times)
        for computation, times in module.steps()
        for flops, moved in _kernels(module, widths, computation)
    ]


def _kernels(
    module: Module, widths: Widths, computation: Computation
) -> Iterator[tuple[float, float]]:
    kinds = {i.name: kind_of(module, computation, i) for i in computation.instructions}
    behind: dict[str, str] = {}
    """Of views, what they are views of; of the rest themselves."""
    for i in computation.instructions:
        behind[i.name] = behind[i.operands[0]] if kinds[i.name] == "view" else i.name
    kept = {
        behind[name]
        for i in computation.instructions
        if kinds[i.name] in ("product", "exchange", "control") or i.root
        for name in i.operands
    }
    made_of: dict[str, frozenset[str]] = {}
    """Of what is not in memory, the values in memory that it is worked out from."""
    sizes = {i.name: widths.bytes(computation, i) for i in computation.instructions}
    for i in computation.instructions:
        kind, own = kinds[i.name], {behind[name] for name in i.operands}
        sources = frozenset().union(*(made_of.get(name, {name}) for name in own))
        if kind in ("product", "lookup"):
            yield products(module, computation, i), traffic(module, widths, computation, i)
        elif kind == "sum" or (kind == "element" and i.name in kept):
            yield 0.0, sizes[i.name] + sum(sizes[name] for name in sources)
        elif kind == "element":
            made_of[i.name] = sources


def kind_of(module: Module, computation: Computation, i: Instruction) -> str:
    if i.opcode in ("bitcast", "copy") or only_converts(module, i):
        return "view"
    if i.opcode in ("while", "conditional", "call", "tuple"):
        return "control"
    if i.opcode in FREE:
        return "value"
    if i.opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES:
        return "exchange"
    inner = module.fused(i)
    opcodes = {i.opcode} if inner is None else {j.opcode for j in inner.instructions}
    if products(module, computation, i):
        return "product"
    if opcodes & LOOKUPS:
        return "lookup"
    return "sum" if opcodes & SUMS else "element"

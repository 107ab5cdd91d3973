"""The training step of a configuration, compiled for simulated devices and read.

What runs on a GPU is compiled for it, so this is an estimate: the exchanges are those that sharding
asks for and hold; attention is XLA's, and cuDNN's, which keeps no scores, is faster and smaller.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from mlm_jax import sharding
from mlm_jax.config import Config
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import Transformer
from mlm_jax.layers.attention import in_one_piece
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.prior import AutoregressivePrior
from mlm_jax.planner import hlo
from mlm_jax.planner.collectives import Collective, collectives
from mlm_jax.planner.compiler import apart, example, here, initial, parts
from mlm_jax.planner.kernels import Kernel, kernels
from mlm_jax.planner.memory import Widths, peak


@dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    parameters: float
    optimiser: float
    average: float
    batch: float
    temporary: float
    """The most that lives at once besides: activations, gradients, gathered weights, copies.

    From the order of the program compiled for a CPU, with bfloat16 values at 2 bytes (`memory`).
    A GPU's compiler orders and fuses otherwise: taken to need as much, which is an assumption.
    """

    @property
    def state(self) -> float:
        return self.parameters + self.optimiser + self.average

    @property
    def total(self) -> float:
        return self.state + self.batch + self.temporary


@dataclass(frozen=True)
class Program:
    """What was read out of a compiled step. FLOPs are those of matrix products."""

    axes: dict[str, int]
    batch: int
    """Pictures, or texts where there are none, of one step on all devices."""
    parameters: int
    memory: Memory
    cpu_temporary: float
    """The same of the CPU's program as it is; XLA's own account is within 2 % of it."""
    kernels: tuple[Kernel, ...]
    collectives: tuple[Collective, ...]
    flops: float
    """Of the model in one step, on all devices: 3 times those of the forward pass."""
    causal: float
    """Of them, those that attention masked for causality makes useless."""
    compiling: float
    """Seconds."""

    @property
    def devices(self) -> int:
        return math.prod(self.axes.values())

    @property
    def executed(self) -> float:
        """FLOPs of one device, with what is computed again or on several."""
        return sum(kernel.times * kernel.flops for kernel in self.kernels)


def read(config: Config, *, elsewhere: bool = True) -> Program:
    """Compile the step of `config` for the devices there are, by default in another process.

    Raises: UserError for a mesh, a batch or parameters that cannot be shared out.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config, mesh)
    start = time.monotonic()
    state, batch, _ = parts(config, mesh)
    flops, causal = model_flops(config)
    module = hlo.parse((apart if elsewhere else here)(config))
    widths = Widths(module)
    return Program(
        axes=dict(mesh.shape),
        batch=config.data.batch,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        memory=Memory(
            parameters=shard_bytes(state.params),
            optimiser=shard_bytes(state.opt),
            average=shard_bytes(state.ema),
            batch=shard_bytes(batch),
            temporary=peak(module, widths),
        ),
        cpu_temporary=peak(module),
        kernels=tuple(kernels(module, widths)),
        collectives=tuple(collectives(module, mesh.size)),
        flops=flops,
        causal=causal,
        compiling=time.monotonic() - start,
    )


def shard_bytes(tree: Any) -> float:
    """Bytes of a tree on one device."""
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


# --- FLOPs of the model ---


def model_flops(config: Config) -> tuple[float, float]:
    """(FLOPs of a step, those of them that a causal mask makes useless).

    Matrix products only, 2 for each multiply-add, 3 times the forward pass; what is computed again
    is not counted, attention is counted in full. Read from the traced forward pass.
    """
    batch = example(config)

    def forward(params: Any, batch: Mapping[str, Any]) -> Any:
        outputs: Any = config.model.apply(
            {"params": params}, batch, train=True, rngs={"dropout": key, "mask": key}
        )
        return config.loss(outputs, batch)

    key = jax.random.key(0)
    with in_one_piece():
        traced = jax.make_jaxpr(forward)(initial(config), batch)
    return 3 * counted(traced.jaxpr), 3 * causal_flops(config, batch)


def counted(jaxpr: Jaxpr) -> float:
    return sum(map(equation_flops, jaxpr.eqns))


def equation_flops(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[d] for d in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * equation.outvars[0].aval.size * kernel.size / features
    inner = [counted(jaxpr) for jaxpr in inner_jaxprs(equation.params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * equation.params["length"] if name == "scan" else sum(inner)


def inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def causal_flops(config: Config, batch: Mapping[str, Any]) -> float:
    """Half of the self-attention of what looks back alone, forward: 4 n^2 d a layer, in full."""
    total = 0.0
    for rows_of in (batch, batch.get("also", {})):
        if "target" in rows_of:
            rows, words = rows_of["target"].shape
            for body, length in looking_back(config.model, words):
                total += 2.0 * rows * length**2 * body.width * body.depth
    return total


def looking_back(model: Any, words: int) -> Iterator[tuple[Transformer, int]]:
    """The bodies that do, and how many tokens each reads of a text of so many words."""
    decoder = getattr(model, "decoder", None)
    text: Any = getattr(model, "text", None)
    if isinstance(model, Dalle):
        yield model.decoder.body, model.length + math.prod(model.grid) - 1
    elif isinstance(model, AutoregressivePrior):
        yield model.net.decoder.body, model.clip.width
    elif isinstance(decoder, TextDecoder):
        yield decoder.body, words - 1
    if getattr(text, "causal", False):
        yield text.body, words


# --- the largest batch ---


@dataclass(frozen=True)
class Growth:
    """Bytes on a device as a line through two compiled programs."""

    fixed: float
    each: float
    """Bytes that one more picture of the whole batch costs every device."""

    def largest(self, room: float, unit: int) -> int:
        """The largest batch, a multiple of `unit`, that takes `room` bytes on a device; 0: none."""
        if self.fixed + self.each * unit > room:
            return 0
        return int((room - self.fixed) / self.each) // unit * unit


def growth(config: Config, program: Program, *, elsewhere: bool = True) -> Growth:
    """By compiling the step once more, for half of the batch, or twice where that is odd."""
    unit = unit_of(config, program)
    batch = config.data.batch
    other = batch // 2 if batch % (2 * unit) == 0 else 2 * batch
    changed = replace(config, data=replace(config.data, batch=other))
    second = read(changed, elsewhere=elsewhere)
    each = max(1.0, (second.memory.total - program.memory.total) / (other - batch))
    return Growth(program.memory.total - each * batch, each)


def unit_of(config: Config, program: Program) -> int:
    """A batch is a multiple of this."""
    return program.axes["data"] * program.axes["fsdp"] * config.optim.accumulate

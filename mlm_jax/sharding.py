"""Where arrays lie: a mesh of devices, one table for parameters, one helper for activations.

Rows of a batch are spread over `data` and `fsdp`, parameters over `fsdp` and `tensor`. The compiler
puts in what has to be sent (arXiv:2105.04663); the results are those of one device. Without a mesh
(`jax.set_mesh`) nothing here does anything.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from mlm_jax.errors import UserError
from mlm_jax.paths import map_named, named

if TYPE_CHECKING:  # it imports the losses, they the layers, and they this
    from mlm_jax.config import Config, Mesh

Tree = TypeVar("Tree")
Axes = tuple[str | None, ...]

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))
WHOLE = PartitionSpec()

INTO_HEADS: Axes = ("fsdp", "tensor", None)  # D H K
OUT_OF_HEADS: Axes = ("tensor", None, "fsdp")  # H K D
TABLE: tuple[tuple[str, Axes], ...] = (
    ("*/query/kernel", INTO_HEADS),
    ("*/key/kernel", INTO_HEADS),
    ("*/value/kernel", INTO_HEADS),
    ("*/query/bias", ("tensor", None)),
    ("*/key/bias", ("tensor", None)),
    ("*/value/bias", ("tensor", None)),
    ("*/attention/out/kernel", OUT_OF_HEADS),
    ("*/cross/out/kernel", OUT_OF_HEADS),
    ("*/gated/out/kernel", OUT_OF_HEADS),
    ("*/up/kernel", ("fsdp", "tensor")),
    ("*/up/bias", ("tensor",)),
    ("*/gate/kernel", ("fsdp", "tensor")),
    ("*/gate/bias", ("tensor",)),
    ("*/down/kernel", ("tensor", "fsdp")),
    ("*/stem/*/kernel", (None, "fsdp")),  # few channels come in
    ("*/conv_first/kernel", (None, "fsdp")),
    ("*/reach/kernel", ("fsdp", None, None)),  # D labels 2
    ("*/kernel", ("fsdp", None)),
    ("*/embedding", (None, "fsdp")),  # published vocabularies are odd numbers
    ("*/bias", ()),
    ("*/scale", ()),
    ("*/table", ()),
    ("*/times", ()),
    ("*/latents", ()),
    ("*/pool/query", ()),
    ("*_token", ()),
    ("*_gate", ()),
    ("*/logit_scale", ()),
    ("*/logit_bias", ()),
)
"""Path suffix of a parameter -> axes of its last dimensions; the first that fits counts.

Heads and the inner width of an MLP go over `tensor` (arXiv:1909.08053, section 3); of every large
matrix one dimension goes over `fsdp` (arXiv:1910.02054, stage 3). The rest is everywhere.
"""


# --- the mesh ---


def devices() -> list[jax.Device]:
    return jax.devices()


def least(mesh: "Mesh") -> int:
    """How many devices a mesh takes at least."""
    return math.prod(max(getattr(mesh, axis), 1) for axis in AXES)


def make_mesh(mesh: "Mesh") -> jax.sharding.Mesh:
    """Raises: UserError if the axes do not multiply to the devices there are."""
    have = devices()
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    given = math.prod(size for size in sizes.values() if size)
    if len(have) % given or (mesh.data and given != len(have)):
        product = " × ".join(f"mesh.{axis} {size}" for axis, size in sizes.items() if size)
        raise UserError(
            f"{product} = {given}, but there are {len(have)} devices: {fitting(mesh, len(have))}"
        )
    sizes["data"] = mesh.data or len(have) // given
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, kinds, devices=have)


def fitting(mesh: "Mesh", count: int) -> str:
    """The nearest meshes that take `count` devices, in words of the command line."""
    wanted = np.array([mesh.data or 1, mesh.fsdp, mesh.tensor])
    every = [(count // (f * t), f, t) for t in divisors(count) for f in divisors(count // t)]
    every.sort(key=lambda sizes: float(np.abs(np.log(np.array(sizes) / wanted)).sum()))
    listed = [
        " ".join(f"--mesh.{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        for sizes in every[:2]
    ]
    return " or ".join(listed)


def divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def describe(mesh: jax.sharding.Mesh) -> str:
    return " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


def rows_apart(mesh: jax.sharding.Mesh) -> int:
    """Among how many devices the pictures of a batch are shared out."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def check_batch(config: "Config", mesh: jax.sharding.Mesh) -> None:
    """Raises: UserError if the pictures of a step, or of validation, cannot be shared out."""
    parts = rows_apart(mesh)
    sizes = {"data.batch": (config.data.batch, parts * config.optim.accumulate)}
    if config.eval_every:
        sizes["eval_examples"] = (min(config.eval_examples, config.data.batch), parts)
    for key, (count, unit) in sizes.items():
        if count % unit:
            near = " or ".join(
                str(n) for n in (count // unit * unit, -(-count // unit) * unit) if n
            )
            accumulated = " × optim.accumulate" if unit != parts else ""
            raise UserError(
                f"{key} {count} is not divisible by mesh.data × mesh.fsdp{accumulated} = {unit}:"
                f" {near}"
            )


# --- parameters, and what is as they are ---


def axes_of(path: str, leaf: Any) -> Axes:
    """Axes of every dimension of a parameter; first ones, such as layers scanned, have none.

    Raises: UserError for a parameter that the table does not know.
    """
    for suffix, axes in TABLE:
        if fnmatchcase(f"/{path}", suffix) and leaf.ndim >= len(axes):
            return (None,) * (leaf.ndim - len(axes)) + axes
    raise UserError(
        f"sharding.TABLE has no row for the parameter {path} {tuple(leaf.shape)}:"
        " add its path suffix and the axes of its dimensions, () for a copy on every device"
    )


def specs(tree: Any, params: Any) -> Any:
    """Where each leaf of `tree` lies: what is as a parameter (gradient, average, moment) as it.

    Leaves are told by the end of their path, as optax keeps them; others are everywhere.
    """
    known = {path: (leaf.shape, axes_of(path, leaf)) for path, leaf in named(params).items()}

    def spec(path: str, leaf: Any) -> PartitionSpec:
        for end in ends(path):
            shape, axes = known.get(end, (None, ()))
            if shape == leaf.shape:
                return PartitionSpec(*axes)
        return WHOLE

    return map_named(spec, tree)


def ends(path: str) -> Iterator[str]:
    """a/b/c -> a/b/c, b/c, c"""
    while path:
        yield path
        path = path.partition("/")[2]


def check_params(params: Any) -> None:
    """Raises: UserError for a parameter that the mesh cannot share out, or that is not known."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return
    uneven: dict[str, list[tuple[str, int]]] = {}
    counts: dict[str, list[int]] = {}
    for path, leaf in named(params).items():
        for axis, count in zip(axes_of(path, leaf), leaf.shape, strict=True):
            if axis is not None:
                counts.setdefault(axis, []).append(count)
                if count % mesh.shape[axis]:
                    uneven.setdefault(axis, []).append((path, count))
    for axis, wrong in uneven.items():
        path, count = wrong[0]
        fit = ", ".join(map(str, divisors(math.gcd(*counts[axis]))))
        raise UserError(
            f"mesh.{axis} {mesh.shape[axis]} does not divide the {count} of {path}"
            f" ({len(wrong)} parameters like it); for this model --mesh.{axis} can be {fit}"
        )


def shardings(tree: Any, params: Any) -> Any:
    """`specs` on the mesh that is set, as `jax.jit` takes them; None where there is none."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return None
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, params))


def hold(tree: Tree, params: Any) -> Tree:
    """The same values, where `specs` wants them. Inside a jitted function."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, specs(tree, params))


# --- batches and activations ---


def on_one_device() -> bool:
    """Whether no rows lie elsewhere. Inside a jitted function."""
    return jax.sharding.get_abstract_mesh().size <= 1


def spread(tree: Tree, last: str | None = None) -> Tree:
    """Arrays (rows, ...), or a tree of them: rows over the mesh, what is `last` over that axis."""

    def spec(x: Any) -> PartitionSpec:
        return PartitionSpec(*ROWS, *(None,) * (x.ndim - 2), last) if last else ROWS

    return _constrain(tree, spec)


def gather(tree: Tree) -> Tree:
    """The same values on every device. Inside a jitted function."""
    return _constrain(tree, lambda _: WHOLE)


def _constrain(tree: Tree, spec: Callable[[Any], PartitionSpec]) -> Tree:
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(spec, tree))


def put(batch: Mapping[str, Any]) -> Any:
    """A batch of the host on the devices; each of several processes brings its share of rows."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return batch
    rows = NamedSharding(mesh, ROWS)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), dict(batch))


def put_whole(array: np.ndarray) -> Array:
    """An array of the host on every device."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jnp.asarray(array)
    place = NamedSharding(mesh, WHOLE)
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


def share(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """(i, n): the rows of a batch that this process reads are the i-th of n equal parts.

    Processes that hold the same rows, over `tensor`, read the same. Raises: ValueError.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    grid: Sequence[Sequence[jax.Device]] = mesh.devices.reshape(parts, -1).tolist()
    me = jax.process_index()
    own = [i for i, row in enumerate(grid) if any(d.process_index == me for d in row)]
    if own != list(range(own[0], own[0] + len(own))) or own[0] % len(own) or parts % len(own):
        raise ValueError(f"process {me} holds the parts {own} of {parts} of a batch: not one piece")
    return own[0] // len(own), parts // len(own)

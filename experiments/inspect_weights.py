"""What a published checkpoint holds: family, model, tensors and sizes.

python experiments/inspect_weights.py PATH [--tensors]

PATH is a folder with config.json and safetensors or flax_model.msgpack.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mlm_jax import command
from mlm_jax.config import flat, to_json


@dataclass(frozen=True)
class Arguments:
    """What a published checkpoint holds."""

    path: tyro.conf.Positional[Path]
    """A folder with config.json and safetensors or flax_model.msgpack."""
    tensors: bool = False
    """Every tensor, not only their groups."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(
        Arguments, args=list(argv), prog="inspect_weights.py", description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    from mlm_jax.pretrained import files, store

    folder = files.open_folder(given.path)
    stored = folder.tensors
    print(f"{given.path}: {len(stored):,} tensors, {sum(t.bytes for t in stored.values()):,} bytes")
    print(f"dtypes: {', '.join(f'{k} ({n})' for k, n in dtypes(stored))}")
    for line in every(stored) if given.tensors else groups(stored):
        print(line)
    family, model = store.model_of(folder)
    print(f"\nfamily: {family.kind}, {store.architecture(family, folder)}")
    print(f"model: {type(model).__module__}.{type(model).__name__}")
    for key, value in described(model):
        print(f"  {key:<36} {value}")
    loaded = store.load(given.path)
    print(f"every tensor fits; not used: {', '.join(loaded.unused) or 'none'}")
    if loaded.unread:
        print(f"fields of config.json that are not known here: {', '.join(loaded.unread)}")
    return 0


def dtypes(stored: Any) -> list[tuple[str, int]]:
    return Counter(t.dtype for t in stored.values()).most_common()


def every(stored: Any) -> Iterator[str]:
    for name, tensor in stored.items():
        yield f"  {name:<72} {tensor.dtype:<9} {tensor.shape}"


def groups(stored: Any) -> Iterator[str]:
    """Tensors by the first two parts of their names."""
    found: dict[str, list[Any]] = {}
    for name, tensor in stored.items():
        found.setdefault(".".join(name.split(".")[:2]), []).append(tensor)
    for name, tensors in found.items():
        yield f"  {name:<48} {len(tensors):>5} tensors {sum(t.bytes for t in tensors):>14,} bytes"


def described(model: Any) -> list[tuple[str, Any]]:
    """Fields of the model that are not those its class has by itself."""
    plain = flat(to_json(type(model)()))
    own = flat(to_json(model))
    return [(k, v) for k, v in own.items() if not k.endswith("type") and plain.get(k) != v]


if __name__ == "__main__":
    sys.exit(command.main(main))

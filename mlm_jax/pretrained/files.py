"""A folder of published weights: config.json and safetensors, read tensor by tensor.

Nothing is unpickled. Headers are checked by the safetensors library, and names, shapes and files
here, before the first tensor is read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore
from safetensors import SafetensorError, safe_open

from mlm_jax.config import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MSGPACK = "flax_model.msgpack"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")
MAX_JSON = 64 << 20
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
          "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor on disk."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] = field(repr=False)

    @property
    def bytes(self) -> int:
        width = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2,
                 "int16": 2}  # fmt: skip
        return int(np.prod(self.shape, dtype=np.int64)) * width.get(self.dtype, 1)


@dataclass(frozen=True)
class Folder:
    """`config` as in config.json; tensors by their published names."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, Stored]


def open_folder(path: Path) -> Folder:
    """The folder of a checkpoint. Raises: UserError naming what is missing or damaged."""
    if not path.is_dir():
        raise UserError(f"{path}: a folder with {CONFIG} and {WEIGHTS} is wanted{pickled(path)}")
    config = read_json(path / CONFIG)
    return Folder(path, config, dict(tensors(path)))


def tensors(path: Path) -> Iterator[tuple[str, Stored]]:
    if (path / WEIGHTS).is_file():
        yield from safetensors(path / WEIGHTS)
    elif (path / INDEX).is_file():
        yield from sharded(path)
    elif (path / MSGPACK).is_file():
        yield from msgpack(path / MSGPACK)
    else:
        found = [file for file in sorted(path.iterdir()) if file.suffix in PICKLED]
        raise UserError(f"{path} has no {WEIGHTS}, {INDEX} or {MSGPACK}{pickled(*found[:1])}")


def pickled(*files: Path) -> str:
    """Why a pickled file is not read, where there is one."""
    if not files or files[0].suffix not in PICKLED:
        return ""
    return (
        f". {files[0].name} is not opened: pickled files can run any code. Convert it once, where"
        " you trust it: load it with the library that wrote it, and save_pretrained(...) from there"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from outside. Raises: UserError."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise UserError(f"{path}: over {MAX_JSON >> 20} MiB, the most accepted")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    """Raises: UserError for a file that is cut off or whose header lies."""
    try:
        file = safe_open(path, "np")
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            kind = part.get_dtype()
            if kind not in DTYPES:
                raise UserError(f"{path}: {name} is of dtype {kind}, which is not supported")
            read = _reader(path, file, name)
            yield name, Stored(tuple(part.get_shape()), DTYPES[kind], read)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or was not downloaded whole: {error}") from error


def _reader(path: Path, file: Any, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            array: np.ndarray = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: {name} cannot be read: {error}") from error
        return array

    return read


def sharded(path: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of all the files that an index names. Raises: UserError naming every problem."""
    index = path / INDEX
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise UserError(f"{index} has no `weight_map` from tensors to files")
    files = sorted(set(places.values()))
    outside = [f for f in files if Path(f).name != f or Path(f).suffix != ".safetensors"]
    wrong = [f"names {f!r}, which is no safetensors file beside it" for f in outside]
    wrong += [f"names {f}, which is missing" for f in files if not (path / f).is_file()]
    found: dict[str, Stored] = {}
    for file in () if wrong else files:
        own = dict(safetensors(path / file))
        wrong += [f"{name} is in more than one file" for name in own.keys() & found.keys()]
        found |= own
    if not wrong:
        wrong += [f"promises {name}, which no file has" for name in places.keys() - found.keys()]
    if wrong:
        raise UserError(f"{index}:\n" + "\n".join(f"  {w}" for w in sorted(wrong)))
    yield from found.items()


def msgpack(path: Path) -> Iterator[tuple[str, Stored]]:
    """What the Flax classes of old wrote, under the names of the other files.

    A kernel is the transpose of a weight, that of a convolution has height and width first.
    """
    try:
        tree = msgpack_restore(path.read_bytes())
    except Exception as error:  # the decoder raises many kinds
        raise UserError(f"{path} is damaged or was not downloaded whole: {error}") from error
    leaves = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

    def walk(node: Any, name: tuple[str, ...]) -> Iterator[tuple[str, Stored]]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, (*name, str(key)))
            return
        if not isinstance(node, np.ndarray):
            raise UserError(f"{path}: {'.'.join(name)} is no array but a {type(node).__name__}")
        array = node
        if name[-1] == "kernel":
            array = node.transpose(3, 2, 0, 1) if node.ndim == 4 else node.T
        full = ".".join((*name[:-1], leaves.get(name[-1], name[-1])))
        yield full, Stored(array.shape, str(array.dtype), lambda: array)

    yield from walk(tree, ())

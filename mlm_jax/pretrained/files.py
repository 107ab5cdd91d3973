"""A folder of published weights: config.json and safetensors, read tensor by tensor.

Nothing is unpickled. Headers are checked by the safetensors library, and names, shapes and files
here, before the first tensor is read. A tensor is the file itself, mapped into memory: what is
read takes memory only where it is looked at, and the system may take that back.
"""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack as packed
import numpy as np
from safetensors import SafetensorError, safe_open

from mlm_jax.config import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
MSGPACK = "flax_model.msgpack"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")
MAX_JSON = 64 << 20
MAX_CONFIG, MAX_HEADER, MAX_INDEX = 4 << 20, 8 << 20, 32 << 20
"""A tiny object of JSON takes 25 times its length in memory."""
MAX_NODES = 10_000
"""Most names in one node of a msgpack file."""
MAX_NAME, MAX_LINES = 300, 1000
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
          "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
          "U16": "uint16", "U8": "uint8", "BOOL": "bool"}  # fmt: skip
FLOATS = ("float64", "float32", "float16", "bfloat16")
"""What parameters may be."""
OTHERS = {
    b"version https://git-lfs": "is the pointer of Git LFS: fetch the file itself, git lfs pull",
    b"PK\x03\x04": "is a zip file, as pickled weights are, and is not opened",
    b"\x80\x02": "is a pickled file and is not opened",
    b"\x80\x04": "is a pickled file and is not opened",
    b"\x80\x05": "is a pickled file and is not opened",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"<": "is a page of the web, perhaps an error: download it again",
}
"""How files begin that are put in the place of weights."""


@dataclass(frozen=True)
class Stored:
    """A tensor on disk. `dtype` is numpy's name, or the tag on disk where numpy has none."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] = field(repr=False)

    @property
    def bytes(self) -> int:
        known = self.dtype in DTYPES.values()
        return int(np.prod(self.shape, dtype=object)) * (
            jnp.dtype(self.dtype).itemsize if known else 1
        )


@dataclass(frozen=True)
class Folder:
    """`config` as in config.json; tensors by their published names."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, Stored]


def open_folder(path: Path) -> Folder:
    """The folder of a checkpoint. Raises: UserError naming all that is missing or damaged."""
    if not path.is_dir():
        raise UserError(f"{path}: a folder with {CONFIG} and {WEIGHTS} is wanted{pickled(path)}")
    wrong, config, found = [], {}, {}
    try:
        config = read_json(path / CONFIG, MAX_CONFIG)
    except UserError as error:
        wrong.append(str(error))
    try:
        found = dict(tensors(path))
    except UserError as error:
        wrong.append(str(error))
    if wrong:
        raise UserError("\n".join(wrong))
    return Folder(path, config, found)


def tensors(path: Path) -> Iterator[tuple[str, Stored]]:
    """Raises: UserError for a damaged file, and where there is none or more than one."""
    if (path / WEIGHTS).exists() or (path / WEIGHTS).is_symlink():
        if (path / INDEX).is_file() and set(places(path / INDEX).values()) != {WEIGHTS}:
            raise UserError(f"{path} has both {WEIGHTS} and {INDEX}: remove what is out of date")
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


def listed(problems: Sequence[str]) -> str:
    """One a line, the first thousand."""
    more = len(problems) - MAX_LINES
    rest = [f"... and {more:,} more"] if more > 0 else []
    return "\n".join(f"  {problem}" for problem in [*problems[:MAX_LINES], *rest])


def require_file(path: Path) -> int:
    """Its size. Raises: UserError where there is no file, or something else in its place."""
    try:
        if not path.is_file():
            there = path.exists() or path.is_symlink()
            raise UserError(f"{path} is {'no file' if there else 'missing'}")
        return path.stat().st_size
    except (OSError, ValueError) as error:  # links in a circle, names that cannot be
        raise UserError(f"{path} cannot be read: {error}") from error


def read_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object from outside. Raises: UserError."""
    if require_file(path) > most:
        raise UserError(f"{path}: over {most >> 20} MiB, the most accepted")
    try:
        return parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def parse_json(text: bytes) -> dict[str, Any]:
    """Raises: ValueError, also where a name stands twice in an object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise ValueError(f"{twice[:MAX_NAME]!r} stands twice in one object")
        return found

    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("objects or lists are nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    return value


def safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    """Raises: UserError for a file that is cut off or whose header lies."""
    header, start = read_header(path)
    try:
        with safe_open(path, "np"):  # offsets, shapes and dtypes agree, or else it raises
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or was not downloaded whole: {error}") from error
    for name, entry in header.items():
        shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"], entry["dtype"])
        offset = start + entry["data_offsets"][0]
        yield name, Stored(shape, dtype, _reader(path, shape, dtype, offset))


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Tensors by name, and where the data begins. Raises: UserError."""
    size = require_file(path)
    with path.open("rb") as file:
        begin = file.read(32)
        length = struct.unpack("<Q", begin[:8].ljust(8, b"\xff"))[0]
        if length > size - 8:
            other = next((why for mark, why in OTHERS.items() if begin.startswith(mark)), "")
            short = (
                f"is no safetensors file, or not whole: its header does not fit in {size:,} bytes"
            )
            raise UserError(f"{path} {other or short}")
        if length > MAX_HEADER:
            raise UserError(f"{path}: a header of {length:,} bytes, accepted are {MAX_HEADER:,}")
        file.seek(8)
        text = file.read(length)
    try:
        header = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: its header is damaged: {error}") from error
    header.pop("__metadata__", None)
    odd = [ascii(n[:80]) for n in header if len(n) > MAX_NAME or not n.isprintable()]
    if odd:
        raise UserError(f"{path}: names that cannot be right:\n{listed(odd)}")
    return header, 8 + length


def _reader(
    path: Path, shape: tuple[int, ...], dtype: str, offset: int
) -> Callable[[], np.ndarray]:
    """Mapped, privately: what is written into the array does not reach the file."""

    def read() -> np.ndarray:
        kind = jnp.dtype(dtype)
        if 0 in shape:
            return np.zeros(shape, kind)
        try:
            array = np.memmap(path, kind, "c", offset, shape).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        return array if array.flags.aligned else np.array(array)

    return read


def places(index: Path) -> dict[str, str]:
    """Which file an index says a tensor is in. Raises: UserError."""
    found = read_json(index, MAX_INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise UserError(f"{index} has no `weight_map` from tensors to files")
    return found


def sharded(path: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of all the files that an index names. Raises: UserError naming every problem.

    A file may be a link, as in the cache of the hub; a name that leads out of the folder may not.
    """
    wanted = places(path / INDEX)
    wrong: list[str] = []
    found: dict[str, Stored] = {}
    for file in sorted(set(wanted.values())):
        if len(wrong) > MAX_LINES:
            break
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            wrong.append(f"names {file[:MAX_NAME]!r}, which is no safetensors file beside it")
            continue
        try:
            own = dict(safetensors(path / file))
        except UserError as error:
            wrong.append(str(error)[: 3 * MAX_NAME])
            continue
        wrong += [f"{name} is in more than one file" for name in own if name in found]
        wrong += [
            f"says {name} is in {wanted[name][:MAX_NAME]!r}, it is in {file}"
            for name in own
            if wanted.get(name, file) != file
        ]
        found |= own
    if not wrong:
        wrong = [f"promises {n[:MAX_NAME]!r}, which no file has" for n in wanted if n not in found]
    if wrong:
        raise UserError(f"{path / INDEX}:\n{listed(wrong)}")
    yield from found.items()


def msgpack(path: Path) -> Iterator[tuple[str, Stored]]:
    """What the Flax classes of old wrote, under the names of the other files.

    A kernel is the transpose of a weight, that of a convolution has height and width first.
    Raises: UserError.
    """
    try:
        tree = packed.unpackb(
            np.memmap(path, mode="r"), ext_hook=_array, raw=False, strict_map_key=True,
            max_array_len=0, max_map_len=MAX_NODES,
        )  # fmt: skip
    except Exception as error:  # the decoder raises many kinds
        why = str(error)[:MAX_NAME] or type(error).__name__
        raise UserError(f"{path} is damaged or was not downloaded whole: {why}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not parameters by name")
    leaves = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
    found: dict[str, Stored] = {}
    wrong = []
    for name, node in _leaves(tree):
        full = ".".join((*name[:-1], leaves.get(name[-1], name[-1])))
        if len(full) > MAX_NAME or not full.isprintable():
            wrong.append(f"{full[:80]!a} is a name that cannot be right")
        elif not isinstance(node, np.ndarray):
            wrong.append(f"{full} is no array but a {type(node).__name__}")
        elif full in found:
            wrong.append(f"{full} stands there twice")
        else:
            array = _turned(node) if name[-1] == "kernel" else node
            found[full] = Stored(array.shape, str(array.dtype), partial(np.asarray, array))
    if wrong:
        raise UserError(f"{path}:\n{listed(wrong)}")
    yield from found.items()


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """In their order, without recursion: the depth is the file's."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, dict):
            waiting += [((*name, key), value) for key, value in reversed(node.items())]
        else:
            yield name, node


def _turned(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def _array(code: int, data: bytes) -> np.ndarray:
    """Of Flax's two kinds of arrays. Raises: ValueError, and what the decoder raises."""
    if code not in (1, 3):
        raise ValueError(f"a value of the unknown kind {code}")
    shape, dtype, buffer = packed.unpackb(data, raw=True, max_array_len=32)
    return np.frombuffer(buffer, jnp.dtype(dtype.decode())).reshape(shape)

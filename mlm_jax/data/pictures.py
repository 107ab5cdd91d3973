"""Pictures: where they lie, and how untrusted files become RGB arrays.

Limits follow from what picture files have been used for: only common formats, only the first frame
(seeking to another skips Pillow's size check), the size taken from the header before decoding,
archives read member by member in memory and never extracted, numpy files never unpickled.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from mlm_jax.data.records import BadRecord, DataError

# Imported by name, so that threads never meet a half-loaded list of formats. JPEG includes MPO.
PLUGINS = (PngImagePlugin, JpegImagePlugin, WebPImagePlugin, BmpImagePlugin, GifImagePlugin)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
ACCEPTED = ", ".join(FORMATS) + " (first frame)"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 << 20
MAX_ARRAY_BYTES = 8 << 30


def open_picture(data: bytes, where: str) -> Image.Image:
    """Decode an encoded file to an upright RGB picture, alpha on white; raises BadRecord."""
    with readable(where), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadRecord(
                where,
                "image",
                f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are accepted",
            )
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)


def size_of(data: bytes, where: str) -> tuple[int, int]:
    """Width and height as an encoded file says them, without decoding it; raises BadRecord."""
    with readable(where), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Raises: BadRecord for whatever a decoder raises."""
    try:
        yield
    except BadRecord:
        raise
    except Image.DecompressionBombError as error:
        raise BadRecord(where, "image", f"{error}; at most {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # on damaged files decoders raise almost anything
        raise BadRecord(
            where, "image", f"not a readable picture ({_reason(error)}); accepted: {ACCEPTED}"
        ) from error


def from_array(array: np.ndarray, where: str) -> Image.Image:
    """A picture of an array, uint8 (H, W, 3), (H, W, 1) or (H, W); raises BadRecord."""
    plain = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.dtype != np.uint8 or plain.ndim not in (2, 3) or plain.shape[2:] not in ((), (3,)):
        raise BadRecord(
            where, "image", f"{array.dtype} {list(array.shape)}; accepted: uint8 [H, W, 3]"
        )
    return Image.fromarray(plain).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return str(error) or type(error).__name__


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit grey; Pillow's own conversion clips at 255
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.int32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@runtime_checkable
class Place(Protocol):
    """Somewhere pictures lie: a folder, a zip archive or an array file."""

    path: Path

    def read(self, name: str) -> bytes | np.ndarray | None:
        """The encoded file or array of that name, None if it is not here."""

    def place(self, name: str) -> bytes | Path | None:
        """The file of that name: where it lies, or its bytes where it is packed."""

    def names(self) -> Sequence[str]:
        """The names that are here, for suggestions."""


class Folder:
    """Files below a folder."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, name: str) -> bytes | None:
        file = self.path / name
        if not file.is_file():
            return None
        _check_size(file.stat().st_size)  # a bounded read would take all of the bound first
        return file.read_bytes()

    def place(self, name: str) -> Path | None:
        file = self.path / name
        return file if file.is_file() else None

    def names(self) -> Sequence[str]:
        return [file.name for file in self.path.iterdir()]


class Zip:
    """Members of a zip archive, read in memory."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a readable zip archive ({error})") from error
        self.members = {info.filename: info for info in self.archive.infolist()}

    def read(self, name: str) -> bytes | None:
        if name not in self.members:
            return None
        with self.archive.open(self.members[name]) as stream:
            data = stream.read(MAX_BYTES + 1)
        _check_size(len(data))
        return data

    def place(self, name: str) -> bytes | None:
        return self.read(name)

    def names(self) -> Sequence[str]:
        return list(self.members)


class Arrays:
    """An .npz whose key "images" is uint8 (N, H, W, 3); a name is the number of a row."""

    def __init__(self, path: Path):
        self.path = path
        self.images = _load_images(path)

    def read(self, name: str) -> np.ndarray | None:
        if not name.isdecimal() or int(name) >= len(self.images):
            return None
        return self.images[int(name)]

    def place(self, name: str) -> None:
        """Pictures alone."""

    def names(self) -> Sequence[str]:
        return [str(row) for row in range(len(self.images))]


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB, the most that is accepted")


def _load_images(path: Path) -> np.ndarray:
    accepted = 'accepted: an .npz with key "images" of uint8 [N, H, W, 3]'
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_ARRAY_BYTES:
            raise DataError(f"{path}: {size:,} bytes unpacked; at most {MAX_ARRAY_BYTES:,}")
        with np.load(path, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise DataError(f"{path}: no key 'images' but {sorted(arrays)}; {accepted}")
            images = np.asarray(arrays["images"])  # bytes where it is no array
    except DataError:
        raise
    except Exception as error:  # a damaged one raises almost anything
        raise DataError(f"{path}: {error}; {accepted}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(f"{path}: 'images' is {images.dtype} {list(images.shape)}; {accepted}")
    return images


def open_place(path: Path) -> Place:
    """A folder, .zip or .npz; raises DataError when it is none of them."""
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DataError(f"{path}: pictures are to be found here (--data.images), but it is missing")
    if path.suffix == ".zip":
        return Zip(path)
    if path.suffix == ".npz":
        return Arrays(path)
    raise DataError(f"{path}: --data.images accepts folders, .zip and .npz")


def find(places: Sequence[Place], name: str, where: str) -> bytes | np.ndarray:
    """Read the picture `name` from the first place that has it; raises BadRecord."""
    found: bytes | np.ndarray = _first([(p, p.read) for p in places], name, where, "image")
    return found


def find_file(places: Sequence[Place], name: str, where: str, key: str) -> bytes | Path:
    """The video or sound `name` in the first place that has it; raises BadRecord."""
    found: bytes | Path = _first([(p, p.place) for p in places], name, where, key)
    return found


def _first(
    reads: Sequence[tuple[Place, Callable[[str], Any]]], name: str, where: str, key: str
) -> Any:
    path = PureWindowsPath(name)  # reads both kinds of slash, and drives
    if path.anchor or ".." in path.parts:
        raise BadRecord(where, key, f"{name!r} leaves its folder; accepted: a relative name")
    for place, read in reads:
        try:
            found = read(name)
        except Exception as error:  # a damaged member of an archive raises almost anything
            raise BadRecord(where, key, f"{name!r} in {place.path}: {error}") from error
        if found is not None:
            return found
    places = [place for place, _ in reads]
    raise BadRecord(where, key, f"{name!r} is not in {_places(places)}{_nearest(places, name)}")


def _places(places: Sequence[Place]) -> str:
    return " or ".join(str(place.path) for place in places) or "any place"


def _nearest(places: Sequence[Place], name: str) -> str:
    last = name.rpartition("/")[2]
    names = (other for place in places for other in place.names())
    same = next((other for other in names if other.rpartition("/")[2] == last), "")
    return f"; did you mean {same!r}?" if same else ""

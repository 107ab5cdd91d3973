import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from conftest import encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlm_jax.data.pictures import MAX_BYTES, Arrays, Folder, Zip, find, open_picture, open_place
from mlm_jax.data.records import BadRecord, DataError


def opened(data: bytes) -> np.ndarray:
    return np.asarray(open_picture(data, "rows:1"))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, body: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + end

    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_come_back_exactly(kind, options):
    assert (opened(encoded(picture(0), kind, **options)) == picture(0)).all()


def test_jpeg_is_what_pillow_decodes():
    data = encoded(picture(0), "JPEG")
    assert (opened(data) == np.asarray(Image.open(io.BytesIO(data)))).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_only_the_first_frame_is_read(kind):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    data = saved(red, kind, save_all=True, append_images=[blue])
    mean = opened(data).mean((0, 1))
    assert mean[0] > 250
    assert mean[2] < 5


def test_palette_and_grey_become_rgb():
    palette = Image.fromarray(picture(0)).quantize(8)
    assert (opened(saved(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    grey = picture(0)[..., 0]
    assert (opened(encoded(grey)) == grey[..., None]).all()


def test_sixteen_bit_grey_keeps_its_range():
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert opened(encoded(grey))[0, :, 1].tolist() == [0, 1, 128, 255]


def test_alpha_is_laid_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    assert opened(encoded(rgba))[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_palette_is_laid_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putdata([0, 1])
    data = saved(palette, "PNG", transparency=0)
    assert opened(data).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = saved(Image.fromarray(picture(0)), "PNG", exif=exif)
    assert (opened(data) == np.rot90(picture(0), -1)).all()


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA", "DDS", "PCX"])
def test_other_formats_are_refused(kind):
    with pytest.raises(BadRecord, match=r"rows:1: image: not a readable picture.*accepted: PNG"):
        opened(encoded(picture(0, 16, 16), kind))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(picture(0))[:-40],
        encoded(picture(0), "JPEG")[:300],
        encoded(picture(0))[:40],
    ],
)
def test_damaged_files_are_bad_records(data):
    with pytest.raises(BadRecord, match="rows:1: image: not a readable picture"):
        opened(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "size", [(9000, 9000), (10_000, 10_000), (100_000, 100_000), (2**31 - 1, 1)]
)
def test_absurd_sizes_are_refused_by_their_header(size):
    with pytest.raises(BadRecord, match="64,000,000"):
        opened(png_header(*size))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(0, 2000),
)
@pytest.mark.filterwarnings("ignore")
def test_damage_gives_a_picture_or_a_bad_record(kind, changes, end):
    data = bytearray(encoded(picture(1), kind))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = opened(bytes(data[: max(end, 1)]))
    except BadRecord:
        return
    assert found.dtype == np.uint8
    assert found.shape[2] == 3


@pytest.mark.parametrize(
    "name", ["../0.png", "a/../../0.png", "/etc/passwd", "..\\0.png", "C:\\0.png"]
)
def test_names_that_leave_their_folder_are_refused(tmp_path, name):
    (tmp_path / "inner").mkdir()
    (tmp_path / "0.png").write_bytes(encoded(picture(0)))
    with pytest.raises(BadRecord, match=r"rows:1: image: .*leaves its folder"):
        find([Folder(tmp_path / "inner")], name, "rows:1")


def test_places_are_searched_in_order(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", b"packed")
        archive.writestr("deep/1.png", b"one")
    (tmp_path / "0.png").write_bytes(b"loose")
    (tmp_path / "2.png").write_bytes(b"two")
    places = [open_place(tmp_path / "a.zip"), open_place(tmp_path)]
    found = [find(places, name, "rows:1") for name in ("0.png", "deep/1.png", "2.png")]
    assert found == [b"packed", b"one", b"two"]
    with pytest.raises(BadRecord, match=r"'1.png' is not in .*a.zip or .*mean 'deep/1.png'"):
        find(places, "1.png", "rows:1")


def test_a_packed_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(MAX_BYTES + 1))
    with pytest.raises(BadRecord, match="larger than 64 MiB"):
        find([Zip(tmp_path / "a.zip")], "0.png", "rows:1")


def test_a_damaged_member_is_a_bad_record(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.png", encoded(picture(0)))
    data = bytearray(path.read_bytes())
    data[80] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadRecord, match=r"'0.png' in .*CRC"):
        find([Zip(path)], "0.png", "rows:1")


def test_arrays_are_found_by_row(tmp_path):
    images = np.stack([picture(0), picture(1)])
    np.savez_compressed(tmp_path / "a.npz", images=images)
    place = open_place(tmp_path / "a.npz")
    assert (find([place], "1", "rows:1") == images[1]).all()
    with pytest.raises(BadRecord, match="'2' is not in"):
        find([place], "2", "rows:1")


class Danger:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-run",)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.array([Danger()], object)},
        {"images": np.zeros((2, 4, 4), np.uint8)},
        {"images": np.zeros((2, 4, 4, 3))},
        {"pictures": np.zeros((2, 4, 4, 3), np.uint8)},
    ],
)
def test_other_arrays_are_refused_and_nothing_is_unpickled(tmp_path, monkeypatch, arrays):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", **arrays)
    with pytest.raises(DataError, match=r"a.npz.*accepted: an .npz with key \"images\""):
        Arrays(tmp_path / "a.npz")
    assert not (tmp_path / "pickle-was-run").exists()


@pytest.mark.parametrize("damage", ["deflated", "encrypted", "lying", "no array"])
def test_damaged_arrays_are_refused(tmp_path, damage):
    path, header = tmp_path / "a.npz", io.BytesIO()
    shape = (10**9, 10**6, 10**2, 3) if damage == "lying" else (9, 40, 50, 3)
    told = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, told)
    values = np.random.default_rng(0).integers(0, 9, (9, 40, 50, 3), np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        whole = b"text" if damage == "no array" else header.getvalue() + values
        archive.writestr("images.npy", whole)
    data = bytearray(path.read_bytes())
    if damage == "deflated":
        data[200:300] = b"\xff" * 100
    if damage == "encrypted":
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz.*accepted: an \.npz with key"):
        open_place(path)


def test_what_is_no_place_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "a.zip").write_bytes(b"no archive")
    for name, reason in [("a.tar", "accepts folders"), ("b.zip", "missing"), ("a.zip", "readable")]:
        with pytest.raises(DataError, match=f"{name}.*{reason}"):
            open_place(tmp_path / name)

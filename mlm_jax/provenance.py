"""What goes with a generated file: that it was generated, by what, from which words.

Every file holds one JSON object under KEY: an iTXt chunk of a PNG, the comment of a GIF or an MP4.
A PNG holds besides an XMP packet, where programs look: the property DigitalSourceType of the IPTC
(Photo Metadata Standard 2023.1) with the value that the IPTC and C2PA have for what a trained model
made. Neither is signed: it says what is so where nobody wants to hide it.

A file is written whole or not at all, and never over another.
"""

import hashlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from mlm_jax.data.containers import needed, opened
from mlm_jax.errors import UserError
from mlm_jax.run import version

with suppress(ImportError):  # an extra, of which `needed` speaks
    import av

KEY = "mlm_jax"
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>{software}</xmp:CreatorTool>
   <dc:description><rdf:Alt>
    <rdf:li xml:lang="x-default">{prompt}</rdf:li>
   </rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
FEW = 144  # pixels of height: smaller pictures are enlarged on a sheet
GAP = 8
TEXT = 13  # height of letters

Facts = Mapping[str, Any]
Picture = UInt8[np.ndarray, "H W 3"]


def facts_of(run: Path, prompt: str, *, seed: int, settings: Facts) -> dict[str, Any]:
    """What is to be said of what a run made: JSON values."""
    config = run / "config.json"
    return {
        "generated": True,
        "digital_source_type": SOURCE,
        "software": f"mlm_jax {version('mlm_jax')}",
        "run": run.resolve().name,
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "prompt": prompt,
        "seed": seed,
        "settings": dict(settings),
    }


# ---- writing


def write_png(path: Path, picture: Picture, facts: Facts) -> None:
    """Raises: UserError where there is a file already, or it cannot be written."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(KEY, json.dumps(facts, ensure_ascii=False))
    chunks.add_itxt("Software", str(facts.get("software", KEY)))
    chunks.add_itxt("XML:com.adobe.xmp", xmp(facts))
    with new(path) as part:
        Image.fromarray(picture).save(part, "PNG", pnginfo=chunks)


def xmp(facts: Facts) -> str:
    """The packet; characters that XML does not have are left out."""
    texts = {name: NOT_XML.sub("", str(facts.get(name, ""))) for name in ("software", "prompt")}
    return XMP.format(source=SOURCE, **{name: escape(text) for name, text in texts.items()})


def write_gif(path: Path, frames: Sequence[Picture], rate: float, facts: Facts) -> None:
    """`rate`: frames a second, as near as hundredths of a second allow. Raises: UserError."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    with new(path) as part:
        first.save(
            part,
            "GIF",
            save_all=True,
            append_images=others,
            duration=max(round(100 / rate), 2) * 10,
            loop=0,
            comment=json.dumps(facts).encode(),
        )


def can_film() -> bool:
    """Whether PyAV is installed, and has the encoder of `write_mp4`."""
    return "av" in sys.modules and "libx264" in av.codecs_available


def write_mp4(path: Path, frames: Sequence[Picture], rate: float, facts: Facts) -> None:
    """H.264; a row or column is repeated where the number is odd. Raises: UserError."""
    needed("av", str(path))
    height, width = frames[0].shape[:2]
    even = [np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge") for frame in frames]
    with new(path) as part, av.open(str(part), "w", format="mp4") as out:
        out.metadata["comment"] = json.dumps(facts)
        # of 96 marked frames of the world 93 bear their mark at the usual 23, at 17 all
        stream = out.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(1000), options={"crf": "17"}
        )
        stream.height, stream.width, stream.pix_fmt = *even[0].shape[:2], "yuv420p"
        for frame in even:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(stream.encode())


@contextmanager
def new(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` if all goes well."""
    refuse(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        settle(part, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path} is there already: choose another name, or take it away")


def settle(part: Path, path: Path) -> None:
    """Give the file its name, unless another has taken it meanwhile."""
    try:
        os.link(part, path)
    except FileExistsError:
        refuse(path)
    except OSError:  # a file system without links
        refuse(path)
        part.rename(path)


# ---- reading


def read(path: Path) -> dict[str, Any]:
    """The facts that a PNG, GIF or MP4 holds; empty where it holds none. Raises: UserError."""
    reader: Callable[[Path], str] | None = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: facts are read from {', '.join(READERS)}")
    try:
        text = reader(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def read_png(path: Path) -> str:
    with Image.open(path, formats=("PNG",)) as image:
        return str(image.info.get(KEY, ""))


def read_gif(path: Path) -> str:
    with Image.open(path, formats=("GIF",)) as image:
        return bytes(image.info.get("comment", b"")).decode("utf-8", "replace")


def read_mp4(path: Path) -> str:
    with opened(path, "video", str(path)) as container:
        return str(container.metadata.get("comment", ""))


READERS: dict[str, Callable[[Path], str]] = {".png": read_png, ".gif": read_gif, ".mp4": read_mp4}


# ---- sheets


def sheet(pictures: Sequence[Picture], captions: Sequence[str], columns: int) -> Picture:
    """Pictures of one size in rows of `columns`, each above its caption, on white."""
    height, width = pictures[0].shape[:2]
    times = max(-(-FEW // height), 1)
    width, height = width * times, height * times
    font = ImageFont.load_default(TEXT)
    lines = [wrapped(caption, font, width) for caption in captions]
    tall = height + GAP + max(map(len, lines)) * (TEXT + 3)
    rows = -(-len(pictures) // columns)
    page = Image.new(
        "RGB", (GAP + columns * (width + GAP), GAP + rows * (tall + GAP)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(page)
    for i, (picture, told) in enumerate(zip(pictures, lines, strict=True)):
        x, y = GAP + i % columns * (width + GAP), GAP + i // columns * (tall + GAP)
        large = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        page.paste(large, (x, y))
        for j, line in enumerate(told):
            draw.text((x, y + height + GAP // 2 + j * (TEXT + 3)), line, (0, 0, 0), font)
    return np.asarray(page)


def wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines that are no wider than `width` pixels."""
    letter = font.getlength("n")
    room = max(int(width / letter), 1)
    while room > 1:
        lines = textwrap.wrap(text, room)
        if all(font.getlength(line) <= width for line in lines):
            return lines
        room -= 1
    return textwrap.wrap(text, 1)

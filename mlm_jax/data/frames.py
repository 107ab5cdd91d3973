"""Frames of untrusted video files.

They are taken by time, not by number: of a file with an uneven rate those that were to be seen at
evenly spread moments. Of a long file no more is read than is asked for.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from mlm_jax.data.containers import ACCEPTED, LOST, File, Told, alone, opened, told_of, undamaged
from mlm_jax.data.pictures import MAX_PIXELS
from mlm_jax.data.records import BadRecord

with suppress(ImportError):  # an extra, of which `containers.needed` speaks
    from av.video.reformatter import Interpolation, VideoReformatter

FIRST = 32  # packets among which the first frame to be shown is
FAR = 4.0  # seconds between two frames that are asked for, from which on it is worth to seek

Resize = Literal["stretch", "crop", "pad"]
Prepare = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "H W 3"]]


class Frames(NamedTuple):
    frames: UInt8[np.ndarray, "T H W 3"]
    seconds: float


def read_frames(
    file: File,
    count: int,
    size: tuple[int, int],
    resize: Resize | Prepare,
    where: str,
) -> Frames:
    """`count` frames of `size` (height, width), evenly spread over the whole. Raises: BadRecord.

    A function for `resize`, as a published processor is, makes that size of upright frames, whose
    pixels are as they are stored, square or not.
    """
    with opened(file, "video", where) as container:
        stream = pictures_of(container, where)
        told = told_of(container, stream)
        span = span_of(file, told, told.length > FAR * count, where)
        far = span.length * span.unit > FAR * count  # some do not say how long they are
        middles = [Fraction(2 * i + 1, 2 * count) for i in range(count)]
        wanted = [math.floor(span.begin + middle * span.length) for middle in middles]
        if far:
            shown = sought(container, stream, wanted, span, where)
        else:
            shown = in_turn(undamaged(container, stream, "video", where), wanted, span, where)
        frames = np.empty((count, *size, 3), np.uint8)
        fit: Fit | Prepared
        if callable(resize):
            fit = Prepared(resize, where)
        else:
            fit = Fit(size, resize, stream.sample_aspect_ratio or 1, where)
        done = 0
        for frame, times in shown:
            frames[done : done + times] = fit(frame)
            done += times
    return Frames(frames, float(span.length * span.unit))


def pictures_of(container: Any, where: str) -> Any:
    """The stream of a video that a player would show; raises BadRecord."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & stream.disposition.attached_pic:  # a cover
        raise BadRecord(where, "video", f"the file has no video in it; {ACCEPTED['video']}")
    alone(stream, "video", where)
    refuse_large(stream.width, stream.height, where)
    return stream


def refuse_large(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        size = f"{width} x {height} pixels"
        raise BadRecord(where, "video", f"{size}; at most {MAX_PIXELS:,} are accepted")


class Span(NamedTuple):
    """From when to when pictures last, and when the last of them begins, in `unit`s of seconds."""

    begin: int
    end: Fraction
    last: int
    unit: Fraction

    @property
    def length(self) -> Fraction:
        return self.end - self.begin


def span_of(file: File, told: Told, far: bool, where: str) -> Span:
    """By all packets, which are not decoded, or, of a long file, by the first and last of them.

    Headers are some frames wrong where these are not shown in the order in which they are stored.
    Raises: BadRecord where there is clearly less than was `told`.
    """
    with opened(file, "video", where) as container:
        stream = pictures_of(container, where)
        unit = stream.time_base
        head = tail = ends_of(container.demux(stream), FIRST if far else None)
        if far and head.number == FIRST:
            went(container, stream, int(told.end / unit))
            tail = ends_of(container.demux(stream))
        if far and not tail.number:  # it ends before: where?
            went(container, stream, head.begin)
            tail = ends_of(container.demux(stream))
    if not tail.number:
        raise BadRecord(where, "video", "the file has no frames; accepted: at least one")
    mean = Fraction(tail.last - tail.begin, max(1, tail.number - 1))
    span = Span(head.begin, tail.last + Fraction(tail.lasts or mean or 1), tail.last, unit)
    if told.own:
        refuse_cut(span.end, told.end / unit, span.begin, unit, where)
    return span


class Ends(NamedTuple):
    """Of packets: when the first and the last is shown, how long the last, and how many."""

    begin: int
    last: int
    lasts: int
    number: int


def ends_of(packets: Iterable[Any], most: int | None = None) -> Ends:
    """Of those that are shown, of which at most so many are looked at."""
    begin = last = lasts = count = 0
    for packet in islice((each for each in packets if shown_at_all(each)), most):
        at = time_of(packet)
        if not count or at < begin:
            begin = at
        if not count or at >= last:
            last, lasts = at, packet.duration or 0
        count += 1
    return Ends(begin, last, lasts, count)


def shown_at_all(packet: Any) -> bool:
    return not packet.is_discard and (packet.pts is not None or packet.dts is not None)


def time_of(part: Any) -> int:
    """When a frame, or the one in a packet, is to be shown."""
    time: int = (part.dts or 0) if part.pts is None else part.pts
    return time


def refuse_cut(end: Fraction, told: Fraction, begin: int, unit: Fraction, where: str) -> None:
    """Raises: BadRecord where there is clearly less than there should be."""
    if told - end > LOST * (told - begin):
        at, of = (float((time - begin) * unit) for time in (end, told))
        ends = f"the file ends at {at:.2f} s of {of:.2f}"
        raise BadRecord(where, "video", f"{ends}; accepted: a whole file")


Shown = Iterator[tuple[Any, int]]  # a frame, and at how many of the times that are wanted


def in_turn(frames: Iterable[Any], wanted: list[int], span: Span, where: str) -> Shown:
    """Those that are to be seen at the times `wanted`, by decoding all up to the last of them."""
    shown, done = None, 0
    for frame in frames:
        seen = bisect_left(wanted, time_of(frame), done)  # so many are over before this one
        if seen > done:
            yield frame if shown is None else shown, seen - done
            done = seen
        if done == len(wanted):
            return
        shown = frame
    if shown is None:
        raise BadRecord(where, "video", "the file has no frames; accepted: at least one")
    refuse_cut(Fraction(time_of(shown)), Fraction(span.last), span.begin, span.unit, where)
    yield shown, len(wanted) - done


def sought(container: Any, stream: Any, wanted: list[int], span: Span, where: str) -> Shown:
    """Those that are to be seen at the times `wanted`, by going there.

    Where the keyframes are further apart than these times it is decoded in turn from there on.
    """
    reached = -math.inf
    for place, time in enumerate(wanted):
        first, rest = landed(container, stream, time, span.begin, where)
        if first is None:
            nothing = f"nothing is to be seen at {float((time - span.begin) * span.unit):.2f} s"
            raise BadRecord(where, "video", f"{nothing}; accepted: a whole file")
        frames = chain([first], rest)
        if time_of(first) <= reached:
            yield from in_turn(frames, wanted[place:], span, where)
            return
        for frame, _ in in_turn(frames, [time], span, where):
            yield frame, 1
            reached = time_of(frame)


def landed(
    container: Any, stream: Any, time: int, begin: int, where: str
) -> tuple[Any, Iterator[Any]]:
    """The keyframe at or before `time`, None where there is nothing, and the frames after it."""
    back, second = 0, math.ceil(1 / stream.time_base)
    while True:
        start = max(time - back, begin)
        went(container, stream, start)
        frames = undamaged(container, stream, "video", where, start)
        first = next(frames, None)
        if first is None or time_of(first) <= time or start == begin:
            return first, frames
        back = max(second, 2 * back)  # some have it by when it is to be decoded, not shown


def went(container: Any, stream: Any, time: int) -> None:
    """To the keyframe at or before `time`; nowhere in a file in which that is not possible."""
    with suppress(OSError):
        container.seek(time, stream=stream)


class Fit:
    """Frames upright, in RGB, of `size` (height, width), by the rules of `transforms.Decode`.

    `aspect`: how wide a pixel is to its height.
    """

    def __init__(self, size: tuple[int, int], resize: Resize, aspect: Fraction | int, where: str):
        self.size, self.resize, self.aspect, self.where = size, resize, aspect, where
        self.scale = VideoReformatter()

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "H W 3"]:
        refuse_large(frame.width, frame.height, self.where)
        across, _, _ = turn_of(frame)
        size = self.size[::-1] if across else self.size
        height, width = self.inner(frame.height, frame.width, size)
        refuse_large(width, height, self.where)
        return placed(upright(self.scale, frame, height, width), self.size)

    def inner(self, height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
        """What of `size` a frame fills, or goes beyond by as much on both sides."""
        if self.resize == "stretch":
            return size
        wide = width * float(self.aspect)
        if self.resize == "pad":
            scale = min(size[0] / height, size[1] / wide)
            return max(1, round(height * scale)), max(1, round(wide * scale))
        scale = max(size[0] / height, size[1] / wide)
        beyond = (round((height * scale - size[0]) / 2), round((wide * scale - size[1]) / 2))
        return size[0] + 2 * beyond[0], size[1] + 2 * beyond[1]


class Prepared:
    """Frames upright, in RGB, and as `prepare` makes them."""

    def __init__(self, prepare: Prepare, where: str):
        self.prepare, self.where = prepare, where
        self.scale = VideoReformatter()

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "H W 3"]:
        refuse_large(frame.width, frame.height, self.where)
        whole = upright(self.scale, frame, frame.height, frame.width)
        return self.prepare(np.ascontiguousarray(whole))


def upright(scale: Any, frame: Any, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """A frame in RGB, scaled to `height` and `width` as it is stored, and then turned."""
    how = Interpolation.BICUBIC
    if (height, width) != (frame.height, frame.width):  # else there is a faster way
        how |= Interpolation.FULL_CHR_H_INT  # colours are not shared by two pixels
    stored = scale.reformat(
        frame, width=width, height=height, format="rgb24", interpolation=how, threads=1
    ).to_ndarray()
    across, down, right = turn_of(frame)
    return (stored.swapaxes(0, 1) if across else stored)[::down, ::right]


def turn_of(frame: Any) -> tuple[bool, int, int]:
    """Whether rows become columns, and -1 where the rows, and then the columns, are turned round.

    Cameras store which way up they were held as a matrix: x' = ax + cy, y' = bx + dy.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    across = abs(b) > abs(a)
    down, right = (b, c) if across else (d, a)
    return across, -1 if down < 0 else 1, -1 if right < 0 else 1


def placed(
    picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """The middle of a picture that is larger; one that is smaller in the middle of white."""
    if picture.shape[:2] == size:
        return picture
    canvas = np.full((*size, 3), 255, np.uint8)
    here, there = [], []
    for whole, part in zip(size, picture.shape[:2], strict=True):
        before = round((whole - part) / 2)
        length = min(whole, part)
        here.append(slice(max(before, 0), max(before, 0) + length))
        there.append(slice(max(-before, 0), max(-before, 0) + length))
    canvas[tuple(here)] = picture[tuple(there)]
    return canvas

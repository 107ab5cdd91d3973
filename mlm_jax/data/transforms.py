"""Transforms of one record on its way into a batch: frozen dataclasses with __call__."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mlm_jax.config import SENSES, Data, UserError
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.frames import Frames, read_frames
from mlm_jax.data.listening import Listen
from mlm_jax.data.pictures import from_array, open_picture
from mlm_jax.data.records import BadRecord, Record
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.pretrained.pixels import PREPROCESSOR, Pixels, load_pixels, save_pixels
from mlm_jax.world.contrary import contrary, truth_of

BICUBIC = Image.Resampling.BICUBIC  # Pillow's is antialiased when it shrinks


@dataclass(frozen=True)
class Decode:
    """An encoded file or array to uint8 (H, W, 3).

    stretch: to size regardless of proportions; crop: the centre that fills it; pad: the whole on
    white. `published` is an image processor of a published checkpoint, which does instead.
    """

    size: tuple[int, int]
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    published: Pixels | None = None

    def __call__(self, image: bytes | np.ndarray, where: str = "picture") -> np.ndarray:
        """`image`: bytes of a file, or uint8 (h, w, 3); raises BadRecord naming `where`."""
        height, width = self.size
        if isinstance(image, np.ndarray):
            picture = from_array(image, where)
        else:
            picture = open_picture(image, where)
        if self.published is not None:
            try:
                return self.published(picture)
            except UserError as error:
                raise BadRecord(where, "image", str(error)) from error
        return np.asarray(self._fit(picture, (width, height)))

    def _fit(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        if picture.size == size:
            return picture
        if self.resize == "crop":
            return ImageOps.fit(picture, size, BICUBIC)
        if self.resize == "pad":
            return ImageOps.pad(picture, size, BICUBIC, color="white")
        return picture.resize(size, BICUBIC)


def decode_for(data: Data, size: tuple[int, int]) -> Decode:
    """How pictures become those of a model of `size` pixels. Raises: UserError."""
    if not data.preprocessor:
        return Decode(size, data.resize)
    published = load_pixels(data.preprocessor)
    if published.size != size:
        raise UserError(
            f"--data.preprocessor {data.preprocessor} makes pictures of {published.size} pixels"
            f" (None: as they come), the model takes {size}"
        )
    return Decode(size, published=published)


@dataclass(frozen=True)
class Watch:
    """A clip to `count` frames, evenly spread over its time, each as `decode` makes it."""

    count: int
    decode: Decode

    def __call__(self, record: Record) -> Frames:
        """uint8 (count, H, W, 3), and how long the clip is, in seconds; raises BadRecord."""
        if isinstance(record.video, bytes | Path):
            size, how = self.decode.size, self.decode.published or self.decode.resize
            return read_frames(record.video, self.count, size, how, record.key)
        have = len(record.video)
        if not have:
            raise BadRecord(record.key, "video", "no frames; accepted: at least one")
        shown = [have * (2 * i + 1) // (2 * self.count) for i in range(self.count)]
        seen = {i: self.decode(record.video[i], record.key) for i in dict.fromkeys(shown)}
        return Frames(np.stack([seen[i] for i in shown]), have / record.rate if record.rate else 0)


@dataclass(frozen=True)
class Take:
    """What a model takes of a record besides texts and labels; {} where that is nothing.

    Where the collection of `events` is not empty those of the clip as well: `events` are the names
    of their classes, of which a clip has at most `most`.
    """

    image: Decode | None = None
    video: Watch | None = None
    audio: Listen | None = None
    shift: "Shift | None" = None
    events: tuple[str, ...] = ()
    most: int = 0

    def __call__(
        self, record: Record, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of one row, without the axis of the batch; raises BadRecord.

        With `rng` pictures are shifted, and sounds played faster or slower.
        """
        arrays: dict[str, np.ndarray] = {}
        seconds = 0.0
        if self.image:
            arrays["image"] = self.image(record.image, record.key)
        if self.video:
            arrays["video"], seconds = self.video(record)
        if self.audio:
            arrays |= self.audio(record, rng)
        if self.shift and rng is not None:
            for key in ("image", "video"):
                if key in arrays:
                    arrays[key] = self.shift(arrays[key], rng)
        if self.events:
            arrays |= self._spans(record, seconds)
        return arrays

    def __bool__(self) -> bool:
        return bool(self.needs)

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of image, video and audio are read."""
        return tuple(key for key in SENSES if getattr(self, key))

    def _spans(self, record: Record, seconds: float) -> dict[str, np.ndarray]:
        """event (most,), the class; span (most, 2) as shares of the clip; event_mask (most,)."""
        event = np.zeros(self.most, np.int32)
        span = np.zeros((self.most, 2), np.float32)
        if len(record.events) > self.most:
            many = f"{len(record.events)} events; --data.events {self.most} accepts no more"
            raise BadRecord(record.key, "events", many)
        if record.events and not seconds:
            raise BadRecord(record.key, "rate", "missing; accepted: pictures a second, for events")
        for i, (label, start, end) in enumerate(record.events):
            if label not in self.events:
                known = f"one of the {len(self.events)} classes of the training split"
                raise BadRecord(record.key, "events", f"{label!r}; accepted: {known}")
            if not 0 <= start < min(end, seconds) or end > seconds * (1 + 1e-3) + 0.05:
                inside = f"0 <= start < end <= {seconds:.3f}, the length of the clip in seconds"
                raise BadRecord(
                    record.key, "events", f"{label!r} from {start} to {end}; accepted: {inside}"
                )
            event[i] = self.events.index(label)
            span[i] = start / seconds, min(end / seconds, 1)
        return {
            "event": event,
            "span": span,
            "event_mask": np.arange(self.most) < len(record.events),
        }


def take_for(data: Data, senses: Mapping[str, Any], events: tuple[str, ...] = ()) -> Take:
    """How records become what the encoders `senses` read. Raises: UserError."""
    image, video, audio = (senses.get(key) for key in SENSES)
    return Take(
        image=image and decode_for(data, image.size),
        video=video and Watch(video.frames, decode_for(data, video.size)),
        audio=audio and Listen(audio.samples, audio.mel.rate, data.speed, data.tone, data.noise),
        shift=Shift(data.shift),
        events=events,
        most=data.events if events else 0,
    )


def keep_preprocessor(data: Data, size: tuple[int, int], run: Path) -> None:
    """Copy data.preprocessor into a run that has no copy yet. Raises: UserError."""
    if not data.preprocessor or (run / PREPROCESSOR).exists():
        return
    published = decode_for(data, size).published
    if published is not None:
        save_pixels(published, run)


def with_kept(data: Data, run: Path) -> Data:
    """With the run's own copy for data.preprocessor, whose folder may be gone or another by now."""
    kept = data.preprocessor and (run / PREPROCESSOR).exists()
    return replace(data, preprocessor=str(run)) if kept else data


@dataclass(frozen=True)
class Shift:
    """Move a picture, or a whole clip, by up to `pixels` either way; the edge is repeated."""

    pixels: int

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.pixels:
            return image
        down, right = rng.integers(-self.pixels, self.pixels + 1, size=2)
        height, width = image.shape[-3:-1]
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        return image[..., rows, :, :][..., columns, :]


Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids, which are real, which are scored


class Text(NamedTuple):
    """What is asked, what is answered, "file:row", and the turns that follow."""

    question: str
    answer: str
    where: str = "text"
    then: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pick:
    """Choose `captions` and `questions` texts of a record.

    A list for each kind of which the number is not 0. Where the record has none of a kind the
    list is of the other, so that batches stack; no text is repeated before all were used. With
    `contrary` a further list has a caption that is wrong for each of the first.
    """

    captions: int
    questions: int
    contrary: bool = False

    def __call__(self, record: Record, rng: np.random.Generator) -> list[list[Text]]:
        wanted = [(True, self.captions), (False, self.questions)]
        chosen = [self._some(record, tell, count, rng) for tell, count in wanted if count]
        return [*chosen, self._wrong(record, chosen[0], rng)] if self.contrary else chosen

    def _wrong(self, record: Record, right: list[Text], rng: np.random.Generator) -> list[Text]:
        truth = truth_of(record.truth)
        wrong = [each._replace(answer=contrary(each.answer, truth, rng)) for each in right]
        for each, other in zip(right, wrong, strict=True):
            if not other.answer:
                raise BadRecord(each.where, "captions", f"{each.answer!r} has no word to be wrong")
        return wrong

    def _some(self, record: Record, tell: bool, count: int, rng: np.random.Generator) -> list[Text]:
        tell = bool(record.captions) and (tell or not record.questions)
        order = rng.permutation(len(record.captions) if tell else len(record.questions))
        pick = self._caption if tell else self._question
        return [pick(record, which, rng) for which in np.resize(order, count).tolist()]

    def _caption(self, record: Record, which: int, rng: np.random.Generator) -> Text:
        where = record.caption_rows[which] if record.caption_rows else record.key
        return Text(CAPTION_PROMPT, record.captions[which], where)

    def _question(self, record: Record, which: int, rng: np.random.Generator) -> Text:
        question = record.questions[which]
        answer = question.answers[rng.integers(len(question.answers))]
        return Text(question.text, answer, question.where or record.key, question.then)


@dataclass(frozen=True)
class Tokenise:
    """Texts to padded rows of ids; the arrays of a row are shared and read-only.

    Every message in a target begins with bos, and an answer ends with eos; answers alone are
    `scored`. A question goes into `text`, the turns after it into `target`. `inline` puts it into
    the target as well, for models that read nothing else; the caption prompt never is.
    """

    tokenizer: Tokenizer
    text_length: int
    target_length: int
    inline: bool = False

    def __call__(
        self,
        question: str,
        answer: str,
        where: str = "text",
        then: tuple[tuple[str, str], ...] = (),
    ) -> dict[str, np.ndarray]:
        """text, text_mask (text_length,) and target, target_mask, scored (target_length,).

        Raises BadRecord when a text has more tokens than its row holds.
        """
        messages = [answer, *(text for turn in then for text in turn)]
        if self.inline and question != CAPTION_PROMPT:
            messages = [question, *messages]
        asked = "" if self.inline else question
        text, text_mask, _ = self._row((asked,), self.text_length, False, where)
        target, target_mask, scored = self._row(tuple(messages), self.target_length, True, where)
        return {
            "text": text, "text_mask": text_mask,
            "target": target, "target_mask": target_mask, "scored": scored,
        }  # fmt: skip

    def _row(self, texts: tuple[str, ...], length: int, target: bool, where: str) -> Row:
        row = _padded(self.tokenizer, texts, length, target)
        if isinstance(row, int):
            key = "target_length" if target else "text_length"
            raise BadRecord(
                where,
                "text",
                f"{' / '.join(texts)[:60]!r} has {row} tokens; --data.{key.replace('_', '-')} "
                f"{length} accepts {length - target * around(len(texts))}",
            )
        return row


def around(messages: int) -> int:
    """How many bos and eos a target of so many messages has."""
    return messages + (messages + 1) // 2


@lru_cache(maxsize=1 << 16)
def _padded(tokenizer: Tokenizer, texts: tuple[str, ...], length: int, target: bool) -> Row | int:
    """A row, its mask and what of it is scored, or the number of tokens when there are too many."""
    ids: list[int] = []
    scored: list[bool] = []
    for place, text in enumerate(texts):
        own = tokenizer.encode(text)
        answer = target and (len(texts) - place) % 2 == 1  # the last message is one
        if target:
            whole = [tokenizer.bos, *own, *([tokenizer.eos] if answer else [])]
        else:
            whole = tokenizer.framed(own)
        ids += whole
        scored += [False] * target + [answer] * (len(whole) - target)
    if len(ids) > length:
        return len(ids) - target * around(len(texts))
    row = np.full(length, tokenizer.pad, np.int32)
    row[: len(ids)] = ids
    mask, learned = np.arange(length) < len(ids), np.zeros(length, bool)
    learned[: len(scored)] = scored
    for array in (row, mask, learned):
        array.flags.writeable = False
    return row, mask, learned

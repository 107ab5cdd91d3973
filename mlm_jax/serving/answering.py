"""From a request to what the run says, names or draws. Nothing here knows HTTP."""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from mlm_jax import drawing, gallery, prompts
from mlm_jax.config import SENSES, UserError
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.containers import opened
from mlm_jax.data.frames import pictures_of
from mlm_jax.data.pictures import size_of
from mlm_jax.data.records import BadRecord, Record
from mlm_jax.losses import Classes, Spans
from mlm_jax.serving.batching import Batcher, Row, Word
from mlm_jax.serving.maps import has_maps, maps_of
from mlm_jax.serving.requests import Ask, Draw, Limits, Refused, refuse
from mlm_jax.showing import png
from mlm_jax.trained import Trained, classify, happening, unknown
from mlm_jax.world.render import render
from mlm_jax.world.scene import Scene

Kind = Literal["texts", "classes", "events", "drawings"]
Answer = dict[str, Any]
T = TypeVar("T")
DECODERS = 2  # pictures that are decoded at a time: each may need some hundred MB
PIXELS = 3 << 30  # of all frames of a clip: 1,500 of 1080p, some ten seconds of work
EVENTS = 20  # that are told


def kind_of(trained: Trained) -> Kind:
    """What a run has to say. Raises: UserError where that is nothing that is served."""
    model, loss = trained.config.model, trained.config.loss
    if type(model) in drawing.DRAWERS:
        return "drawings"
    if trained.take.needs and isinstance(loss, Spans):
        return "events"
    if trained.take.needs and isinstance(loss, Classes):
        return "classes"
    if trained.take.needs and hasattr(getattr(model, "decoder", None), "vocab"):
        return "texts"
    name = type(model).__name__
    raise UserError(
        f"{trained.path} is a {name}: served are runs that tell, name or answer something about"
        " pictures, clips and sounds, and runs that draw"
    )


class Piece(NamedTuple):
    """All that is said so far, and the probability of the word that was said last."""

    text: str
    probability: float


class Playground:
    """A run that is asked by many; the device does one thing at a time.

    Raises: UserError for a run that is not served (see `kind_of`).
    """

    def __init__(
        self, trained: Trained, limits: Limits, sizes: tuple[int, ...], blocked: Path = prompts.LIST
    ) -> None:
        self.trained, self.limits = trained, limits
        self.kind = kind_of(trained)
        self.refused = prompts.read_words(blocked)
        self.device = ThreadPoolExecutor(1, "device")
        self.decoding = ThreadPoolExecutor(DECODERS, "decoding")
        self.batcher = Batcher(trained, self.device, sizes)

    @property
    def asks(self) -> bool:
        """Whether it reads questions."""
        return self.kind == "texts" and hasattr(self.trained.config.model, "text")

    @property
    def scenes(self) -> bool:
        """Whether a scene can be shown to it."""
        return self.kind != "drawings" and self.trained.take.needs == ("image",)

    @property
    def maps(self) -> bool:
        """Whether it can be seen where each word of an answer looked."""
        return self.kind == "texts" and has_maps(self.trained)

    def warm_up(self, told: Callable[[str], None]) -> None:
        """Compile all that will be asked for; what is done next is `told`."""
        if self.kind == "drawings":
            for count in sorted({*map(drawing.rows_for, range(1, self.limits.pictures + 1))}):
                told(f"{count} at a time")
                drawing.draw(self.trained, [self.any_word()] * count)
        elif self.kind == "texts":
            row = {**self.blank(), **self.words_of("")}
            self.batcher.warm_up(row, lambda size: told(f"{size} at a time"))
            if self.maps:
                told("maps of attention")
                self.looked(row, [])
        else:
            told("one at a time")
            self.named(self.blank(), 1.0)

    def any_word(self) -> str:
        """One that the run knows, for a prompt."""
        words = map(self.trained.tokenizer.inner.id_to_token, range(self.trained.tokenizer.size))
        plain = (word.lstrip("▁Ġ") for word in words if word)
        return next(word for word in plain if word and not unknown(self.trained.tokenizer, word))

    def blank(self) -> Row:
        """What is seen and heard of nothing."""
        take = self.trained.take
        rows: dict[str, np.ndarray] = {}
        if take.image is not None:
            rows["image"] = np.zeros((*take.image.size, 3), np.uint8)
        if take.video is not None:
            rows["video"] = np.zeros((take.video.count, *take.video.decode.size, 3), np.uint8)
        if take.audio is not None:
            rows["audio"] = np.zeros(take.audio.samples, np.int16)
            rows["audio_length"] = np.array(take.audio.samples, np.int32)
        return rows

    # --- what is shown and asked ---

    def row_of(self, ask: Ask) -> tuple[Row, float]:
        """Arrays of what is shown and asked; of a clip how long it is. Raises: Refused."""
        self.require(ask)
        take, seconds = self.trained.take, 0.0
        frames: dict[str, np.ndarray] = {}
        try:
            if ask.scene is not None:
                record = Record("scene", image=self.seen(ask.scene))
            else:
                image, video, audio = (ask.files.get(key, b"") for key in SENSES)
                record = Record("file", image=image, video=video, audio=audio)
            if "image" in ask.files:
                refuse_large(ask.files["image"], self.limits.pixels)
            if take.video is not None:
                refuse_long(ask.files["video"], self.limits.frames)
                frames["video"], seconds = take.video(record)
            shown = {**replace(take, video=None)(record), **frames}
            words = self.words_of(ask.question) if self.kind == "texts" else {}
        except BadRecord as error:
            raise Refused(400, f"{error.key}: {error.reason}") from error
        except UserError as error:
            raise Refused(400, str(error)) from error
        return {**shown, **words}, seconds

    def require(self, ask: Ask) -> None:
        """Raises: Refused for what the run does not take."""
        needs = self.trained.take.needs
        given = tuple(ask.files) if ask.scene is None else ("scene",)
        if self.kind == "drawings":
            refuse("this run draws: POST /api/draw")
        if ask.scene is not None and not self.scenes:
            refuse(f"scene: this run takes {' and '.join(needs)}")
        if ask.scene is None and {*given} != {*needs}:
            wanted = " and ".join(needs) + (" (or scene)" if self.scenes else "")
            refuse(f"given: {', '.join(given) or 'nothing'}; this run takes {wanted}")
        if ask.maps and not self.maps:
            refuse("maps: this run has none")
        if ask.question and not self.asks:
            refuse("question: this run reads none")

    def words_of(self, question: str) -> dict[str, np.ndarray]:
        row = self.trained.tokenise(question or CAPTION_PROMPT, "", "question")
        return {key: row[key] for key in ("text", "text_mask")}

    def seen(self, scene: Scene) -> np.ndarray:
        """A scene as the run's own pictures are drawn, uint8 (H, H, 3)."""
        image = self.trained.take.image
        assert image is not None
        return render(scene, min(max(*image.size, 32), 512))

    # --- what is said ---

    async def say(self, ask: Ask) -> AsyncGenerator[Piece | Answer]:
        """Pieces as they come, and the whole answer last. Raises: Refused.

        Close it (`contextlib.aclosing`) to leave early.
        """
        row, seconds = await self.decode(self.row_of, ask)
        if self.kind != "texts":
            yield await self.on_device(self.named, row, seconds)
            return
        said: list[Word] = []
        with self.batcher.asked(row, ask.settings) as asked:
            while (word := await asked.next()) is not None:
                said.append(word)
                yield Piece(self.text(said), math.exp(word.logprob))
        pictures = await self.on_device(self.looked, row, said) if ask.maps else []
        yield {
            **self.whole(said, pictures),
            "unknown": unknown(self.trained.tokenizer, ask.question),
        }

    def looked(self, row: Row, said: list[Word]) -> list[dict[str, str]]:
        """Where each word looked, by sense as PNG in base64."""
        maps = maps_of(self.trained, row, [word.id for word in said])
        return [{sense: png(each) for sense, each in own.items()} for own in maps]

    def text(self, said: list[Word]) -> str:
        return self.trained.tokenizer.decode(word.id for word in said)

    def whole(self, said: list[Word], maps: Sequence[Mapping[str, str]] = ()) -> Answer:
        """The answer and its words, each with the blank before it, and their probabilities."""
        words, before = list[dict[str, Any]](), ""
        for count, word in enumerate(said, 1):
            after = self.text(said[:count])
            if after != before:
                piece = after.removeprefix(before)
                words.append({"text": piece, "probability": math.exp(word.logprob)})
                if maps:
                    words[-1]["maps"] = maps[count - 1]
            before = after
        return {
            "answer": before,
            "probability": math.exp(sum(word.logprob for word in said)),
            "words": words,
        }

    def named(self, row: Row, seconds: float) -> Answer:
        """Classes, the likeliest first, or what happens from when to when."""
        trained = self.trained
        if self.kind == "classes":
            told = classify(trained, dict(row))
            classes = [{"text": each.text, "probability": each.probability} for each in told]
            return {"answer": told[0].text, "probability": told[0].probability, "classes": classes}
        events = [
            {"text": each.label, "start": each.start, "end": each.end, "probability": each.score}
            for each in happening(trained, row["video"], seconds)[:EVENTS]
        ]
        best = events[0] if events else {"text": "", "probability": 0.0}
        return {"answer": best["text"], "probability": best["probability"], "events": events}

    # --- what is drawn ---

    async def draw(self, wanted: Draw) -> Answer:
        """Raises: Refused."""
        if self.kind != "drawings":
            refuse("this run draws nothing")
        if why := prompts.blocked(wanted.prompt, self.refused):
            refuse(why)
        if words := unknown(self.trained.tokenizer, wanted.prompt):
            refuse(f"prompt: the run has never seen {', '.join(words)}")
        try:
            self.trained.tokenise("", wanted.prompt, "prompt")
        except BadRecord as error:
            raise Refused(400, f"prompt: {error.reason}") from error
        return await self.on_device(self.drawn, wanted)

    def drawn(self, wanted: Draw) -> Answer:
        """PNG, or GIF of clips, marked and with their facts as those of generate.py are."""
        texts = [wanted.prompt] * wanted.count
        pixels = drawing.draw(self.trained, texts, seed=wanted.seed)
        mark = gallery.has_room(pixels.shape)
        settings = drawing.settings_of(self.trained, drawing.Drawing())
        with TemporaryDirectory() as folder:
            paths = gallery.hang(
                Path(folder), self.trained.path, texts, pixels, seed=wanted.seed, settings=settings,
                mark=mark,
            )[:-1]  # fmt: skip
            files = [path.read_bytes() for path in paths]
        kind = "image/gif" if pixels.ndim == 5 else "image/png"
        coded = [base64.b64encode(file).decode() for file in files]
        return {"type": kind, "marked": mark, "pictures": coded}

    async def rendered(self, scene: Scene, size: int) -> Answer:
        return {"image": png(await self.decode(render, scene, size))}

    # --- where it is done ---

    async def decode(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.decoding, work, *given)

    async def on_device(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.device, work, *given)


def refuse_large(file: bytes, most: int) -> None:
    """By what the file says of itself. Raises: Refused, BadRecord."""
    width, height = size_of(file, "file")
    if width * height > most:
        refuse(f"image: {width} x {height} pixels; at most {most:,} are decoded")


def refuse_long(file: bytes, frames: int) -> None:
    """Packets are counted, which takes no time beside decoding them. Raises: Refused, BadRecord."""
    with opened(file, "video", "file") as container:
        stream = pictures_of(container, "file")
        most = min(frames, PIXELS // max(1, stream.width * stream.height))
        packets = (each for each in container.demux(stream) if each.size)
        if next(islice(packets, most, None), None) is None:
            return
    refuse(f"video: over {most:,} frames, the most of this size that are decoded")

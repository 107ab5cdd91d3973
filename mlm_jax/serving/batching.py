"""Many askers, one compiled loop: rows of a few fixed sizes, a word for each row at a time.

Whoever waits when a place is free is taken on board together with all others that wait. Several
flights are under way at a time and advance in turn, a word each, so that a short answer does not
wait for the end of a long caption. A flight has as many rows as the next of the sizes; those that
nobody asked for repeat the last, so that nothing is compiled but once for each size. Which rows
stand beside a row changes nothing of it but the order in which sums are rounded.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from mlm_jax.fusion import Fused
from mlm_jax.generate import Cache, Model, Params, first, later, nucleus, only
from mlm_jax.serving.requests import Settings
from mlm_jax.trained import Trained

FLIGHTS = 4
GATHER = 0.003  # seconds that the first of a flight waits for others, where nothing is under way


def sizes_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `most` rows."""
    return (*(1 << i for i in range((most - 1).bit_length())), most)


Row = Mapping[str, np.ndarray]
"""What is shown, text and text_mask, without the axis of the batch."""


class Choice(NamedTuple):
    """How the next word of each row is chosen; greedily where it is not `sampled`."""

    sampled: Bool[Array, "B"]
    temperature: Float[Array, "B"]
    top_p: Float[Array, "B"]
    seed: UInt32[Array, "B"]


class Next(NamedTuple):
    """The next word of each row, and its log-probability by the model itself."""

    word: Int[Array, "B"]
    logprob: Float[Array, "B"]


# --- what is compiled ---


@partial(jax.jit, static_argnames=("model", "bos", "length"))
def start(
    model: Model,
    params: Params,
    batch: Mapping[str, Array],
    choice: Choice,
    *,
    bos: int,
    length: int,
) -> tuple[Fused, Cache, Next]:
    """The first word of texts of at most `length`."""
    fused = model.apply({"params": params}, batch, method="encode")
    logits, cache = first(model, params, fused, only(bos, fused), length)
    return fused, cache, choose(logits, choice, jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def go_on(
    model: Model,
    params: Params,
    fused: Fused,
    cache: Cache,
    word: Int[Array, "B"],
    choice: Choice,
    at: Int[Array, ""],
) -> tuple[Cache, Next]:
    """Word number `at`, after `word`."""
    logits, cache = later(model, params, fused, cache, word)
    return cache, choose(logits, choice, at)


def choose(logits: Float[Array, "B V"], choice: Choice, at: Int[Array, ""]) -> Next:
    """As `generate` chooses for a row alone by its own seed."""
    likeliest = logits.argmax(-1).astype(jnp.int32)

    def drawn() -> Int[Array, "B"]:
        warm, top_p = logits / choice.temperature[:, None], choice.top_p[:, None]
        kept = jnp.where(top_p < 1, nucleus(warm, top_p), warm)
        word = jax.vmap(partial(draw, at))(choice.seed, kept)
        return jnp.where(choice.sampled, word, likeliest)

    word = jax.lax.cond(choice.sampled.any(), drawn, lambda: likeliest)
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), word[:, None], axis=-1)[:, 0]
    return Next(word, logprob)


def draw(at: Int[Array, ""], seed: UInt32[Array, ""], logits: Float[Array, "V"]) -> Int[Array, ""]:
    key = jax.random.fold_in(jax.random.key(seed), at)
    return jax.random.categorical(key, logits).astype(jnp.int32)


# --- who asks ---


@dataclass(eq=False)
class Asked:
    """A row that waits for its words; `said` brings each, then None, or what went wrong."""

    row: Row
    settings: Settings
    said: asyncio.Queue["Word | Exception | None"] = field(default_factory=asyncio.Queue)
    words: int = 0
    over: bool = False
    """All is said, or whoever asked is gone."""

    async def next(self) -> "Word | None":
        word = await self.said.get()
        if isinstance(word, Exception):
            raise word
        return word


class Word(NamedTuple):
    id: int
    logprob: float


@dataclass(eq=False)
class Flight:
    asked: Sequence[Asked]
    choice: Choice
    fused: Fused
    cache: Cache
    next: Next  # on the host
    at: int = 0

    @property
    def over(self) -> bool:
        return all(each.over for each in self.asked)


class Batcher:
    """One loop on one thread of the device; what waits for it lives on the event loop.

    `taken` counts the rows that were taken on board, for those who look on.
    """

    def __init__(self, trained: Trained, device: ThreadPoolExecutor, sizes: Sequence[int]) -> None:
        self.trained, self.device, self.sizes = trained, device, tuple(sizes)
        self.length: int = trained.words["length"]
        self.waiting: list[Asked] = []
        self.wake = asyncio.Event()
        self.taken = 0

    @contextmanager
    def asked(self, row: Row, settings: Settings) -> Iterator[Asked]:
        """Ask, within the event loop; whoever leaves this context is not answered any more."""
        asked = Asked(row, settings)
        self.waiting.append(asked)
        self.wake.set()
        try:
            yield asked
        finally:
            asked.over = True

    async def run(self) -> None:
        """For ever."""
        flights: list[Flight] = []
        while True:
            if not flights and not self.waiting:
                self.wake.clear()
                await self.wake.wait()
                await asyncio.sleep(GATHER)
            if self.waiting and len(flights) < FLIGHTS:
                flights += await self._take_off()
            for flight in flights:
                await self._advance(flight)
            flights = [flight for flight in flights if not flight.over]

    async def _take_off(self) -> list[Flight]:
        there = [asked for asked in self.waiting if not asked.over]
        boarding, self.waiting = there[: self.sizes[-1]], there[self.sizes[-1] :]
        if not boarding:
            return []
        self.taken += len(boarding)
        flight = await self._on_device(boarding, partial(self.begin, boarding))
        if flight is None:
            return []
        self._tell(flight)
        return [flight]

    async def _advance(self, flight: Flight) -> None:
        if flight.over:  # all of them have left
            return
        if await self._on_device(flight.asked, partial(self.step, flight)):
            self._tell(flight)

    def _tell(self, flight: Flight) -> None:
        """To everyone on board the word that was found last."""
        words = zip(flight.asked, flight.next.word, flight.next.logprob, strict=False)
        for asked, word, logprob in words:
            self._say(asked, Word(int(word), float(logprob)))

    def _say(self, asked: Asked, word: Word) -> None:
        if asked.over:
            return
        asked.words += 1
        asked.said.put_nowait(word)
        most = min(asked.settings.words or self.length, self.length)
        if word.id == self.trained.tokenizer.eos or asked.words == most:
            asked.over = True
            asked.said.put_nowait(None)

    async def _on_device(self, asked: Sequence[Asked], work: Callable[[], Any]) -> Any:
        """What goes wrong there is told to those who asked, and the others go on."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.device, work)
        except Exception as error:
            for each in asked:
                each.said.put_nowait(error)
                each.over = True
            return None

    # --- on the thread of the device ---

    def begin(self, asked: Sequence[Asked]) -> Flight:
        """Stack rows to the next of the sizes, and find their first words."""
        size = next(size for size in self.sizes if size >= len(asked))
        filled = [*asked, *[asked[-1]] * (size - len(asked))]
        batch = {key: np.stack([each.row[key] for each in filled]) for key in filled[0].row}
        own = [each.settings for each in filled]
        choice = Choice(
            jnp.array([each.method == "sample" for each in own]),
            jnp.array([each.temperature for each in own], jnp.float32),
            jnp.array([each.top_p for each in own], jnp.float32),
            jnp.array([each.seed for each in own], jnp.uint32),
        )
        model, params, bos = (
            self.trained.config.model,
            self.trained.params,
            self.trained.words["bos"],
        )
        fused, cache, word = start(model, params, batch, choice, bos=bos, length=self.length)
        return Flight(asked, choice, fused, cache, jax.device_get(word))

    def step(self, flight: Flight) -> Flight:
        """Find the next words."""
        flight.at += 1
        flight.cache, words = go_on(
            self.trained.config.model,
            self.trained.params,
            flight.fused,
            flight.cache,
            flight.next.word,
            flight.choice,
            np.int32(flight.at),
        )
        flight.next = jax.device_get(words)
        return flight

    def warm_up(self, row: Row, told: Callable[[int], None]) -> None:
        """Compile all that will be run; `told` hears of each size before it is."""
        for size in self.sizes:
            told(size)
            self.step(self.begin([Asked(row, Settings())] * size))

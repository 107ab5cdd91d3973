"""Describe what is shown, answer a question about it, name it, write on from a text, or draw.

python experiments/generate.py --run runs/gpt_tiny --prompt "a small red"
python experiments/generate.py --run runs/vit_tiny --image picture.png
python experiments/generate.py --run runs/vit_tiny --image picture.png --question "..."
python experiments/generate.py --run runs/video_qa_tiny --video clip.mp4 --question "..."
python experiments/generate.py --run runs/video_tiny --video clip.mp4
python experiments/generate.py --run runs/dalle_tiny --prompt "a red circle" --n 8 --out pictures
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mlm_jax import command
from mlm_jax.config import SENSES, UserError

EVENTS, CLASSES = 10, 5  # how many are shown where --n does not say
AMONG = 32  # how many are drawn where --among does not say

DRAWN = (
    "clip", "to", "to_image", "guidance", "sampler", "steps", "threshold", "eta", "told", "blocked",
    "watermark",
)  # fmt: skip
NEEDED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(DRAWN, ("out",)),
    **dict.fromkeys(("question", "answers"), SENSES),
    "among": ("clip",),
    "out": ("prompt", "image"),
}
"""By the option: those without all of which it would be passed over."""
UNREAD = {
    "out": ("question", "answers", "messages", "method", "beams"),
    "to": ("clip", "video", "to_image"),
    "to_image": ("clip", "prompt"),
    "told": ("image", "to_image"),
    "messages": ("question", "prompt", "answers"),
}
"""By the option: those that would be passed over beside it."""
WRITING = (
    "question", "answers", "messages", "method", "beams", "temperature", "top_k", "top_p", "seed",
)  # fmt: skip
"""What a model that tells classes or events would pass over."""


@dataclass(frozen=True)
class Arguments:
    """Describe a picture, answer a question about it, write on from a text, or draw."""

    run: Path
    """The run directory."""
    image: Path | None = None
    """PNG, JPEG, WebP, BMP or GIF; a model of text alone takes none."""
    video: Path | None = None
    """MP4, WebM, GIF, ...; for models of clips."""
    audio: Path | None = None
    """WAV, FLAC, MP3, Ogg, or a video with sound; for models of sounds."""
    prompt: str = ""
    """What a model of text alone goes on from, or what is to be drawn."""
    messages: Path | None = None
    """A conversation to answer, as JSON: a list of {"role": ..., "content": ...}."""
    question: str = ""
    """Left out: a caption."""
    answers: tuple[str, ...] = ()
    """Choose among these; the probability is then shared out among them."""
    method: Literal["greedy", "sample", "beam"] | None = None
    """None: greedy."""
    temperature: float = 1.0
    """Sampling: divides the logits."""
    top_k: int = 0
    """Sampling: among this many of the likeliest words; 0 = all."""
    top_p: float = 1.0
    """Sampling: among the likeliest words that have this probability between them."""
    beams: int | None = None
    """None: 4."""
    number: Annotated[int | None, tyro.conf.arg(name="n")] = None
    """How many texts, which for more than one need --method sample or beam; or pictures. None: 1.
    Or at most how many classes, None: 5; or events, None: 10."""
    seed: int = 0
    """Sampling, and drawing."""
    out: Path | None = None
    """Drawing: a new folder for pictures (PNG) or clips (GIF, and MP4 where PyAV is installed), and
    a sheet of all of them. With an --image, or a --video, its first half is kept and the rest drawn
    anew; with an --image a clip begins; DALL-E 2 varies an --image, without a --prompt."""
    guidance: float | None = None
    """Drawing: how much the prompt counts; 1 is as learnt. 1.6 for codes, 3 for painting."""
    sampler: Literal["ddpm", "ddim", "dpm++2m", "heun"] | None = None
    """Drawing by diffusion; None: dpm++2m."""
    steps: int | None = None
    """Drawing by diffusion; None: 30."""
    threshold: float | None = None
    """Drawing pixels by diffusion: dynamic thresholding at this share of them; None: none."""
    eta: float | None = None
    """Drawing by --sampler ddim: how much noise comes in on the way, up to 1; None: 0."""
    told: Literal["prior", "text"] | None = None
    """Drawing by DALL-E 2: by the prior's guess (None as well), or by CLIP's vector of the prompt
    itself."""
    to: str = ""
    """Drawing by DALL-E 2: --n pictures on the way from --prompt to this prompt; with an --image,
    which --prompt tells, from that picture towards what this prompt tells instead."""
    to_image: Path | None = None
    """Drawing by DALL-E 2: --n pictures on the way from --image to this picture."""
    clip: Path | None = None
    """Drawing: a run of CLIP; of --among pictures the --n that it finds nearest to the prompt."""
    among: int | None = None
    """More than --n; None: 32."""
    blocked: Path | None = None
    """Drawing: a list of words that are refused, in place of the project's own."""
    watermark: bool = True
    """Drawing: an invisible mark in every picture."""

    @property
    def n(self) -> int:
        return 1 if self.number is None else self.number

    @property
    def choice(self) -> int:
        return AMONG if self.among is None else self.among


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="generate.py", description=__doc__)
    refuse_unread(given)
    # after the command line: a typo is answered at once
    from mlm_jax.drawing import DRAWERS
    from mlm_jax.generate import How
    from mlm_jax.losses import Classes, Spans
    from mlm_jax.terminal import printable, printable_lines
    from mlm_jax.trained import chat, classify, go_on, look, open_trained, unknown, watch_for_events
    from mlm_jax.trained import tell as tell_of

    trained = open_trained(given.run)
    if given.out is not None:
        return draw_into(given.out, given, trained)
    if type(trained.config.model) in DRAWERS:
        raise UserError(f"{given.run} draws pictures: --out names a new folder for them")
    if isinstance(trained.config.loss, Classes | Spans):
        refuse_unwritten(given)
    for text in (given.question, given.prompt, *given.answers):
        words = unknown(trained.tokenizer, text)
        if words:
            print(f"note: {given.run} has never seen: {', '.join(words)}", file=sys.stderr)
    how = but_for(
        How(temperature=given.temperature, top_k=given.top_k, top_p=given.top_p),
        method=given.method,
        beams=given.beams,
    )
    files = {key: path for key in SENSES if (path := getattr(given, key)) is not None}
    if files and isinstance(trained.config.loss, Spans):
        most = EVENTS if given.number is None else given.n
        for event in watch_for_events(trained, files)[:most]:
            print(
                f"{event.start:6.2f} to {event.end:6.2f} s  {printable(event.label)}"
                f"  ({share(event.score)})"
            )
        return 0
    shown = look(trained, files) if files else None
    if shown is not None and isinstance(trained.config.loss, Classes):
        most = CLASSES if given.number is None else given.n
        for text, probability in classify(trained, shown)[:most]:
            print(f"{printable(text)}  ({share(probability)})")
        return 0
    if given.messages is not None:
        tell = partial(chat, trained, read_messages(given.messages), shown)
    elif shown is not None:
        tell = partial(tell_of, trained, shown, given.question, answers=given.answers)
    else:
        tell = partial(go_on, trained, given.prompt)
    told = tell(how=how, count=given.n, seed=given.seed)
    for text, probability in told:
        text = printable_lines(text)
        print(f"{text}  ({share(probability)})" if given.question or len(told) > 1 else text)
    return 0


def refuse_unread(given: Arguments) -> None:
    """Raises: UserError for what would be passed over in silence."""
    said = said_in(given).keys()
    for one, others in NEEDED.items():
        if one in said and said.isdisjoint(others):
            raise UserError(f"{option(one)} needs {' or '.join(map(option, others))}")
    for one, others in UNREAD.items():
        for other in others:
            if said >= {one, other}:
                raise UserError(f"{option(one)} reads no {option(other)}")
    if said >= {"to", "image", "seed"}:
        raise UserError("--to reads no --seed with an --image: its own noise is found, none drawn")
    if said >= {"out", "image", "video"}:
        raise UserError("--out begins with an --image or with a --video, not with both")
    if given.clip is not None and given.choice <= given.n:
        raise UserError(
            f"--among is {given.choice}: at least {given.n + 1}, for --clip to keep {given.n}"
        )
    if "prompt" in said and "out" not in said and not said.isdisjoint(SENSES):
        raise UserError("--prompt is for a model of text alone, which takes no --image")
    least = 2 if given.to or given.to_image else 1
    if given.n < least:
        raise UserError(f"--n is {given.n}: at least {least}")


def refuse_unwritten(given: Arguments) -> None:
    """Raises: UserError for what is read only where texts are written."""
    said = said_in(given)
    for name in WRITING:
        if name in said:
            raise UserError(f"{option(name)} is for a model that writes: {given.run} does not")


def said_in(given: Arguments) -> dict[str, Any]:
    """The options that are not left as they are."""
    plain = {each.name: each.default for each in fields(given)}
    return {name: value for name in plain if (value := getattr(given, name)) != plain[name]}


def option(name: str) -> str:
    return "--no-watermark" if name == "watermark" else f"--{name.replace('_', '-')}"


def draw_into(out: Path, given: Arguments, trained: Any) -> int:
    """Draw --n pictures of the prompt into a folder. Raises: UserError."""
    from mlm_jax import choosing, drawing

    said = said_in(given)
    how = drawing.drawing_of(trained, {k: v for k, v in said.items() if k in drawing.OPTIONS})
    clip = refuse_undrawn(out, given, trained)
    files = {key: path for key, path in said.items() if key in (*SENSES, "to_image")}
    shown = {
        key: drawing.begin(trained, key.removeprefix("to_"), file) for key, file in files.items()
    }
    settings = drawing.settings_of(trained, how) | {
        key: {"file": file.name, "sha256": sha256(file.read_bytes()).hexdigest()}
        for key, file in files.items()
    }
    begun = shown.get("image", shown.get("video"))
    if given.to or given.to_image:
        ends: tuple[Any, Any] = (begun, shown.get("to_image"))
        if given.to:
            ends = (given.prompt, given.to)
        way = partial(drawing.morph, seed=given.seed)
        if given.to and begun is not None:
            way = partial(drawing.changed, picture=begun)
        pictures = way(trained, *ends, given.n, how=how)
        texts = [f"{given.prompt} -> {given.to}" if given.to else ""] * given.n
        return hang(out, given, texts, pictures, settings)
    count = given.n if clip is None else given.choice
    many = None if begun is None else begun[None].repeat(count, axis=0)
    texts = [given.prompt] * count
    pictures = drawing.draw(trained, texts, how=how, seed=given.seed, begun=many)
    if clip is not None:
        scores = choosing.ranked(clip, texts, pictures)
        pictures = pictures[(-scores).argsort(kind="stable")[: given.n]]
        settings |= {"clip": str(given.clip), "among": count}
    return hang(out, given, texts[: given.n], pictures, settings)


def refuse_undrawn(out: Path, given: Arguments, trained: Any) -> Any:
    """The run of --clip, if any. Raises: UserError for what would fail after the drawing."""
    from mlm_jax import choosing, drawing, gallery, prompts
    from mlm_jax.trained import open_trained

    gallery.require_new(out)
    refused = prompts.read_words(given.blocked or prompts.LIST)
    for name in ("prompt", "to"):
        if why := prompts.blocked(getattr(given, name), refused):
            raise UserError(f"{option(name)}: {why}")
    drawing.base_of(trained)
    model = trained.config.model
    if given.watermark:
        gallery.require_room(getattr(model, model.sense).takes.shape)
    if given.clip is None:
        return None
    if not given.prompt:
        raise UserError("--clip ranks by a --prompt, and a variation of an --image has none")
    clip = open_trained(given.clip)
    choosing.require_sight(clip, choosing.drawn_shape(trained))
    choosing.told(clip, [given.prompt])
    return clip


def but_for(settings: Any, **given: Any) -> Any:
    """The settings, and in their place what is given and not None."""
    return replace(settings, **{key: value for key, value in given.items() if value is not None})


def hang(
    out: Path, given: Arguments, texts: Sequence[str], pictures: Any, settings: dict[str, Any]
) -> int:
    from mlm_jax import gallery
    from mlm_jax.provenance import can_film

    paths = gallery.hang(
        out,
        given.run,
        texts,
        pictures,
        seed=given.seed,
        settings=settings,
        mark=given.watermark,
        films=can_film(),
    )
    print(*paths, sep="\n")
    return 0


def read_messages(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--messages {path} cannot be read: {error}") from error


def share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1e}"


if __name__ == "__main__":
    sys.exit(command.main(main))

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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from mlm_jax import command
from mlm_jax.config import SENSES, UserError

EVENTS, CLASSES = 10, 5  # how many are shown where --n does not say


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
    method: Literal["greedy", "sample", "beam"] = "greedy"
    temperature: float = 1.0
    """Sampling: divides the logits."""
    top_k: int = 0
    """Sampling: among this many of the likeliest words; 0 = all."""
    top_p: float = 1.0
    """Sampling: among the likeliest words that have this probability between them."""
    beams: int = 4
    n: int = 1
    """How many texts, which for more than one need --method sample or beam; classes, or events;
    or pictures."""
    seed: int = 0
    """Sampling, and drawing."""
    out: Path | None = None
    """Drawing: a new folder for pictures (PNG) or clips (GIF), and a sheet of all of them. With an
    --image, or a --video, its first half is kept and the rest drawn anew; DALL-E 2 varies it."""
    guidance: float | None = None
    """Drawing: how much the prompt counts; 1 is as learnt. 2 for codes, 3 for painting."""
    sampler: Literal["ddpm", "ddim", "dpm++2m", "heun"] = "dpm++2m"
    """Drawing by diffusion."""
    steps: int = 30
    """Drawing by diffusion."""
    told: Literal["prior", "text"] = "prior"
    """Drawing by DALL-E 2: by the prior's guess, or by CLIP's vector of the prompt itself."""
    to: str = ""
    """Drawing by DALL-E 2: --n pictures on the way from --prompt to this prompt; with an --image,
    which --prompt tells, from that picture towards what this prompt tells instead."""
    clip: Path | None = None
    """Drawing: a run of CLIP; of --among pictures the --n that it finds nearest to the prompt."""
    among: int = 32
    blocked: Path | None = None
    """Drawing: a list of words that are refused, in place of the project's own."""
    watermark: bool = True
    """Drawing: an invisible mark in every picture."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="generate.py", description=__doc__)
    refuse_unread(given)
    # after the command line: a typo is answered at once
    from mlm_jax.drawing import DRAWERS
    from mlm_jax.generate import How
    from mlm_jax.losses import Classes, Spans
    from mlm_jax.trained import chat, classify, go_on, look, open_trained, unknown, watch_for_events
    from mlm_jax.trained import tell as tell_of

    trained = open_trained(given.run)
    if given.out is not None:
        return draw_into(given.out, given, trained)
    if type(trained.config.model) in DRAWERS:
        raise UserError(f"{given.run} draws pictures: --out names a new folder for them")
    for text in (given.question, given.prompt, *given.answers):
        words = unknown(trained.tokenizer, text)
        if words:
            print(f"note: {given.run} has never seen: {', '.join(words)}", file=sys.stderr)
    how = How(given.method, given.temperature, given.top_k, given.top_p, given.beams)
    files = {key: path for key in SENSES if (path := getattr(given, key)) is not None}
    if files and isinstance(trained.config.loss, Spans):
        for event in watch_for_events(trained, files)[: given.n if given.n > 1 else EVENTS]:
            print(
                f"{event.start:6.2f} to {event.end:6.2f} s  {event.label}  ({share(event.score)})"
            )
        return 0
    shown = look(trained, files) if files else None
    if shown is not None and isinstance(trained.config.loss, Classes):
        for text, probability in classify(trained, shown)[: given.n if given.n > 1 else CLASSES]:
            print(f"{text}  ({share(probability)})")
        return 0
    if given.messages is not None:
        tell = partial(chat, trained, read_messages(given.messages), shown)
    elif shown is not None:
        tell = partial(tell_of, trained, shown, given.question, answers=given.answers)
    else:
        tell = partial(go_on, trained, given.prompt)
    told = tell(how=how, count=given.n, seed=given.seed)
    for text, probability in told:
        print(f"{text}  ({share(probability)})" if given.question or len(told) > 1 else text)
    return 0


def refuse_unread(given: Arguments) -> None:
    """Raises: UserError for what would be passed over in silence."""
    shown = any(getattr(given, key) is not None for key in SENSES)
    if given.out is not None and (given.question or given.answers or given.messages):
        raise UserError("--out is for what is drawn: no --question, --answers or --messages")
    if given.out is not None and not given.prompt:
        raise UserError("--out is for what is drawn: --prompt says what")
    if given.out is None and (given.clip is not None or given.to):
        raise UserError("--clip and --to are about what is drawn, into --out")
    if given.to and (given.clip is not None or given.video is not None):
        raise UserError("--to goes from a --prompt to another, without --clip or a --video")
    if shown and given.prompt and given.out is None:
        raise UserError("--prompt is for a model of text alone, which takes no --image")
    if not shown and (given.question or given.answers):
        raise UserError("--question and --answers are about an --image, a --video or an --audio")
    if given.messages is not None and (given.question or given.prompt or given.answers):
        raise UserError("--messages say all that is said: no --question, --answers or --prompt")


def draw_into(out: Path, given: Arguments, trained: Any) -> int:
    """Draw --n pictures of the prompt into a folder. Raises: UserError."""
    from mlm_jax import choosing, drawing, gallery, prompts
    from mlm_jax.decoders import diffusion
    from mlm_jax.generate import How
    from mlm_jax.trained import look, open_trained

    gallery.require_new(out)
    refused = prompts.read_words(given.blocked or prompts.LIST)
    if why := prompts.blocked(f"{given.prompt}; {given.to}", refused):
        raise UserError(f"--prompt: {why}")
    plain = drawing.Drawing()
    how = drawing.Drawing(
        How("sample", given.temperature, given.top_k, given.top_p,
            guidance=or_else(given.guidance, plain.codes.guidance)),
        diffusion.How(given.sampler, given.steps, or_else(given.guidance, plain.paint.guidance)),
        told=given.told,
    )  # fmt: skip
    files = {key: path for key in SENSES if (path := getattr(given, key)) is not None}
    shown = next(iter(look(trained, files).values())) if files else None
    if given.to:
        way = partial(drawing.morph, seed=given.seed)
        if shown is not None:
            way = partial(drawing.changed, picture=shown)
        pictures = way(trained, given.prompt, given.to, given.n, how=how)
        texts = [f"{given.prompt} -> {given.to}"] * given.n
        return hang(out, given, texts, pictures, asdict(how))
    count = max(given.among, given.n) if given.clip else given.n
    begun = None if shown is None else shown[None].repeat(count, axis=0)
    texts = [given.prompt] * count
    pictures = drawing.draw(trained, texts, how=how, seed=given.seed, begun=begun)
    if given.clip is not None:
        scores = choosing.ranked(open_trained(given.clip), texts, pictures)
        pictures = pictures[(-scores).argsort(kind="stable")[: given.n]]
    settings = asdict(how) | {"clip": str(given.clip or ""), "among": count}
    return hang(out, given, texts[: given.n], pictures, settings)


def hang(
    out: Path, given: Arguments, texts: Sequence[str], pictures: Any, settings: dict[str, Any]
) -> int:
    from mlm_jax import gallery

    mark = given.watermark
    paths = gallery.hang(
        out, given.run, texts, pictures, seed=given.seed, settings=settings, mark=mark
    )
    print(*paths, sep="\n")
    return 0


def or_else(value: float | None, default: float) -> float:
    return default if value is None else value


def read_messages(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--messages {path} cannot be read: {error}") from error


def share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1e}"


if __name__ == "__main__":
    sys.exit(command.main(main))

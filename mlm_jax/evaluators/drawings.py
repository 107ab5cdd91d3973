"""Does what is drawn show its prompt? Every picture of the world passes or fails exactly."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mlm_jax.config import UserError
from mlm_jax.data import loader, sources
from mlm_jax.data.records import Source
from mlm_jax.drawing import draw
from mlm_jax.evaluators import Measured
from mlm_jax.evaluators.pictures import nearest
from mlm_jax.metrics import Figure
from mlm_jax.showing import shown_as
from mlm_jax.trained import Trained
from mlm_jax.world import drawn, language, story

PROMPTS = 1_000  # of a split, where no limit is given
SAMPLES = 8  # pictures of one prompt, whose places are compared
TRAINING = 10_000  # training pictures among which the nearest is sought
COMPARED = 100  # pictures for which it is
SHOWN = 16


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """One picture, or clip, for a caption of each record, held against it. Raises: UserError.

    `drawn/nearest` is how near the nearest training picture is, over how near it is to real
    pictures that were not learnt from: about 1, and far below it where pictures are remembered.
    It is of the median picture, and its bounds hold 95 % of them.
    """
    config = trained.config
    sense = config.model.sense
    prompts = prompts_of(source, sense, limit)
    if not prompts:
        raise UserError(f"{config.data.name}: no captions of the world that could be drawn")
    pictures = draw(trained, prompts, seed=config.seed)
    if sense == "video":
        clips = [drawn.grade_clip(*pair) for pair in zip(pictures, prompts, strict=True)]
        return Measured(drawn.figures(clips), shown(pictures, prompts, clips, sense))
    grades = [drawn.grade_picture(*pair) for pair in zip(pictures, prompts, strict=True)]
    figures = drawn.figures(grades)
    figures |= spread(trained, prompts)
    figures["drawn/nearest"] = novelty(trained, source, pictures[:COMPARED])
    return Measured(figures, shown(pictures, prompts, grades, sense))


def prompts_of(source: Source, sense: str, limit: int | None) -> list[str]:
    """The first caption of each record, where a picture, or clip, can be held against it."""
    count = min(PROMPTS if limit is None else limit, len(source))
    places = (i * len(source) // count for i in range(count))
    first = (caption for i in places for caption in source[i].captions[:1])
    gradable = story.parse if sense == "video" else lambda text: language.parse(text).objects
    return [text for text in first if gradable(text)]


def spread(trained: Trained, prompts: Sequence[str]) -> dict[str, Figure]:
    """`drawn/spread`, the mean over prompts of one object by SAMPLES pictures of each, and the
    least and most of them; none where too few pictures pass."""
    alone = [text for text in prompts if drawn.kind_of(language.parse(text)) == "one"]
    chosen = list(dict.fromkeys(alone))[:SAMPLES]
    again = [text for text in chosen for _ in range(SAMPLES)]
    if not again:
        return {}
    pictures = draw(trained, again, seed=trained.config.seed + 1)
    grades = [drawn.grade_picture(*pair) for pair in zip(pictures, again, strict=True)]
    groups = (grades[i : i + SAMPLES] for i in range(0, len(grades), SAMPLES))
    values = [value for group in groups if not np.isnan(value := drawn.spread(group))]
    if not values:
        return {}
    return {"drawn/spread": Figure(float(np.mean(values)), min(values), max(values), len(values))}


def novelty(trained: Trained, source: Source, pictures: UInt8[np.ndarray, "N H W 3"]) -> Figure:
    data = trained.config.data
    train = sources.open_source(data, data.train, trained.take.needs)
    known = seen(trained, train, TRAINING)
    real = nearest(seen(trained, source, len(pictures)), known).distance
    made = nearest(pictures, known).distance
    ratio = float(np.median(made) / np.median(real))
    low, high = (float(np.quantile(made, q) / np.median(real)) for q in (0.025, 0.975))
    return Figure(ratio, low, high, len(made))


def seen(trained: Trained, source: Source, limit: int) -> UInt8[np.ndarray, "N H W 3"]:
    rows = loader.eval_records(trained.config.data, source, trained.take, limit=limit)
    return np.stack([arrays["image"] for _, arrays in rows])


def shown(
    pictures: np.ndarray, prompts: Sequence[str], grades: Sequence[Any], sense: str
) -> dict[str, Any]:
    """What the report shows: the first pictures, and what is wrong with each."""
    rows = islice(zip(pictures, prompts, grades, strict=True), SHOWN)
    return {
        "drawn": [
            {
                "image": shown_as({sense: picture}),
                "text": f"{prompt}: {'; '.join(grade.faults) or 'right'}",
            }
            for picture, prompt, grade in rows
        ]
    }

"""Does what is drawn show its prompt? Every picture of the world passes or fails exactly; of others
it is measured how near they are to real ones and to their captions."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, islice
from typing import Any

import numpy as np
from jaxtyping import Float

from mlm_jax.choosing import best, drawn_shape, require_sight, seen, told
from mlm_jax.config import Data, UserError
from mlm_jax.data import loader, sources
from mlm_jax.data.records import BadRecord, Record, Source
from mlm_jax.drawing import Drawing, Pixels, draw, drawing_of, read_prompts
from mlm_jax.evaluators import Measured
from mlm_jax.evaluators.inception import Inception
from mlm_jax.evaluators.pictures import clip_score, fid, kid, nearest, r_precision
from mlm_jax.gallery import has_room, marked
from mlm_jax.metrics import Figure
from mlm_jax.showing import shown_as
from mlm_jax.trained import Trained
from mlm_jax.world import drawn, language, story, watch
from mlm_jax.world.grade import findable

PROMPTS = 1_000  # of a split, where no limit is given
SAMPLES = 8  # pictures of one prompt, whose places are compared
TRAINING = 10_000  # training pictures, or frames of clips, among which the nearest is sought
COMPARED = 100  # pictures for which it is
SHOWN = 16


@dataclass(frozen=True)
class Drawer:
    """A run that draws, and how; with `clip` the best of `among` is what counts."""

    trained: Trained
    how: Drawing = field(default_factory=Drawing)
    clip: Trained | None = None
    among: int = 1

    def draw(self, prompts: Sequence[str], turn: int = 0) -> Pixels:
        return draw(self.trained, prompts, how=self.how, seed=self.trained.config.seed + turn)

    def best(self, prompts: Sequence[str]) -> Pixels:
        if self.clip is None:
            return self.draw(prompts)
        seed = self.trained.config.seed
        return best(self.trained, self.clip, prompts, among=self.among, how=self.how, seed=seed)


def evaluate(
    trained: Trained,
    source: Source,
    limit: int | None,
    *,
    features: Trained | Inception | None = None,
    clip: Trained | None = None,
    among: int = 1,
    **options: Any,
) -> Measured:
    """One picture, or clip, for a caption of each record; `options` are those of `drawing_of`.

    Of the world each is held against its caption (`graded`). With `features`, a run of CLIP or
    Inception-v3, pictures of anything are measured by its vectors (`by_features`, `distances`).
    With `clip`, a run of CLIP, `among` pictures are drawn for each caption, and that counts which
    it finds nearest (`drawn/among`). Raises: UserError.
    """
    if (clip is None) != (among == 1) or among < 1:
        raise UserError(f"--among {among}: pictures, at least 2, of which --clip RUN keeps one")
    drawer = Drawer(trained, drawing_of(trained, options), clip, among)
    asked = asked_of(trained.config.data, source, limit)
    if features is None:
        measured = held(drawer, source, asked)
    else:
        measured = compared(drawer, source, asked, features)
    if clip is not None:
        measured.figures["drawn/among"] = Figure(among, among, among, len(asked))
    return measured


def held(drawer: Drawer, source: Source, records: Sequence[Record]) -> Measured:
    """Those of the world, held against their captions. Raises: UserError where there are none."""
    config = drawer.trained.config
    if not legible(drawer.trained):
        raise UserError(
            f"{drawer.trained.path} draws {drawn_shape(drawer.trained)}: only what is square, of 32"
            " pixels or more, is held against captions (--features measures others)"
        )
    prompts = [each.captions[0] for each in records if gradable(each, config.model.sense)]
    if not prompts:
        raise UserError(
            f"{config.data.name}: no captions of the world that could be drawn"
            " (--features measures pictures of others, by a run of CLIP or Inception-v3)"
        )
    return graded(drawer, source, prompts, drawer.best(prompts))


def compared(
    drawer: Drawer, source: Source, records: Sequence[Record], features: Trained | Inception
) -> Measured:
    """All that the runs can read, by the vectors of CLIP, or of Inception; those of the world held
    against their captions too. Raises: UserError."""
    trained, readers = drawer.trained, [drawer.trained]
    if isinstance(features, Trained):
        require_sight(features, drawn_shape(trained))
        readers.append(features)
    records, pictures = comparable(readers, records)
    prompts = [each.captions[0] for each in records]
    # what they refuse they do before the drawing
    words = told(features, prompts) if isinstance(features, Trained) else None
    see = eyes_of(features)
    real, made = see(pictures), drawer.best(prompts)
    figures = distances(see(made), real) if words is None else by_features(see(made), real, words)
    sense = trained.config.model.sense
    of_world = np.array([legible(trained) and gradable(each, sense) for each in records])
    if not of_world.any():
        return Measured(figures)
    measured = graded(drawer, source, [*compress(prompts, of_world)], made[of_world])
    return measured._replace(figures=measured.figures | figures)


def eyes_of(features: Trained | Inception) -> Callable[[Pixels], Float[np.ndarray, "N E"]]:
    return features.see if isinstance(features, Inception) else partial(seen, features)


def asked_of(data: Data, source: Source, limit: int | None) -> list[Record]:
    """Records that have a caption, evenly spread; their first one is drawn."""
    limit = PROMPTS if limit is None else limit
    rows = loader.eval_records(data, source, lambda record: {}, limit=limit)
    return [record for _, record, _ in rows if record.captions]


def legible(trained: Trained) -> bool:
    """Whether objects, or events, can be found in what it draws."""
    shape = drawn_shape(trained)
    return watch.watchable(shape) if trained.config.model.sense == "video" else findable(shape)


def gradable(record: Record, sense: str) -> bool:
    """Whether it is of the world, and a picture, or clip, can be held against its caption."""
    text = record.captions[0]
    facts = story.parse(text) if sense == "video" else language.parse(text).objects
    return bool(record.truth and facts)


def comparable(runs: Sequence[Trained], records: Sequence[Record]) -> tuple[list[Record], Pixels]:
    """Those whose caption all runs can read, and their pictures as the first sees its own.

    Raises: UserError.
    """
    kept, pictures = [], []
    trained = runs[0]
    for record in records:
        try:
            for run in runs:
                read_prompts(run, record.captions[:1])
            pictures.append(trained.take(record)[trained.config.model.sense])
        except (UserError, BadRecord):
            continue
        kept.append(record)
    if left := len(records) - len(kept):
        print(
            f"{left} of {len(records)} captions left out: a run has never seen their words, they"
            " are too long for it, or the picture is broken",
            file=sys.stderr,
        )
    if len({record.captions[0] for record in kept}) < 2:
        raise UserError("--features: at least two pictures are needed, with different captions")
    return kept, np.stack(pictures)


def by_features(
    made: Float[np.ndarray, "N E"], real: Float[np.ndarray, "N E"], told: Float[np.ndarray, "N E"]
) -> dict[str, Figure]:
    """How near what is made is to the real pictures of the same captions, and to the captions.

    All are unit vectors; distances are of vectors with variance 1 an axis, as KID's kernel expects.
    """
    scale = np.sqrt(made.shape[1])
    return {
        **distances(scale * made, scale * real),
        "features/clip_score": clip_score(made, told),
        "features/clip_score_real": clip_score(real, told),
        "features/r_precision": r_precision(made, told),
    }


def distances(made: Float[np.ndarray, "N E"], real: Float[np.ndarray, "N E"]) -> dict[str, Figure]:
    far = fid(made, real)
    return {"features/fid": Figure(far, far, far, len(made)), "features/kid": kid(made, real)}


def graded(drawer: Drawer, source: Source, prompts: Sequence[str], pictures: Pixels) -> Measured:
    """Those of the world, held against their prompts.

    `drawn/nearest` is how near the nearest training picture is, over how near it is to real
    pictures that were not learnt from: about 1, and far below it where pictures are remembered.
    It is of the median picture, and its bounds hold 95 % of them. Of a split with pictures that
    were learnt from it is left out.
    """
    trained = drawer.trained
    grades = grades_of(trained, pictures, prompts)
    figures = drawn.figures(grades)
    figures |= spread(drawer, prompts)
    figures |= novelty(trained, source, pictures[:COMPARED])
    return Measured(figures, shown(pictures, prompts, grades, trained.config.model.sense))


def grades_of(trained: Trained, pictures: Pixels, prompts: Sequence[str]) -> list[Any]:
    sense = trained.config.model.sense
    grade = drawn.grade_clip if sense == "video" else drawn.grade_picture
    return [grade(*pair) for pair in zip(pictures, prompts, strict=True)]


def spread(drawer: Drawer, prompts: Sequence[str]) -> dict[str, Figure]:
    """`drawn/spread`, the mean over prompts of one object, or event, by SAMPLES pictures, or clips,
    of each, and the least and most of them; none where too few pass."""
    alone = [text for text in prompts if tells_one(text, drawer.trained.config.model.sense)]
    chosen = list(dict.fromkeys(alone))[:SAMPLES]
    again = [text for text in chosen for _ in range(SAMPLES)]
    if not again:
        return {}
    grades = grades_of(drawer.trained, drawer.draw(again, turn=1), again)
    groups = (grades[i : i + SAMPLES] for i in range(0, len(grades), SAMPLES))
    values = [value for group in groups if not np.isnan(value := drawn.spread(group))]
    if not values:
        return {}
    return {"drawn/spread": Figure(float(np.mean(values)), min(values), max(values), len(values))}


def tells_one(text: str, sense: str) -> bool:
    if sense == "video":
        return len(story.parse(text)) == 1
    return drawn.kind_of(language.parse(text)) == "one"


def novelty(trained: Trained, source: Source, pictures: Pixels) -> dict[str, Figure]:
    """`drawn/nearest`; none where real pictures are among those learnt from."""
    data = trained.learnt_from
    train = sources.open_source(data, data.train, trained.take.needs)
    frames = pictures.shape[1] if pictures.ndim > 4 else 1
    known = pictures_of(trained, train, TRAINING // frames)
    real = nearest(pictures_of(trained, source, len(pictures)), known).distance
    if not real.all():
        return {}
    ratios = nearest(pictures, known).distance / np.median(real)
    middle, low, high = np.quantile(ratios, (0.5, 0.025, 0.975)).tolist()
    return {"drawn/nearest": Figure(middle, low, high, len(ratios))}


def pictures_of(trained: Trained, source: Source, limit: int) -> Pixels:
    rows = loader.eval_records(trained.config.data, source, trained.take, limit=limit)
    return np.stack([arrays[trained.config.model.sense] for _, _, arrays in rows])


def shown(
    pictures: np.ndarray, prompts: Sequence[str], grades: Sequence[Any], sense: str
) -> dict[str, Any]:
    """What the report shows: the first pictures, and what is wrong with each."""
    rows = islice(zip(pictures, prompts, grades, strict=True), SHOWN)
    return {
        "drawn": [
            {
                "image": shown_as({sense: marked(picture) if has_room(picture.shape) else picture}),
                "text": f"{prompt}: {'; '.join(grade.faults) or 'right'}",
            }
            for picture, prompt, grade in rows
        ]
    }

"""Codes: how pictures come through them, and how many of the codes there are do any work."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from mlm_jax.config import UserError
from mlm_jax.data import loader
from mlm_jax.data.records import Source
from mlm_jax.drawing import levels
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.metrics import Figure, Ratio, bootstrap
from mlm_jax.showing import shown_as
from mlm_jax.trained import Trained
from mlm_jax.world import clip, grade, scene, watch

BATCH = 64
SHOWN = 16


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """PSNR, use of the codes, and of the world what is still recognised: a share of the objects, of
    clips of the events.

    The perplexity is that of the codes of all pictures: so many, used evenly, would be as hard to
    guess. The details hold pictures before and after.
    """
    model, sense = trained.config.model, trained.config.model.sense
    uses = np.zeros(model.quantiser.size)
    counts: list[dict[str, float]] = []
    shown: list[dict[str, str]] = []
    rows = loader.eval_records(trained.config.data, source, trained.take, limit=limit)
    for part, real in loader.filled(rows, at_once(trained.config, BATCH)):
        given = np.stack([arrays[sense] for _, _, arrays in part])
        pixels, codes = (np.asarray(x)[:real] for x in through(model, trained.params, given))
        uses += np.bincount(codes.reshape(-1), minlength=len(uses))
        for (_, record, _), before, after in zip(part[:real], given[:real], pixels, strict=True):
            counts.append(compared(before, after, record.truth))
            if len(shown) < SHOWN:
                both = np.concatenate([before, after], axis=-3)
                shown.append({"image": shown_as({sense: both}), "where": record.key})
    if not counts:
        raise UserError(f"{trained.config.data.name}: nothing to code")
    ratios = {"codes/psnr": Ratio("psnr", "pictures", "pictures")}
    for things in ("objects", "events"):
        if all(things in each for each in counts):
            ratios["codes/recognised"] = Ratio("recognised", things, things)
    share = uses / uses.sum()
    nats = -(share * np.log(np.maximum(share, 1e-12))).sum()
    used = {"codes/perplexity": float(np.exp(nats)), "codes/used": float((uses > 0).mean())}
    figures = bootstrap(counts, ratios)
    figures |= {name: Figure(v, v, v, int(uses.sum())) for name, v in used.items()}
    return Measured(figures, {"rebuilt": shown})


@partial(jax.jit, static_argnames="model")
def through(model: Any, params: Any, shown: Array) -> tuple[Array, Array]:
    """Pixels as uint8 after their way through the codes, and the codes."""
    bound = {"params": params}
    codes = model.apply(bound, shown, method="encode_codes")
    pixels = model.apply(bound, codes, method="decode_codes")
    return levels(pixels), codes


def compared(
    before: UInt8[np.ndarray, "*T H W 3"], after: UInt8[np.ndarray, "*T H W 3"], truth: str
) -> dict[str, float]:
    """What is counted for a picture, or clip; `truth` is the JSON of what it shows, if any."""
    error = np.square(before.astype(float) - after).mean()
    counts = {"pictures": 1.0, "psnr": float(10 * np.log10(255**2 / max(error, 1e-9)))}
    if truth and after.ndim == 4:
        if watch.watchable(after.shape):  # frames may have been left out of what it shows
            made = clip.from_json(truth)
            events, found = (watch.recognised(frames, made) for frames in (before, after))
            counts |= {"events": float(events), "recognised": float(min(found, events))}
    elif truth and grade.findable(after.shape):
        real = scene.from_json(truth)
        counts |= {"objects": float(len(real.objects))}
        counts |= {"recognised": float(grade.recognised(after, real))}
    return counts

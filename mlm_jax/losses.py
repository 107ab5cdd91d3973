"""Losses: small frozen dataclasses `(outputs, batch) -> (scalar, metrics)`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.layers.words import Unsaid

Outputs = Mapping[str, Any]
Batch = Mapping[str, Any]
Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class Loss(Protocol):
    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]: ...


@dataclass(frozen=True)
class Caption:
    """Next-token cross-entropy in nats, the mean over the real tokens of `target` after the first.

    Captions and answers are one language to it: the tokens of the batch and of its `also` count
    alike. `smoothing` is in [0, 1). Metrics: `accuracy`, the share of tokens that the largest logit
    names, and `weight`, the number of tokens, by which the parts of an accumulated batch count.
    """

    smoothing: float = 0.0

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        sums = self._sums(outputs["logits"], batch)
        if "also" in batch:
            sums = jax.tree.map(jnp.add, sums, self._sums(outputs["also"], batch["also"]))
        nats, right, tokens = sums
        tokens = jnp.maximum(tokens, 1)
        return nats / tokens, {"accuracy": right / tokens, "weight": tokens}

    def _sums(
        self, logits: Float[Array, "R M V"] | Unsaid, rows: Batch
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Nats, tokens that are right, tokens."""
        target = jnp.asarray(rows["target"][:, 1:])
        real = jnp.asarray(rows.get("scored", rows["target_mask"])[:, 1:], jnp.float32)
        by_word = logits.pieces if isinstance(logits, Unsaid) else lambda fn, t: fn(logits, t)
        nats, right = by_word(self._words, target)
        return (nats * real).sum(), (right * real).sum(), real.sum()

    def _words(
        self, logits: Float[Array, "R M V"], target: Int[Array, "R M"]
    ) -> tuple[Float[Array, "R M"], Float[Array, "R M"]]:
        """Nats of each word, and 1 where it is right."""
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        if self.smoothing > 0:
            even = optax.softmax_cross_entropy(logits, jnp.ones_like(logits) / logits.shape[-1])
            nats = (1 - self.smoothing) * nats + self.smoothing * even
        return nats, (logits.argmax(-1) == target).astype(logits.dtype)


@dataclass(frozen=True)
class Contrastive:
    """Each picture finds its texts among those of the batch, and each text its picture, in nats.

    softmax: the mean of both cross-entropies (arXiv:2103.00020, figure 3); with several texts to
    a picture, those that stand in the same place are compared with each other. sigmoid: every pair
    is a question of its own, summed over pairs, by picture (arXiv:2303.15343, algorithm 1).
    Where each text has a wrong one in "wrong", its picture must not find that either
    (arXiv:2210.01936, section 4). Metrics: `accuracy`, the share of texts whose nearest picture is
    their own, and `told_apart`, the share of texts nearer to their picture than the wrong one.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        image, text = outputs["image"], outputs["text"]
        logits = outputs["scale"] * image @ text.T + outputs["bias"]
        pictures, texts = logits.shape
        own = jnp.arange(texts) // (texts // pictures)
        metrics = {"accuracy": (logits.argmax(0) == own).astype(logits.dtype).mean()}
        if "wrong" in outputs:
            wrong = outputs["scale"] * (image[own] * outputs["wrong"]).sum(-1) + outputs["bias"]
            nearer = logits[own, jnp.arange(texts)] > wrong
            metrics["told_apart"] = nearer.astype(logits.dtype).mean()
        if self.kind == "sigmoid":
            sign = jnp.where(own == jnp.arange(pictures)[:, None], 1.0, -1.0)
            nats = -jax.nn.log_sigmoid(sign * logits).sum()
            if "wrong" in outputs:
                nats -= jax.nn.log_sigmoid(-wrong).sum()
            return nats / pictures, metrics
        apart = logits.reshape(pictures, pictures, -1)
        found = apart
        if "wrong" in outputs:
            found = jnp.concatenate([apart, wrong.reshape(pictures, 1, -1)], axis=1)
        label = jnp.arange(pictures)[:, None]
        find = optax.softmax_cross_entropy_with_integer_labels
        loss = find(apart, label, axis=0).mean() + find(found, label, axis=1).mean()
        return loss / 2, metrics


@dataclass(frozen=True)
class Match:
    """Cross-entropy in nats of whether a text tells a picture (arXiv:2201.12086, section 3.2).

    The mean over the pairs of "match", of which the first third is right. Metrics: `accuracy`, the
    mean of those of right and of wrong pairs, at 0.5 where nothing has been learnt.
    """

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        logits = outputs["match"]
        right = jnp.arange(len(logits)) < len(logits) // 3
        real = outputs["match_real"]
        nats = optax.sigmoid_binary_cross_entropy(logits, right.astype(logits.dtype))
        found = ((logits > 0) == right).astype(logits.dtype)

        def mean(values: Float[Array, "R"], over: Bool[Array, "R"]) -> Float[Array, ""]:
            weight = over.astype(values.dtype)
            return (values * weight).sum() / jnp.maximum(weight.sum(), 1)

        accuracy = (mean(found, real & right) + mean(found, real & ~right)) / 2
        return mean(nats, real), {"accuracy": accuracy}


@dataclass(frozen=True)
class CaptionMatch:
    """BLIP's three losses, summed (arXiv:2201.12086, section 3.2): write, find, tell apart.

    Metrics: those of `caption`, and with `contrastive_` and `match_` before their names the losses
    and metrics of the other two.
    """

    caption: Caption = field(default_factory=Caption)
    contrastive: Contrastive = field(default_factory=Contrastive)
    match: Match = field(default_factory=Match)

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        loss, metrics = self.caption(outputs, batch)
        for name, term in (("contrastive", self.contrastive), ("match", self.match)):
            nats, further = term(outputs, batch)
            loss += nats
            metrics |= {f"{name}_loss": nats} | {f"{name}_{k}": v for k, v in further.items()}
        return loss, metrics


@dataclass(frozen=True)
class Hidden:
    """Cross-entropy in nats of the words that were hidden (arXiv:1810.04805, section 3.1).

    Metrics: `accuracy`, the share of them that the largest logit names, and `weight`, their number.
    """

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        logits, target = outputs["logits"], batch["target"]
        hidden = outputs["hidden"].astype(logits.dtype)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        words = jnp.maximum(hidden.sum(), 1)
        right = ((logits.argmax(-1) == target).astype(logits.dtype) * hidden).sum()
        return (nats * hidden).sum() / words, {"accuracy": right / words, "weight": words}


@dataclass(frozen=True)
class Classes:
    """Cross-entropy in nats of the class of a picture, `smoothing` in [0, 1) of it shared out.

    Where a second head learns from a teacher ("taught") it is the mean of both heads' losses: the
    first learns the label, the second the class that the teacher decided for, which is not smoothed
    (DeiT, arXiv:2012.12877, section 4). Metrics: `accuracy`, the share of labels that the largest
    logit names.
    """

    smoothing: float = 0.0

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        logits, label = outputs["logits"], batch["label"]
        loss = self._nats(outputs.get("own", logits), label, self.smoothing)
        if "taught" in outputs:
            loss = (loss + self._nats(outputs["taught"], batch["taught"], 0.0)) / 2
        return loss, {"accuracy": (logits.argmax(-1) == label).astype(logits.dtype).mean()}

    def _nats(
        self, logits: Float[Array, "B C"], label: Int[Array, "B"], smoothing: float
    ) -> Float[Array, ""]:
        right = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(right, smoothing)).mean()


@dataclass(frozen=True)
class Spans:
    """Is an event of a class going on, and from when to when? (ActionFormer, 2202.07925, 3.4)

    The focal loss of every time and class (arXiv:1708.02002, equation 5), and of the times within
    an event 1 less the distance IoU of its span (arXiv:1911.08287, equation 6), both over the
    number of those times. Of two events of a class at once the shorter counts. Metrics: `iou`, the
    mean of those times, and `weight`, their number.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        logits, reach = outputs["present"], outputs["reach"]
        present, span = wanted_spans(batch, logits.shape[1], logits.shape[2])
        target = present.astype(logits.dtype)
        nats = optax.sigmoid_focal_loss(logits, target, alpha=self.alpha, gamma=self.gamma)
        middle = middles(logits.shape[1])[:, None]
        said = jnp.stack([middle - reach[..., 0], middle + reach[..., 1]], axis=-1)
        iou, distance = overlap(said, span)
        times = jnp.maximum(target.sum(), 1)
        loss = nats.sum() / times + ((1 - iou + distance) * target).sum() / times
        return loss, {"iou": (iou * target).sum() / times, "weight": times}


def middles(times: int) -> Float[Array, "T"]:
    """The middle of each of so many times, as a share of the clip."""
    return (jnp.arange(times) + 0.5) / times


def wanted_spans(
    batch: Batch, times: int, labels: int
) -> tuple[Bool[Array, "B T C"], Float[Array, "B T C 2"]]:
    """At each time of each class whether an event is going on, and its span; 0 where none is.

    An event goes on at the times whose middles it holds, and at least at that nearest its own.
    """
    middle, span = middles(times), batch["span"]
    inside = (middle >= span[..., :1]) & (middle < span[..., 1:])  # B E T
    nearest = jnp.clip((span.mean(-1) * times).astype(jnp.int32), 0, times - 1)
    inside |= jax.nn.one_hot(nearest, times, dtype=bool)
    inside &= batch["event_mask"][..., None]
    of_class = jax.nn.one_hot(batch["event"], labels, dtype=bool)  # B E C
    here = inside[..., None] & of_class[:, :, None]  # B E T C
    length = (span[..., 1] - span[..., 0])[..., None, None]
    shortest = jnp.where(here, length, jnp.inf).argmin(1)  # B T C
    chosen = jax.vmap(lambda rows, at: rows[at])(span, shortest)
    present = here.any(1)
    return present, jnp.where(present[..., None], chosen, 0)


def overlap(
    one: Float[Array, "*B 2"], two: Float[Array, "*B 2"]
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """IoU of two spans, and the square of the distance of their middles over that of their hull."""
    both = jnp.minimum(one[..., 1], two[..., 1]) - jnp.maximum(one[..., 0], two[..., 0])
    shared = jnp.maximum(both, 0)
    either = (one[..., 1] - one[..., 0]) + (two[..., 1] - two[..., 0]) - shared
    hull = jnp.maximum(one[..., 1], two[..., 1]) - jnp.minimum(one[..., 0], two[..., 0])
    apart = (one.sum(-1) - two.sum(-1)) / 2
    return shared / jnp.maximum(either, 1e-6), jnp.square(apart / jnp.maximum(hull, 1e-6))


@dataclass(frozen=True)
class Masked:
    """Mean squared error over the hidden patches alone (arXiv:2111.06377, section 3)."""

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        error = jnp.square(outputs["pixels"] - outputs["wanted"]).mean(-1)
        hidden = outputs["hidden"].astype(error.dtype)
        return (error * hidden).sum() / hidden.sum(), {}


@dataclass(frozen=True)
class Rebuilt:
    """Mean squared error of pixels from 0 to 1, and the penalty of a quantiser (1711.00937, eq. 3).

    `colour` is how often errors of colour, of what is left of a pixel without its grey, count
    besides. Metrics: `psnr` in decibel, `perplexity` of the codes of the batch (as many codes used
    evenly would be as hard to guess), and `used`, the share of codes that occur in it.
    """

    colour: float = 0.0

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        off = outputs["pixels"] - outputs["wanted"]
        error = jnp.square(off).mean()
        colour = jnp.square(off - off.mean(-1, keepdims=True)).mean()
        uses = outputs["uses"]
        nats = -(uses * jnp.log(jnp.maximum(uses, 1e-12))).sum()
        return error + self.colour * colour + outputs["penalty"], {
            "psnr": -10 * jnp.log10(error),
            "perplexity": jnp.exp(nats),
            "used": (uses > 0).astype(uses.dtype).mean(),
        }


@dataclass(frozen=True)
class Drawn:
    """Cross-entropy in nats of the words of a caption and of the codes of its picture.

    Means over the words of each caption, then over captions, and over codes by their weight.
    `text` is the share of the words in the loss (arXiv:2102.12092, section 2.2: an eighth). Words
    that were hidden for guidance count like the others, which are then guessed from bos. Metrics:
    `words` and `codes`, the two by themselves, and all codes alike.
    """

    text: float = 0.125

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        find = optax.softmax_cross_entropy_with_integer_labels
        target, real = batch["target"][:, 1:], jnp.asarray(batch["target_mask"][:, 1:], jnp.float32)
        nats = (find(outputs["words"], target) * real).sum(1) / jnp.maximum(real.sum(1), 1)
        words = nats.mean()
        codes = find(outputs["codes"], outputs["wanted"])
        weighed = (codes * outputs["weight"]).sum() / outputs["weight"].sum()
        loss = self.text * words + (1 - self.text) * weighed
        return loss, {"words": words, "codes": codes.mean()}


@dataclass(frozen=True)
class Coded:
    """Cross-entropy in nats of codes. Metrics: `accuracy`, the share the largest logit names."""

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        logits, wanted = outputs["codes"], outputs["wanted"]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()
        return nats, {"accuracy": (logits.argmax(-1) == wanted).astype(logits.dtype).mean()}


@dataclass(frozen=True)
class Denoise:
    """Mean squared error of what a diffusion net predicts, times the weight of each place or row.

    Metrics, unweighted: `low_noise` and `high_noise`, the errors of rows with more signal than
    noise and of those with less.
    """

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        places = jnp.square(outputs["predicted"] - outputs["wanted"])
        error = places.mean(range(1, places.ndim))
        low = outputs["logsnr"] > 0

        def mean(over: Bool[Array, "R"]) -> Float[Array, ""]:
            share = over.astype(error.dtype)
            return (share * error).sum() / jnp.maximum(share.sum(), 1)

        weight = outputs["weight"]
        loss = (weight * places.mean(range(weight.ndim, places.ndim))).mean()
        return loss, {"low_noise": mean(low), "high_noise": mean(~low)}

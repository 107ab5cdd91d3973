"""config.json, field by field: each is used, or refused where it would change the mathematics."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlm_jax.config import UserError
from mlm_jax.layers.transformer import Activation, Block, Transformer
from mlm_jax.pretrained.files import CONFIG, MAX_NAME, listed

# the names of one function are told apart by less than 3e-7
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
PUBLISHED = {"gelu": "gelu", "gelu_tanh": "gelu_new", "quick_gelu": "quick_gelu", "relu": "relu",
             "silu": "silu"}  # fmt: skip


FIXED: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
}
"""Fields of any object of config.json that would change the mathematics, and must be this."""
HARMLESS = re.compile(
    # what the file is
    r"model_type|architectures|_name_or_path|name_or_path|_commit_hash|transformers_version"
    r"|(torch_)?dtype|use_bfloat16|_?attn_implementation.*|tokenizer_class|task_specific_params"
    r"|id2label|label2id|num_labels|problem_type|finetuning_task|language|license|auto_map"
    # training
    r"|\w*dropout\w*|\w*_pdrop|initializer_\w+|logit_scale_init_value|label_smoothing"
    r"|gradient_checkpointing|torchscript|tf_legacy_loss|init_std|\w*layerdrop|drop_path_rate"
    r"|norm_pix_loss|apply_spec_augment|mask_(time|feature)_\w+"
    # what is given back, and in which steps; words of text
    r"|output_\w+|return_dict\w*|use_cache|use_return_dict|chunk_size_feed_forward"
    r"|is_encoder_decoder|is_decoder|add_cross_attention|tie_word_embeddings|\w+_token_ids?|prefix"
    # generation
    r"|(max|min)_length|do_sample|early_stopping|num_beams|num_beam_groups|num_return_sequences"
    r"|diversity_penalty|temperature|top_[kp]|typical_p|repetition_penalty|length_penalty"
    r"|exponential_decay_length_penalty|(encoder_)?no_repeat_ngram_size|bad_words_ids"
    r"|remove_invalid_values|(begin_)?suppress_tokens|forced_decoder_ids|median_filter_width"
    # of heads that are not here, or that the whole overrules
    r"|summary_\w+|pooler_\w+|encoder_stride|n_ctx|projection_dim|encoder_hidden_size"
    r"|image_text_hidden_size|use_weighted_layer_sum|classifier_proj_size"
    r"|decoder_(hidden_size|num_hidden_layers|num_attention_heads|intermediate_size)"
    r"|(text|vision)_config_dict"
)
"""Whole names of fields that need not be read for the outputs to be right; where one of them does
matter, its family reads it all the same."""


def harmless(key: str) -> bool:
    """A longer name than any is not compared: that would take hours."""
    return len(key) <= MAX_NAME and HARMLESS.fullmatch(key) is not None


def shown(value: Any) -> str:
    """As JSON spells it, cut short."""
    try:
        text = json.dumps(value)
    except ValueError:  # a number of too many digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass
class Settings:
    """Reads fields by name; what is wrong with them is gathered, and raised by `settle`.

    A field that is missing has the default of the reference's class, or none: it is then required.
    `tensors` is how many the file has: no depth goes beyond. `seen` are the fields that were read.
    """

    values: Mapping[str, Any]
    where: str
    wrong: list[str] = field(default_factory=list)
    tensors: int = 1 << 20
    seen: set[str] = field(default_factory=set)
    parts: dict[str, "Settings"] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """As it stands there; `default` for null too."""
        self.seen.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def refuse(self, key: str, why: str) -> None:
        self.wrong.append(f"{self.where}{key} is {shown(self.values.get(key))}: {why}")

    def _take(self, key: str, default: Any, kinds: tuple[type, ...], fits: str) -> Any:
        value = self.get(key)
        if value is None:
            if default is None:
                self.wrong.append(f"{self.where}{key} is missing")
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.refuse(key, fits)
            return default
        return value

    def integer(
        self, key: str, default: int | None = None, high: int = 1 << 20, low: int = 1
    ) -> int:
        """From `low` to `high`."""
        value = self._take(key, default, (int,), "must be a whole number")
        if value is None or not low <= value <= high:
            if value is not None:
                self.refuse(key, f"must be from {low} to {high:,}")
            return default or 1
        return int(value)

    def real(self, key: str, default: float, low: float = 0, high: float = 1) -> float:
        """Over `low`, under `high`."""
        value = self._take(key, default, (int, float), "must be a number")
        if not low < value < high:
            self.refuse(key, f"must be over {low:g} and under {high:g}")
            return default
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._take(key, default, (bool,), "must be true or false"))

    def activation(self, key: str, default: str) -> Activation:
        name = self._take(key, default, (str,), "must be a name")
        if name not in ACTIVATIONS:
            self.refuse(key, f"must be one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS.get(name, "gelu")

    def pixels(self, key: str, default: int) -> tuple[int, int]:
        """(height, width) of a number or of two."""
        value = self.get(key)
        if isinstance(value, list) and len(value) == 2:
            both = Settings(dict(enumerate(value)), f"{self.where}{key}.", self.wrong)  # type: ignore[arg-type]
            return both.integer(0, default), both.integer(1, default)  # type: ignore[arg-type]
        side = self.integer(key, default)
        return side, side

    def square(self, key: str, default: int) -> int:
        """The edge of a square, of a number or of two."""
        height, width = self.pixels(key, default)
        if height != width:
            self.refuse(key, "must be a square")
        return height

    def must(self, **fixed: Any) -> None:
        """Fields that would change what the model computes: only this value is implemented."""
        for key, value in fixed.items():
            self.seen.add(key)
            given = self.values.get(key, value)
            if given != value and (value or given is not None):  # null is false there
                self.refuse(key, f"only {shown(value)} is supported")

    def part(self, key: str, instead: str = "") -> "Settings":
        """A nested object, `instead` where that is there; an empty one where there is none."""
        if key in self.parts:
            return self.parts[key]
        self.seen.add(key)
        name = instead if instead and self.values.get(instead) is not None else key
        value = self.get(name, {})
        if not isinstance(value, dict):
            self.refuse(name, "must be an object")
            value = {}
        self.parts[key] = Settings(value, f"{self.where}{name}.", self.wrong, self.tensors)
        return self.parts[key]

    def labels(self) -> int:
        """The number of classes."""
        names = self.get("id2label", {})
        if not isinstance(names, dict):
            self.refuse("id2label", "must be an object")
        if not names or not isinstance(names, dict):
            return self.integer("num_labels", 2)
        if self.integer("num_labels", len(names)) != len(names):
            self.refuse("num_labels", f"id2label has {len(names)} names; must be as many")
        if sorted(names) != sorted(str(n) for n in range(len(names))):
            self.refuse("id2label", f"must name 0 to {len(names) - 1}")
        return len(names)

    def transformer(self, sizes: "Sizes", **block: Any) -> Transformer:
        """Of the fields that all families have, under the names that this one gives them."""
        width = self.integer(sizes.width[0], sizes.width[1])
        heads = self.integer(sizes.heads[0], sizes.heads[1])
        hidden = self.integer(sizes.hidden[0], sizes.hidden[1] or 4 * width)
        depth = self.integer(sizes.depth[0], sizes.depth[1], high=256)
        if depth > self.tensors:
            self.refuse(sizes.depth[0], f"the file has only {self.tensors} tensors in all")
        if width % heads:
            self.wrong.append(
                f"{self.where}{sizes.heads[0]} is {heads}: must divide {sizes.width[0]}, {width}"
            )
        return Transformer(
            width,
            depth,
            Block(
                heads=heads,
                ratio=hidden / width,
                activation=self.activation(*sizes.activation),
                eps=self.real(*sizes.eps) if sizes.eps[0] else sizes.eps[1],
                **block,
            ),
        )

    def settle(self) -> None:
        """Raises: UserError with all that is wrong."""
        for part in (self, *self.parts.values()):
            part.must(**{key: value for key, value in FIXED.items() if key not in part.seen})
        if self.wrong:
            raise UserError(f"{CONFIG} cannot be used:\n{listed(list(dict.fromkeys(self.wrong)))}")

    def unread(self) -> list[str]:
        """Fields that were neither read nor are known to be harmless."""
        own = [key for key in self.values if key not in self.seen and not harmless(key)]
        inner = [name for part in self.parts.values() for name in part.unread()]
        return [f"{self.where}{key}"[:MAX_NAME] for key in own] + inner


@dataclass(frozen=True)
class Sizes:
    """Names and class defaults of the fields of a transformer; a hidden of 0 is 4 widths.

    An eps without a name is always that of the class.
    """

    width: tuple[str, int | None] = ("hidden_size", 768)
    depth: tuple[str, int | None] = ("num_hidden_layers", 12)
    heads: tuple[str, int | None] = ("num_attention_heads", 12)
    hidden: tuple[str, int] = ("intermediate_size", 3072)
    activation: tuple[str, str] = ("hidden_act", "gelu")
    eps: tuple[str, float] = ("layer_norm_eps", 1e-12)

    def describe(self, body: Transformer) -> dict[str, Any]:
        """The fields of config.json that `Settings.transformer` would read `body` from."""
        block = body.block
        fields = {
            self.width[0]: body.width,
            self.depth[0]: body.depth,
            self.heads[0]: block.heads,
            self.hidden[0]: round(body.width * block.ratio),
            self.activation[0]: PUBLISHED.get(block.activation, block.activation),
            self.eps[0]: block.eps,
        }
        return {key: value for key, value in fields.items() if key}

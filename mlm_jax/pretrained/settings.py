"""config.json, field by field: each is used, or refused where it would change the mathematics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlm_jax.config import UserError
from mlm_jax.layers.transformer import Activation, Block, Transformer

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


@dataclass
class Settings:
    """Reads fields by name; what is wrong with them is gathered, and raised by `settle`.

    A field that is missing has the default of the reference's class, or none: it is then required.
    """

    values: Mapping[str, Any]
    where: str
    wrong: list[str] = field(default_factory=list)

    def _take(self, key: str, default: Any, kinds: tuple[type, ...], fits: str) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is None:
                self.wrong.append(f"{self.where}{key} is missing")
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.wrong.append(f"{self.where}{key} is {value!r}: {fits}")
            return default
        return value

    def integer(self, key: str, default: int | None = None, high: int = 1 << 20) -> int:
        """From 1 to `high`."""
        value = self._take(key, default, (int,), "must be a whole number")
        if value is None or not 1 <= value <= high:
            if value is not None:
                self.wrong.append(f"{self.where}{key} is {value}: from 1 to {high:,}")
            return default or 1
        return int(value)

    def real(self, key: str, default: float) -> float:
        """Over 0, under 1."""
        value = self._take(key, default, (int, float), "must be a number")
        if not 0 < value < 1:
            self.wrong.append(f"{self.where}{key} is {value}: over 0 and under 1")
            return default
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._take(key, default, (bool,), "must be true or false"))

    def activation(self, key: str, default: str) -> Activation:
        name = self._take(key, default, (str,), "must be a name")
        if name not in ACTIVATIONS:
            self.wrong.append(f"{self.where}{key} is {name!r}: one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS.get(name, "gelu")

    def pixels(self, key: str, default: int) -> tuple[int, int]:
        """(height, width) of a number or of two."""
        value = self.values.get(key)
        if isinstance(value, list | tuple) and len(value) == 2:
            both = Settings(dict(enumerate(value)), f"{self.where}{key}.", self.wrong)  # type: ignore[arg-type]
            return both.integer(0, default), both.integer(1, default)  # type: ignore[arg-type]
        side = self.integer(key, default)
        return side, side

    def must(self, **fixed: Any) -> None:
        """Fields that would change what the model computes: only this value is implemented."""
        for key, value in fixed.items():
            if self.values.get(key, value) != value:
                self.wrong.append(
                    f"{self.where}{key} is {self.values[key]!r}: only {value!r} is supported"
                )

    def part(self, key: str) -> "Settings":
        """A nested object; an empty one where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.wrong.append(f"{self.where}{key} is {value!r}: must be an object")
        return Settings(value if isinstance(value, dict) else {}, f"{self.where}{key}.", self.wrong)

    def labels(self) -> int:
        """The number of classes."""
        names = self.values.get("id2label")
        if isinstance(names, dict) and names:
            return len(names)
        return self.integer("num_labels", 2)

    def transformer(self, sizes: "Sizes", **block: Any) -> Transformer:
        """Of the fields that all families have, under the names that this one gives them."""
        width = self.integer(sizes.width[0], sizes.width[1])
        heads = self.integer(sizes.heads[0], sizes.heads[1])
        hidden = self.integer(sizes.hidden[0], sizes.hidden[1] or 4 * width)
        depth = self.integer(sizes.depth[0], sizes.depth[1], high=1024)
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
                eps=self.real(*sizes.eps),
                **block,
            ),
        )

    def settle(self) -> None:
        """Raises: UserError with all that is wrong."""
        if self.wrong:
            raise UserError(
                "config.json cannot be used:\n" + "\n".join(f"  {w}" for w in self.wrong)
            )


@dataclass(frozen=True)
class Sizes:
    """Names and class defaults of the fields of a transformer; a hidden of 0 is 4 widths."""

    width: tuple[str, int | None] = ("hidden_size", 768)
    depth: tuple[str, int | None] = ("num_hidden_layers", 12)
    heads: tuple[str, int | None] = ("num_attention_heads", 12)
    hidden: tuple[str, int] = ("intermediate_size", 3072)
    activation: tuple[str, str] = ("hidden_act", "gelu")
    eps: tuple[str, float] = ("layer_norm_eps", 1e-12)

    def describe(self, body: Transformer) -> dict[str, Any]:
        """The fields of config.json that `Settings.transformer` would read `body` from."""
        block = body.block
        return {
            self.width[0]: body.width,
            self.depth[0]: body.depth,
            self.heads[0]: block.heads,
            self.hidden[0]: round(body.width * block.ratio),
            self.activation[0]: PUBLISHED[block.activation],
            self.eps[0]: block.eps,
        }


def unsupported(body: Transformer, **wanted: Any) -> list[str]:
    """Fields of our blocks that the published family does not have, set to something else."""
    plain: dict[str, Any] = {"groups": 1, "rotary": 0.0, "qk_norm": False, "norm": "layer",
                             "bias": True, "qkv_bias": True, "order": "pre"}  # fmt: skip
    wanted = {**plain, **wanted}
    wrong = [
        f"block.{name} is {getattr(body.block, name)!r}, the family has {value!r}"
        for name, value in wanted.items()
        if getattr(body.block, name) != value
    ]
    if body.block.activation not in PUBLISHED:
        wrong.append(f"block.activation is {body.block.activation!r}")
    return wrong

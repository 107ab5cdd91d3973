"""The one block and the one transformer; every model of the project is made of them."""

from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.layers.attention import Attention
from mlm_jax.layers.norms import LayerNorm, RMSNorm
from mlm_jax.layers.tokens import Causal, Tokens, for_rows
from mlm_jax.sharding import spread

# name -> width, depth, heads: ViT (arXiv:2010.11929, table 1) and DeiT; tiny is ours, for two cores
SIZES = {
    "tiny": (128, 4, 4),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """x times the share of a normal distribution under it (arXiv:1606.08415).

    By erf, not by erfc as jax has it, whose two ranges cost a CPU 0.05 of a transformer's step;
    and so in float32, as the share of what is far below would be lost in bfloat16.
    """
    wide = x.astype(jnp.float32)
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "swiglu"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swiglu": jax.nn.silu,
}


class Norm(nn.Module):
    """LayerNorm, or RMSNorm; statistics in float32 whatever the dtype of `x`."""

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-6
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        if self.kind == "rms":
            return RMSNorm(self.eps, name="norm")(x)
        return LayerNorm(self.eps, self.bias, name="norm")(x)


class MLP(nn.Module):
    """Two layers of `ratio` times the width; "swiglu" multiplies in a gate (arXiv:2002.05202)."""

    ratio: float = 4.0
    activation: Activation = "gelu"
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        width = x.shape[-1]
        hidden = round(width * self.ratio)
        y = nn.Dense(hidden, use_bias=self.bias, name="up")(x)
        act = ACTIVATIONS[self.activation]
        if self.activation == "swiglu":
            y = act(nn.Dense(hidden, use_bias=self.bias, name="gate")(x)) * y
        else:
            y = act(y)
        return nn.Dense(width, use_bias=self.bias, name="down")(y)


class Modulation(nn.Module):
    """Vectors as wide as `x` that a condition asks for, all 0 at the start.

    A scale and a shift after a norm (FiLM, arXiv:1709.07871), and a gate (adaLN-zero,
    arXiv:2212.09748, section 3.2). A condition may have fewer rows than `x`, one for several.
    """

    count: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *N D"], condition: Float[Array, "R E"]
    ) -> list[Float[Array, "B *one D"]]:
        zero = nn.initializers.zeros_init()
        dense = nn.Dense(self.count * x.shape[-1], kernel_init=zero, name="dense")
        wanted = for_rows(len(x), dense(nn.silu(condition)))
        return jnp.split(wanted.reshape(len(x), *[1] * (x.ndim - 2), -1), self.count, axis=-1)


class Block(nn.Module):
    """Self-attention, then what is to be read from outside, then the MLP, each with its residual.

    `memory` is read by plain cross-attention; `gated` by cross-attention and an MLP of its own
    that come in through tanh gates, shut at the start (Flamingo, arXiv:2204.14198, section 2.2).
    Which of them a block has is decided by what it is given; each may be in parts (see
    `Attention`). `order` is where the norm stands: "pre" (GPT-2, ViT) or "post" (BERT).

    A `condition` scales and shifts what each residual reads and gates what it adds; all gates are
    shut at the start (see `Modulation`).
    """

    heads: int = 4
    groups: int = 1
    rotary: float = 0.0
    qk_norm: bool = False
    ratio: float = 4.0
    activation: Activation = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    eps: float = 1e-6
    order: Literal["pre", "post"] = "pre"
    bias: bool = True
    qkv_bias: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens: Tokens,
        causal: Causal | None = None,
        memory: Sequence[Tokens] = (),
        gated: Sequence[Tokens] = (),
        places: Float[Array, "N axes"] | None = None,
        train: bool = False,
        condition: Float[Array, "R E"] | None = None,
    ) -> Tokens:
        if condition is not None and self.order == "post":
            raise ValueError("a condition acts on norms before: order pre, not post")
        x = spread(tokens.x)

        def residual(name: str, x: Array, read: Callable[[Array], Array], gate: bool) -> Array:
            norm = Norm(self.norm, self.eps, self.bias, name=f"{name}_norm")
            y = norm(x) if self.order == "pre" else x
            if condition is None:
                y = read(y)
            else:
                shift, scale, opened = Modulation(3, name=f"{name}_modulation")(x, condition)
                y = opened * read(y * (1 + scale) + shift)
            if gate:
                shut = self.param(f"{name}_gate", nn.initializers.zeros_init(), ())
                y = y * nn.tanh(shut).astype(y.dtype)
            y = nn.Dropout(self.dropout, deterministic=not train, name=f"{name}_dropout")(y)
            x = once(x + y)
            return x if self.order == "pre" else norm(x)

        def attend(name: str, x: Array, sources: Sequence[Tokens], gate: bool = False) -> Array:
            rotary = 0.0 if sources else self.rotary
            attention = Attention(
                self.heads,
                self.groups,
                self.bias,
                self.qkv_bias,
                rotary,
                self.qk_norm,
                name=name,
            )

            def read(y: Array) -> Array:
                if sources:
                    return attention(y, sources, cross=True)
                return attention(y, [Tokens(y, tokens.mask)], causal, places=places)

            return residual(name, x, read, gate)

        def feed(name: str, x: Array, gate: bool = False) -> Array:
            mlp = MLP(self.ratio, self.activation, self.bias, name=name)
            return residual(name, x, mlp, gate)

        if gated:
            x = attend("gated", x, gated, gate=True)
            x = feed("gated_mlp", x, gate=True)
        x = attend("attention", x, ())
        if memory:
            x = attend("cross", x, memory)
        return Tokens(spread(feed("mlp", x)), tokens.mask)


def once(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """`x`, computed once for all that read it, and so is its gradient.

    On a CPU XLA computes anew, for each that reads it, what is made and read by elementwise
    operations alone. Of a residual stream, or its gradient, that is the sum over all blocks, in
    each block again: of a DiT of 4 the way forth and back took 359 ms on one core, and 185 with the
    loop, which is never fused (`optimization_barrier` is gone before XLA fuses).
    """
    if jax.default_backend() != "cpu":
        return x
    return jax.lax.fori_loop(0, 2, lambda _, x: -x, x)


def settings(module: nn.Module) -> dict[str, Any]:
    """The fields a module was declared with, to build another like it."""
    names = [f.name for f in fields(module) if f.init and f.name not in ("parent", "name")]
    return {name: getattr(module, name) for name in names}


class Transformer(nn.Module):
    """`depth` blocks like `block`, and a `last_norm` where the order is "pre".

    `layers` "unrolled" is faster at the depths used here, "scanned" compiles once per block.
    `remat` recomputes on the way back: nothing, all but the matrix products, or everything.
    """

    width: int = 128
    depth: int = 4
    block: Block = field(default_factory=Block)
    layers: Literal["unrolled", "scanned"] = "unrolled"
    remat: Literal["none", "dots", "full"] = "none"
    last_norm: bool = True

    @nn.compact
    def __call__(
        self,
        tokens: Tokens,
        causal: Causal | None = None,
        *,
        memory: Sequence[Tokens] = (),
        gated: Sequence[Tokens] = (),
        places: Float[Array, "N axes"] | None = None,
        condition: Float[Array, "R E"] | None = None,
        train: bool = False,
    ) -> Tokens:
        """A `condition` goes to every block, and scales and shifts behind the `last_norm`."""
        if tokens.x.shape[-1] != self.width:
            raise ValueError(f"tokens are {tokens.x.shape[-1]} wide, this transformer {self.width}")
        make = self._block_class()
        if self.layers == "unrolled":
            for i in range(self.depth):
                block = make(**settings(self.block), name=f"block_{i}")
                tokens = block(tokens, causal, memory, gated, places, train, condition)
        else:
            scan = nn.scan(
                lambda block, carry, _: (
                    block(carry, causal, memory, gated, places, train, condition),
                    None,
                ),
                variable_axes={"params": 0, "cache": 0, "attention": 0, "nudge": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.depth,
            )
            tokens, _ = scan(make(**settings(self.block), name="blocks"), tokens, None)
        if self.block.order == "post" or not self.last_norm:
            return tokens
        x = Norm(self.block.norm, self.block.eps, self.block.bias, name="norm")(tokens.x)
        if condition is not None:
            shift, scale = Modulation(2, name="modulation")(x, condition)
            x = x * (1 + scale) + shift
        return Tokens(x, tokens.mask)

    def _block_class(self) -> Any:
        if self.remat == "none":
            return Block
        policies = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
        return nn.remat(
            Block,
            policy=policies[self.remat],
            prevent_cse=self.layers == "unrolled",
            static_argnums=(6,),
        )


def transformer(size: str, **block: Any) -> Transformer:
    """A row of SIZES as a Transformer; `block` are fields of Block other than its defaults."""
    if size not in SIZES:
        raise ValueError(f"no size {size!r}: one of {', '.join(SIZES)}")
    width, depth, heads = SIZES[size]
    return Transformer(width, depth, Block(heads=heads, **block))

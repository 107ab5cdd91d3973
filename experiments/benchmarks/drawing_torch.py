"""The nets of diffusion in torch, as one writes them there; modules have the names of flax's."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.traverse_util
import numpy as np

from experiments.benchmarks import reference
from experiments.benchmarks.reference import torch
from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Side
from mlm_jax.decoders import denoiser
from mlm_jax.layers import Block, Transformer
from mlm_jax.layers.embed import sine_cosine

nn: Any = torch.nn
F: Any = torch.nn.functional
Tensor = Any


def named(params: Any) -> dict[str, np.ndarray]:
    """Flax parameters, or their gradients, as a state dict of torch's has them."""
    flat = flax.traverse_util.flatten_dict(params, sep=".")
    return dict(one(name, np.asarray(value, np.float32)) for name, value in flat.items())


def one(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    layer, _, kind = name.replace("norm.norm.", "norm.").rpartition(".")
    if kind == "scale":
        return f"{layer}.weight", value
    if kind == "bias":
        return f"{layer}.bias", value.reshape(-1)
    if value.ndim == 4:
        return f"{layer}.weight", value.transpose(3, 2, 0, 1)
    out = value.shape[-1] if layer.endswith(".out") else math.prod(value.shape[1:])
    return f"{layer}.weight", value.reshape(-1, out).T


def like(net: Any, params: Any, pixels: int, source: int) -> Any:
    """The same net with the same parameters; `source` is how wide words are."""
    unet = isinstance(net, denoiser.UNet)
    made = UNet(net, source) if unet else DiT(net, pixels, source)
    given = named(params)
    made.load_state_dict({name: torch.tensor(value.copy()) for name, value in given.items()})
    return made


def draw(net: Any, x: dict[str, Any]) -> dict[str, Any]:
    return {"out": net(x["x"], x["t"], x["text"]).permute(0, 2, 3, 1)}


def learning(net: Any, x: dict[str, Any], setting: Setting) -> list[Side]:
    """Forward and backward of the mean squared error, eager and compiled."""

    def loss(x: dict[str, Any]) -> Any:
        return F.mse_loss(net(x["x"], x["t"], x["text"]), x["wanted"])

    def back(loss: Any) -> dict[str, Any]:
        net.zero_grad(set_to_none=True)
        value = loss(x)
        value.backward()
        return {"loss": value.detach(), "by": {k: p.grad for k, p in net.named_parameters()}}

    ways = {"eager": loss, "compiled": torch.compile(loss, dynamic=False)}
    return [reference.side(name, partial(back, way), setting) for name, way in ways.items()]


def modules(given: Mapping[str, Any]) -> Any:
    return nn.ModuleDict(given)


# --- transformers ---


class Modulation(nn.Module):
    def __init__(self, count: int, width: int, condition: int) -> None:
        super().__init__()
        self.count, self.dense = count, nn.Linear(condition, count * width)

    def forward(self, condition: Tensor) -> Tensor:
        return self.dense(F.silu(condition)).chunk(self.count, dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, source: int, like: Block) -> None:
        super().__init__()
        self.heads, self.like = like.heads, like
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(source, width), nn.Linear(source, width)
        if like.qk_norm:
            self.query_norm, self.key_norm = (nn.RMSNorm(width // like.heads, 1e-6) for _ in "qk")

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        query, key, value = (
            layer(y).unflatten(-1, (self.heads, -1))
            for layer, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        if self.like.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        read = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (query, key, value)))
        return self.out(read.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """`condition`: its width, 0 where there is none."""

    def __init__(self, width: int, source: int, like: Block, condition: int = 0) -> None:
        super().__init__()
        hidden = round(width * like.ratio)
        self.attention = Attention(width, width, like)
        self.cross = Attention(width, source, like)
        self.mlp = modules({"up": nn.Linear(width, hidden), "down": nn.Linear(hidden, width)})
        for name in ("attention", "cross", "mlp"):
            self.add_module(f"{name}_norm", nn.LayerNorm(width, like.eps))
            if condition:
                self.add_module(f"{name}_modulation", Modulation(3, width, condition))

    def forward(self, x: Tensor, text: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.residual("attention", x, condition, lambda y: self.attention(y, y))
        x = self.residual("cross", x, condition, lambda y: self.cross(y, text))
        return self.residual("mlp", x, condition, self.feed)

    def feed(self, x: Tensor) -> Tensor:
        return self.mlp["down"](F.gelu(self.mlp["up"](x)))

    def residual(self, name: str, x: Tensor, condition: Tensor | None, read: Any) -> Tensor:
        y = getattr(self, f"{name}_norm")(x)
        if condition is None:
            return x + read(y)
        wanted = getattr(self, f"{name}_modulation")(condition)
        shift, scale, gate = (part[:, None] for part in wanted)
        return x + gate * read(y * (1 + scale) + shift)


class Body(nn.Module):
    def __init__(self, like: Transformer, source: int, condition: int) -> None:
        super().__init__()
        self.depth = like.depth
        for i in range(like.depth):
            self.add_module(f"block_{i}", Layer(like.width, source, like.block, condition))
        self.norm = nn.LayerNorm(like.width, like.block.eps)
        self.modulation = Modulation(2, like.width, condition)

    def forward(self, x: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x, text, condition)
        shift, scale = self.modulation(condition)
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None]


class Condition(nn.Module):
    def __init__(self, width: int, source: int) -> None:
        super().__init__()
        self.width, self.text = width, nn.Linear(source, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        rate = 1_000 * 10_000.0 ** -(torch.arange(width // 2) / (width // 2))
        self.register_buffer("rate", rate, persistent=False)

    def forward(self, t: Tensor, text: Tensor) -> Tensor:
        angle = t[:, None] * self.rate
        y = torch.cat([angle.sin(), angle.cos()], dim=-1)
        return self.down(F.silu(self.up(y))) + self.text(text.mean(1))


class DiT(nn.Module):
    def __init__(self, like: denoiser.DiffusionTransformer, pixels: int, source: int) -> None:
        super().__init__()
        width, patch = like.body.width, like.patch
        self.patch, self.side = patch, pixels // patch
        self.condition = Condition(width, source)
        self.stem = modules({"patches": nn.Conv2d(3, width, patch, patch)})
        self.body = Body(like.body, source, width)
        self.pixels = nn.Linear(width, patch**2 * like.out)
        places = np.array(sine_cosine(self.side, self.side, width))
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        asked = self.condition(t, text)
        x = self.stem["patches"](x).flatten(2).transpose(1, 2) + self.places
        x = self.pixels(self.body(x, text, asked))
        x = x.unflatten(1, (self.side, self.side)).unflatten(-1, (self.patch, self.patch, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


# --- convolutions ---


class Residual(nn.Module):
    def __init__(self, given: int, width: int, groups: int, condition: int) -> None:
        super().__init__()
        self.norm_0 = nn.GroupNorm(groups, given, 1e-6)
        self.norm_1 = nn.GroupNorm(groups, width, 1e-6)
        self.conv_0 = nn.Conv2d(given, width, 3, padding=1)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = Modulation(2, width, condition)
        self.across = nn.Conv2d(given, width, 1) if given != width else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = (part[:, :, None, None] for part in self.modulation(condition))
        y = self.conv_0(F.silu(self.norm_0(x)))
        y = self.conv_1(F.silu(self.norm_1(y) * (1 + scale) + shift))
        return self.across(x) + y


class UNet(nn.Module):
    def __init__(self, like: denoiser.UNet, source: int) -> None:
        super().__init__()
        self.like, self.source, widths = like, source, like.widths
        self.asks = 4 * widths[0]
        self.condition = Condition(self.asks, source)
        self.conv_first = nn.Conv2d(3, widths[0], 3, padding=1)
        last = len(widths) - 1
        now, kept = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            for i in range(like.blocks):
                now = self.add(f"down_{level}_{i}", now, width, level in like.attends)
                kept.append(now)
            if level != last:
                self.add_module(f"halve_{level}", nn.Conv2d(now, now, 3, 2))
                kept.append(now)
        self.add("middle_0", now, now, True)
        self.add("middle_1", now, now, False)
        for level in range(last, -1, -1):
            for i in range(like.blocks + 1):
                given = now + kept.pop()
                now = self.add(f"up_{level}_{i}", given, widths[level], level in like.attends)
            if level:
                self.add_module(f"double_{level}", nn.Conv2d(now, now, 3, padding=1))
        self.norm = nn.GroupNorm(like.groups, now, 1e-6)
        self.last = nn.Conv2d(now, like.out, 3, padding=1)

    def add(self, name: str, given: int, width: int, attends: bool) -> int:
        self.add_module(name, Residual(given, width, self.like.groups, self.asks))
        if attends:
            self.add_module(f"{name}_attends", Layer(width, self.source, self.like.block))
        return width

    def stage(self, name: str, x: Tensor, asked: Tensor, text: Tensor) -> Tensor:
        x = getattr(self, name)(x, asked)
        if not hasattr(self, f"{name}_attends"):
            return x
        places = x.flatten(2).transpose(1, 2)
        places = getattr(self, f"{name}_attends")(places, text)
        return places.transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        asked, last = self.condition(t, text), len(self.like.widths) - 1
        x = self.conv_first(x)
        kept = [x]
        for level in range(last + 1):
            for i in range(self.like.blocks):
                x = self.stage(f"down_{level}_{i}", x, asked, text)
                kept.append(x)
            if level != last:
                x = getattr(self, f"halve_{level}")(F.pad(x, (0, 1, 0, 1)))
                kept.append(x)
        x = self.stage("middle_0", x, asked, text)
        x = self.stage("middle_1", x, asked, text)
        for level in range(last, -1, -1):
            for i in range(self.like.blocks + 1):
                x = torch.cat([x, kept.pop()], dim=1)
                x = self.stage(f"up_{level}_{i}", x, asked, text)
            if level:
                x = getattr(self, f"double_{level}")(F.interpolate(x, scale_factor=2))
        return self.last(F.silu(self.norm(x)))

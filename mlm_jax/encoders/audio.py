"""Audio encoder: a waveform to its log-mel spectrogram, and a transformer over that.

patch   squares of the spectrogram, which may overlap       (AST, arXiv:2104.01778)
conv    two convolutions along time                         (Whisper, arXiv:2212.04356)
conv2d  convolutions over time and bands, as of a picture   (arXiv:2106.14881)
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int16

from mlm_jax.layers import ConvStem, Positions, Tokens, Transformer, concatenate
from mlm_jax.layers.tokens import every
from mlm_jax.layers.transformer import ACTIVATIONS, Activation

Recipe = Literal["plain", "whisper", "kaldi"]


@dataclass(frozen=True)
class LogMel:
    """A waveform, -1 to 1, to the logarithm of its power in bands of the mel scale.

    "plain": librosa's `feature.melspectrogram`, and the natural logarithm of at least 1e-6.
    "whisper": the same without the last frame, log10, at most 8 below the loudest, to about -1
    to 1. "kaldi": Kaldi's filter bank as torchaudio computes it for AST (Hanning window, no
    dither): each frame less its mean, pre-emphasised, the natural logarithm.

    `window` and `hop` in samples, `low` and `high` in Hz; `high` 0 is half the rate.
    """

    recipe: Recipe = "plain"
    rate: int = 16_000
    window: int = 400
    hop: int = 160
    fft: int = 400
    mels: int = 80
    low: float = 0.0
    high: float = 0.0

    def frames(self, samples: int) -> int:
        """How many frames so many samples become."""
        if self.recipe == "kaldi":
            return max(0, 1 + (samples - self.window) // self.hop)
        return samples // self.hop + (self.recipe == "plain")

    def __call__(self, wave: Float[Array, "B S"]) -> Float[Array, "B F M"]:
        """Raises: ValueError."""
        beside = self.fft - self.window
        if beside < 0 or (beside % 2 and self.recipe != "kaldi"):
            raise ValueError(
                f"mel.window {self.window} and mel.fft {self.fft}: the window lies in the middle of"
                " the fft, and leaves an even number of samples"
            )
        if self.recipe == "kaldi":
            return self._kaldi(wave)
        half = self.fft // 2
        edge: Literal["reflect", "constant"] = "reflect" if self.recipe == "whisper" else "constant"
        padded = jnp.pad(wave, ((0, 0), (half, half)), mode=edge)
        at = np.arange(0, padded.shape[1] - self.fft + 1, self.hop)[:, None] + np.arange(self.fft)
        window = np.pad(np.hanning(self.window + 1)[:-1], (self.fft - self.window) // 2)
        mel = self._bands(padded[:, at] * window.astype(np.float32))
        if self.recipe == "plain":
            return jnp.log(jnp.maximum(mel, 1e-6))
        level = jnp.log10(jnp.maximum(mel[:, :-1], 1e-10))
        level = jnp.maximum(level, level.max((1, 2), keepdims=True) - 8)
        return (level + 4) / 4

    def _kaldi(self, wave: Float[Array, "B S"]) -> Float[Array, "B F M"]:
        at = np.arange(0, wave.shape[1] - self.window + 1, self.hop)[:, None]
        parts = wave[:, at + np.arange(self.window)]
        parts = parts - parts.mean(-1, keepdims=True)
        before = jnp.concatenate([parts[..., :1], parts[..., :-1]], axis=-1)
        parts = (parts - 0.97 * before) * np.hanning(self.window).astype(np.float32)
        padded = jnp.pad(parts, ((0, 0), (0, 0), (0, self.fft - self.window)))
        floor = float(jnp.finfo(jnp.float32).eps)
        return jnp.log(jnp.maximum(self._bands(padded), floor))

    def _bands(self, parts: Float[Array, "B F W"]) -> Float[Array, "B F M"]:
        power = jnp.square(jnp.abs(jnp.fft.rfft(parts)))
        filters = mel_filters(
            self.fft, self.mels, self.rate, self.low, self.high or self.rate / 2,
            "kaldi" if self.recipe == "kaldi" else "slaney",
        )  # fmt: skip
        return jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)


@lru_cache
def mel_filters(
    fft: int, mels: int, rate: int, low: float, high: float, scale: Literal["slaney", "kaldi"]
) -> Float[np.ndarray, "K M"]:
    """Triangles between neighbouring bands: "slaney" of equal area over Hz, "kaldi" over mels."""
    hertz = np.arange(fft // 2 + 1) * rate / fft
    to_mel, from_mel = (_slaney, _from_slaney) if scale == "slaney" else (_kaldi, _from_kaldi)
    begin, end = to_mel(np.array([low, high]))
    points = np.linspace(begin, end, mels + 2)
    line = hertz if scale == "slaney" else to_mel(hertz)
    corners = from_mel(points) if scale == "slaney" else points
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    up = (line[:, None] - left) / (centre - left)
    down = (right - line[:, None]) / (right - centre)
    filters = np.maximum(np.minimum(up, down), 0)
    if scale == "slaney":
        filters = filters * 2 / (right - left)
    return filters.astype(np.float32)


def _slaney(hertz: np.ndarray) -> np.ndarray:
    """Linear to 1,000 Hz, then logarithmic (Slaney's Auditory Toolbox)."""
    log = 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, log)


def _from_slaney(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _kaldi(hertz: np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(hertz / 700)


def _from_kaldi(mel: np.ndarray) -> np.ndarray:
    return 700 * np.expm1(mel / 1127)


def centred(mel: Float[Array, "B F M"]) -> Float[Array, "B F M"]:
    """Each band less its mean over time, to which loud frames add the most.

    Cepstral mean normalisation (Atal, 1974, doi:10.1121/1.1914702), of bands: a microphone, a room
    and a voice make some of them louder or softer from beginning to end, words do not.
    """
    loud = nn.softmax(mel.mean(2, keepdims=True), axis=1)
    return mel - (mel * loud).sum(1, keepdims=True)


class AudioEncoder(nn.Module):
    """A waveform of `samples` samples, one channel, to Tokens.

    "patch": squares of `patch` bands and frames, a new one every `stride` bands and frames, time
    fastest, behind the class and the distillation token where there are any. "conv": a token for
    two frames. "conv2d": a token for `patch` frames, a power of two, of all bands.
    With a `loudness` each sound is first brought to that root mean square, of full scale 1.
    `fill` frames of spectrogram, where it is not 0: cut, or filled up with zeros (AST). Each band
    is brought to one level where the sound is to be `centred`. The spectrogram less `mean`, over
    `std`.
    """

    samples: int = 16_000
    mel: LogMel = field(default_factory=LogMel)
    fill: int = 0
    loudness: float = 0.0
    centred: bool = False
    mean: float = 0.0
    std: float = 1.0
    stem: Literal["patch", "conv", "conv2d"] = "conv"
    patch: int = 16
    stride: tuple[int, int] = (16, 16)
    class_token: bool = False
    distillation_token: bool = False
    activation: Activation = "gelu"
    body: Transformer = field(default_factory=Transformer)

    @property
    def frames(self) -> int:
        return self.fill or self.mel.frames(self.samples)

    @property
    def grid(self) -> tuple[int, int]:
        """Bands and frames of "patch"."""
        (down, across), patch = self.stride, self.patch
        return (self.mel.mels - patch) // down + 1, (self.frames - patch) // across + 1

    @property
    def step(self) -> int:
        """Frames from one token to the next."""
        return {"patch": self.stride[1], "conv": 2, "conv2d": self.patch}[self.stem]

    @property
    def takes(self) -> jax.ShapeDtypeStruct:
        """One sound."""
        return jax.ShapeDtypeStruct((self.samples,), jnp.int16)

    @property
    def extra(self) -> tuple[str, ...]:
        """Learned tokens before the others."""
        there = {"class_token": self.class_token, "distillation_token": self.distillation_token}
        return tuple(name for name, has in there.items() if has)

    @nn.compact
    def __call__(
        self,
        audio: Int16[Array, "B S"] | Float[Array, "B S"] | Float[Array, "B F M"],
        length: Int[Array, "B"] | None = None,
        *,
        train: bool = False,
    ) -> Tokens:
        """`length`: how many samples of each are sound, the rest silence that was added.

        A spectrogram, as `LogMel` gives it, is taken as it is and not computed.
        """
        if self.extra and self.stem != "patch":
            raise ValueError(f"{' and '.join(self.extra)}: of stem patch, not {self.stem}")
        mel = audio if audio.ndim == 3 else self._spectrogram(audio, length)
        if mel.shape[1:] != (self.frames, self.mel.mels):
            wanted = (self.frames, self.mel.mels)
            raise ValueError(f"{mel.shape[1:]} frames and bands, the model takes {wanted}")
        mel = centred(mel) if self.centred else mel
        mel = (mel - self.mean) / self.std
        if not self.is_initializing():
            mel = mel.astype(jax.tree.leaves(self.variables["params"])[0].dtype)
        make = {"patch": self._patches, "conv": self._along_time, "conv2d": self._over_both}
        return self.body(make[self.stem](mel), train=train)

    def _spectrogram(
        self, audio: Int16[Array, "B S"] | Float[Array, "B S"], length: Int[Array, "B"] | None
    ) -> Float[Array, "B F M"]:
        if audio.shape[1] != self.samples:
            raise ValueError(f"{audio.shape[1]} samples, the model takes {self.samples}")
        wave = audio.astype(jnp.float32)
        if audio.dtype == jnp.int16:
            wave = wave / 32768
        if self.loudness:
            count = self.samples if length is None else jnp.maximum(length, 1)[:, None]
            level = jnp.sqrt(jnp.square(wave).sum(1, keepdims=True) / count)
            wave = wave * (self.loudness / jnp.maximum(level, 1e-5))
        mel = self.mel(wave)
        if not self.fill:
            return mel
        mel = jnp.pad(mel, ((0, 0), (0, max(0, self.fill - mel.shape[1])), (0, 0)))[:, : self.fill]
        if length is None:
            return mel
        sounding = 1 + (length - self.mel.window) // self.mel.hop
        return jnp.where(jnp.arange(self.fill)[None, :, None] < sounding[:, None, None], mel, 0)

    def _patches(self, mel: Float[Array, "B F M"]) -> Tokens:
        picture = mel.swapaxes(1, 2)[..., None]
        window = (self.patch, self.patch)
        conv = nn.Conv(self.body.width, window, self.stride, padding="VALID", name="stem")
        x = conv(picture).reshape(len(mel), -1, self.body.width)
        tokens = every(x)
        for name in reversed(self.extra):
            first = self.param(name, nn.initializers.zeros_init(), (1, 1, x.shape[-1]))
            tokens = concatenate(every(jnp.broadcast_to(first, (len(x), 1, x.shape[-1]))), tokens)
        return every(Positions(tokens.x.shape[1], name="positions")(tokens.x))

    def _along_time(self, mel: Float[Array, "B F M"]) -> Tokens:
        act, x = ACTIVATIONS[self.activation], mel
        for i, stride in enumerate((1, 2)):
            conv = nn.Conv(self.body.width, (3,), stride, padding=1, name=f"stem_{i}")
            x = act(conv(x))
        return self._placed(x)

    def _over_both(self, mel: Float[Array, "B F M"]) -> Tokens:
        x = ConvStem(self.body.width, self.patch, name="stem")(mel[..., None])
        return self._placed(nn.Dense(self.body.width, name="bands")(x.reshape(*x.shape[:2], -1)))

    def _placed(self, x: Float[Array, "B t D"]) -> Tokens:
        return every(Positions(x.shape[1], (1, x.shape[1]), name="positions")(x))

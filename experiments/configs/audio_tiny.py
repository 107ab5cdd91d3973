"""A small transformer over a spectrogram names the spoken digit of a speaker it never heard.

python experiments/spoken_digits.py ../shared/data/fsdd --out data/fsdd
python experiments/train.py --config audio_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Classes
from mlm_jax.models.audio import Audio

ears = AudioEncoder(
    samples=8_000,
    mel=LogMel("plain", rate=8_000, window=256, hop=80, fft=256, mels=24, low=60.0),
    loudness=0.05,
    centred=True,
    mean=-2.0,
    std=4.0,
    stem="conv2d",
    patch=4,
    body=replace(transformer("tiny", qk_norm=True), depth=2),
)
config = Config(
    model=Audio(ears, Pool("mean"), labels=10),
    loss=Classes(),
    data=Data(
        "data/fsdd/data.jsonl",
        images=("data/fsdd/clips.zip",),
        batch=64,
        captions=0,
        questions=0,
        speed=0.3,
        tone=3.0,
        noise=0.3,
    ),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=400,
)
tiny = replace(
    config, data=replace(config.data, name="clips/one_tiny", images=(), batch=4), steps=2
)

"""A small Whisper writes down what it hears: the sounds of the embedded world, one word at a time.

python experiments/train.py --config whisper_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.layers import transformer
from mlm_jax.losses import Caption
from mlm_jax.models.whisper import Scribe, Whisper
from mlm_jax.world.clip import RATE
from mlm_jax.world.sound import SAMPLES

config = Config(
    model=Whisper(
        AudioEncoder(
            samples=round(16 / RATE * SAMPLES),
            mel=LogMel("whisper", rate=SAMPLES, window=512, hop=125, fft=512, low=100.0),
            body=replace(transformer("tiny", qk_norm=True), depth=2),
        ),
        Scribe(128, 32, body=replace(transformer("tiny", rotary=100.0, qk_norm=True), depth=2)),
    ),
    loss=Caption(),
    data=Data("clips", batch=32, captions=4, questions=0, text_length=24, target_length=32),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, name="clips/tiny", batch=4), steps=2)

"""GMDCSA24: what a person does at home, and when, in real clips; subject 1 is the test.

python experiments/gmdcsa_events.py ../shared/data/gmdcsa24_video --out data/gmdcsa
python experiments/train.py --config gmdcsa
"""

from dataclasses import replace

from experiments.configs import REAL
from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Spans
from mlm_jax.models.video import Events

eyes = VideoEncoder(
    frames=24,
    size=(96, 128),
    patch=16,
    stem="conv",
    kind="factorised",
    body=replace(transformer("tiny", qk_norm=True), depth=1),
    time=replace(transformer("tiny", qk_norm=True), depth=2),
)
config = Config(
    model=Events(eyes, labels=8),
    loss=Spans(),
    data=Data(
        "data/gmdcsa/data.jsonl",
        images=(f"{REAL}/gmdcsa24_video/frames_112.zip",),
        train="2+3",
        test="1",
        batch=11,
        captions=0,
        questions=0,
        resize="pad",
        shift=8,
        events=4,
    ),
    optim=Optim("muon", lr=3e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=150,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)

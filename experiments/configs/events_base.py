"""ViT-B over the frames of a clip, a transformer over their time: events, for a GPU.

python experiments/train.py --config events_base --data.name clips.jsonl
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Spans
from mlm_jax.models.video import Events

eyes = VideoEncoder(
    frames=64,
    size=(224, 224),
    patch=16,
    kind="factorised",
    class_token=True,
    body=transformer("base"),
    time=replace(transformer("base"), depth=4),
)
model = Events(eyes, labels=200)
config = Config(
    model=model,
    loss=Spans(),
    data=Data("clips.jsonl", batch=16, captions=0, questions=0, events=32, resize="crop"),
    optim=Optim(lr=1e-4, warmup=2_000, weight_decay=0.05, ema=0.9999),
    steps=50_000,
    precision="bfloat16",
)
tiny = replace(
    config,
    model=replace(
        model,
        labels=10,
        video=replace(
            eyes,
            frames=16,
            size=(48, 48),
            body=replace(transformer("tiny"), depth=1),
            time=replace(transformer("tiny"), depth=1),
        ),
    ),
    data=replace(config.data, name="clips/tiny", batch=2),
    steps=2,
    precision="float32",
)

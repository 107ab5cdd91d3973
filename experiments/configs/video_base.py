"""ViT-B over 16 frames at 224, as VideoMAE fine-tunes it: for a GPU, from published weights.

python experiments/train.py --config video_base --data.name clips.jsonl --init.path VideoMAE/
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Classes
from mlm_jax.models.video import Video

eyes = VideoEncoder(
    frames=16,
    size=(224, 224),
    patch=16,
    tube=2,
    kind="joint",
    positions="sines",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    body=replace(transformer("base", eps=1e-12), last_norm=False),
)
model = Video(eyes, Pool("mean"), norm_eps=1e-5, labels=400)
config = Config(
    model=model,
    loss=Classes(smoothing=0.1),
    data=Data("clips.jsonl", batch=64, captions=0, questions=0, resize="crop"),
    optim=Optim(lr=1e-3, warmup=2_000, weight_decay=0.05, ema=0.9999),
    steps=50_000,
    precision="bfloat16",
)
tiny = replace(
    config,
    model=replace(
        model,
        labels=10,
        video=replace(
            eyes, size=(48, 48), body=replace(transformer("tiny"), depth=1, last_norm=False)
        ),
    ),
    data=replace(config.data, name="clips/one_tiny", batch=2),
    steps=2,
    precision="float32",
)

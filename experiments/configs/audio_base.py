"""AST-base hears up to ten seconds and names one of 527 classes: for a GPU, from published weights.

python experiments/train.py --config audio_base --data.name sounds.jsonl --init.path AST/
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import AudioEncoder
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Classes
from mlm_jax.models.audio import Audio
from mlm_jax.pretrained.sounds import AUDIOSET, ast_mel

FRAMES = 1024
mel = ast_mel(128)
ears = AudioEncoder(
    samples=mel.window + (FRAMES - 1) * mel.hop,
    mel=mel,
    fill=FRAMES,
    mean=AUDIOSET[0],
    std=2 * AUDIOSET[1],
    stem="patch",
    patch=16,
    stride=(10, 10),
    class_token=True,
    distillation_token=True,
    body=transformer("base", eps=1e-12),
)
model = Audio(ears, Pool("mean"), norm_eps=1e-12, labels=527)
config = Config(
    model=model,
    loss=Classes(),
    data=Data("sounds.jsonl", batch=48, captions=0, questions=0),
    optim=Optim(lr=5e-5, warmup=1_000, weight_decay=0.05, ema=0.9999),
    steps=50_000,
    precision="bfloat16",
)
tiny = replace(
    config,
    model=replace(
        model, labels=10, audio=replace(ears, body=replace(transformer("tiny"), depth=1))
    ),
    data=replace(config.data, name="clips/one_tiny", batch=2),
    steps=2,
    precision="float32",
)

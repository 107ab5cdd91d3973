"""CLIP of clips: what happens in one, and the words for it, as vectors that meet.

It begins as the CLIP of pictures, and keeps of what is drawn by `video_dalle_tiny`, trained before,
the nearest. Which way a thing moves it learns from wrong captions, by the frames around each.

python experiments/train.py --config clip_tiny
python experiments/train.py --config video_clip_tiny
python experiments/evaluate.py --run runs/video_dalle_tiny --clip runs/video_clip_tiny --among 8
"""

from dataclasses import replace

from experiments.configs import clip_tiny
from mlm_jax.config import Data, Init
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import transformer

eyes = VideoEncoder(
    frames=8,
    size=(48, 48),
    patch=8,
    stem="conv",
    around=1,
    kind="factorised",
    body=replace(transformer("tiny", rotary=10.0, qk_norm=True), depth=2),
    time=replace(transformer("tiny", qk_norm=True), depth=1),
)
config = replace(
    clip_tiny.config,
    model=clip_tiny.clip.clone(image=None, video=eyes),
    data=Data(
        "clips/one_short", batch=32, captions=1, questions=0, target_length=12, contrary=True
    ),
    init=Init(
        "runs/clip_tiny",
        take=("video/stem=image/stem", "video/body=image/body", "text", "image_out", "text_out"),
    ),
    steps=800,
)
tiny = replace(
    config, data=replace(config.data, name="clips/one_tiny", batch=4), init=Init(), steps=2
)

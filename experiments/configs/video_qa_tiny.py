"""A small video ViT watches, a small BERT asks, a decoder tells the story and answers.

python experiments/train.py --config events_tiny
python experiments/train.py --config video_qa_tiny

It begins with the eyes of `events_tiny`. From nothing it told colours and shapes and no actions
after 550 steps: the words for what moves are few among those that are learnt.
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Init, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

texts = multimodal(
    "tiny", patch=8, pixels=48, vocab=128, text_depth=1, fusion_depth=1, decoder_depth=2,
    decoder_rotary=100.0, qk_norm=True, text_length=24,
)  # fmt: skip
eyes = VideoEncoder(
    frames=16,
    size=(48, 48),
    patch=16,
    stem="conv",
    around=1,
    kind="joint",
    place_again=True,
    body=replace(transformer("tiny", qk_norm=True), depth=2),
)
model = replace(texts, image=None, video=eyes)
config = Config(
    model=model,
    loss=Caption(),
    data=Data("clips", batch=32, captions=2, questions=8, text_length=24, target_length=32),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    init=Init("runs/events_tiny", take=("video",)),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, name="clips/tiny", batch=4), init=Init(), steps=2)

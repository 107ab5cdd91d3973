"""What is heard, told: the sounds of the clips of the embedded world, without their pictures.

python experiments/train.py --config audio_caption_tiny
"""

from dataclasses import replace

from experiments.configs import video_qa_tiny
from mlm_jax.config import Config, Init
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.layers import transformer
from mlm_jax.world.clip import RATE
from mlm_jax.world.sound import SAMPLES

ears = AudioEncoder(
    samples=round(16 / RATE * SAMPLES),
    mel=LogMel(rate=SAMPLES, window=512, hop=125, fft=512, mels=80, low=100.0),
    mean=-4.0,
    std=4.0,
    body=replace(transformer("tiny", rotary=100.0, qk_norm=True), depth=2),
)
config: Config = replace(
    video_qa_tiny.config,
    model=replace(video_qa_tiny.model, video=None, audio=ears),
    init=Init(),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, name="clips/tiny", batch=4), steps=2)

"""A small VideoGPT draws clips of the embedded world: a caption, then codes of frame after frame.

It begins as a DALL-E of pictures, which knows what things look like, and has to learn time alone:
captions, and what is in the first frame, count little.

python experiments/train.py --config codes_tiny
python experiments/train.py --config dalle_tiny
python experiments/train.py --config video_dalle_tiny
python experiments/generate.py --run runs/video_dalle_tiny --prompt "a red cross turns" --out drawn
"""

import math
from dataclasses import replace

from experiments.configs.codes_tiny import codes
from mlm_jax.config import Config, Data, Init, Optim, Stage
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Drawn
from mlm_jax.models.dalle import Dalle

WORDS, LENGTH, FRAMES = 64, 12, 8
grid = (FRAMES, *codes.eyes.grid)
config = Config(
    model=Dalle(
        codes,
        TextDecoder(
            WORDS + codes.quantiser.size,
            LENGTH + math.prod(grid),
            grid=grid,
            neighbours=True,
            levels=codes.quantiser.levels,
            body=transformer("tiny", rotary=10.0, qk_norm=True, norm="rms"),
        ),
        words=WORDS,
        length=LENGTH,
        frames=FRAMES,
        opening=0.2,
    ),
    loss=Drawn(text=0.01),
    data=Data("clips/one_short", batch=8, captions=1, questions=0, target_length=LENGTH),
    optim=Optim("muon", lr=1e-2, schedule="linear", warmup=100, b2=0.98, ema=0.99),
    codes=Stage("runs/codes_tiny"),
    init=Init("runs/dalle_tiny", take=("decoder",), skip=("decoder/words/positions",)),
    steps=2_400,
)
tiny = replace(
    config,
    data=replace(config.data, name="clips/one_tiny", batch=4),
    codes=Stage(),
    init=Init(),
    steps=2,
)

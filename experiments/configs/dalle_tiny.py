"""A small DALL-E draws scenes of the embedded world: a caption, gone on with by codes.

python experiments/train.py --config codes_tiny
python experiments/train.py --config dalle_tiny
python experiments/generate.py --run runs/dalle_tiny --prompt "a red circle" --n 8 --out pictures
"""

from dataclasses import replace

from experiments.configs.codes_tiny import codes
from mlm_jax.config import Config, Data, Optim, Stage
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Drawn
from mlm_jax.models.dalle import Dalle

WORDS, LENGTH = 128, 24
rows, columns = codes.eyes.grid
config = Config(
    model=Dalle(
        codes,
        TextDecoder(
            WORDS + codes.quantiser.size,
            LENGTH + rows * columns,
            grid=(rows, columns),
            neighbours=True,
            levels=codes.quantiser.levels,
            body=transformer("tiny", rotary=10.0, qk_norm=True, norm="rms"),
        ),
        words=WORDS,
        length=LENGTH,
    ),
    loss=Drawn(),
    data=Data("world", batch=16, captions=1, questions=0, target_length=LENGTH),
    optim=Optim("muon", lr=1e-2, schedule="linear", warmup=200, b2=0.98, ema=0.99),
    codes=Stage("runs/codes_tiny"),
    steps=3_750,
)
tiny = replace(
    config, data=replace(config.data, name="world/tiny", batch=4), codes=Stage(), steps=2
)

"""Each of the 8 frames of a clip as 144 codes of 1,000, and back: the first stage of `video_painter_tiny`.

python experiments/train.py --config video_codes_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.losses import Rebuilt
from mlm_jax.models.codes import Codes

eyes = CodeEncoder((48, 48), (2, 2), (16, 32, 64), frames=8)
codes = Codes(None, eyes, Quantiser("fsq", (8, 5, 5, 5)))
config = Config(
    model=codes,
    loss=Rebuilt(colour=8.0),
    data=Data("clips/one_short", batch=8, captions=0, questions=0),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=2_000,
)
tiny = replace(config, data=replace(config.data, name="clips/one_tiny", batch=4), steps=2)

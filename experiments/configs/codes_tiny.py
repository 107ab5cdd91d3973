"""Pictures as 144 codes of 2,560, and back: the first stage of `dalle_tiny`.

python experiments/train.py --config codes_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.losses import Rebuilt
from mlm_jax.models.codes import Codes

codes = Codes(
    CodeEncoder((48, 48), (2, 2), (32, 64, 128), sees="patch"),
    None,
    Quantiser("fsq", (8, 8, 8, 5)),
)
config = Config(
    model=codes,
    loss=Rebuilt(colour=8.0),
    data=Data("world", batch=16, captions=0, questions=0),
    optim=Optim("muon", lr=3e-3, schedule="linear", warmup=100, b2=0.98, ema=0.99),
    steps=4_200,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)

"""ESC-10 (Piczak 2015): ten classes of sounds around us; folds 1 to 3 are learnt, 4 is the test.

python experiments/train.py --config esc10
"""

from dataclasses import replace

from experiments.configs import REAL
from mlm_jax.config import Config, Data, Fields, Optim
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Classes
from mlm_jax.models.audio import Audio

ears = AudioEncoder(
    samples=80_000,
    mel=LogMel(window=1_024, hop=512, fft=1_024, mels=64, low=50.0),
    mean=-6.0,
    std=4.0,
    body=replace(transformer("tiny", qk_norm=True, dropout=0.1), depth=2),
)
config = Config(
    model=Audio(ears, Pool("mean"), labels=10),
    loss=Classes(),
    data=Data(
        f"{REAL}/esc10/meta.jsonl",
        images=(f"{REAL}/esc10/clips_16k.zip",),
        fields=Fields(audio="file", split="fold"),
        train="1+2+3",
        test="4",
        batch=32,
        captions=0,
        questions=0,
    ),
    optim=Optim("muon", lr=3e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=300,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)

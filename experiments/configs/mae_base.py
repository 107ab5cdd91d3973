"""MAE: ViT-B/16 sees a quarter of a picture, a decoder of 8 layers paints the rest.

python experiments/train.py --config mae_base [--data.name imagenet2012]
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Block, Transformer, transformer
from mlm_jax.losses import Masked
from mlm_jax.models.mae import Mae

config = Config(
    model=Mae(
        ImageEncoder((224, 224), 16, class_token=True, body=transformer("base")),
        decoder=Transformer(512, 8, Block(heads=16)),
    ),
    loss=Masked(),
    data=Data(
        "imagenet2012", test="validation", batch=4_096, captions=0, questions=0, resize="crop"
    ),
    optim=Optim(lr=2.4e-3, warmup=12_500, b2=0.95),
    steps=250_000,
    save_every=5_000,
)
data = replace(config.data, name="world/one_tiny", test="test", batch=2)
tiny = replace(config, data=data, steps=2)

"""ViT-B/16 at 224 names one of 1,000 classes; a set prepared by TFDS below --data.root.

python experiments/train.py --config vit_classifier_base [--data.name imagenet2012]
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Classes
from mlm_jax.models.vit import Vit

config = Config(
    model=Vit(
        ImageEncoder((224, 224), 16, class_token=True, body=transformer("base")), labels=1_000
    ),
    loss=Classes(smoothing=0.1),
    data=Data(
        "imagenet2012", test="validation", batch=1_024, captions=0, questions=0, resize="crop"
    ),
    optim=Optim(lr=1e-3, warmup=10_000, weight_decay=0.3, ema=0.9999),
    steps=375_000,
    save_every=5_000,
)
data = replace(config.data, name="world/one_tiny", test="test", batch=1)
tiny = replace(config, data=data, steps=2)

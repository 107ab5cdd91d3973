"""Makes inception.npz: python tests/evaluators/golden/inception_make.py

Needs pytorch-fid 0.3.0 with torchvision. Features of three pictures by its own network, of random
weights (`test_inception.weigh`), and the names and shapes of its convolutions.
"""

import sys
from pathlib import Path

import numpy as np
import pytorch_fid.inception
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from inception_weights import pictures, weigh  # noqa: E402

kept: dict[str, np.ndarray] = {}


def instead_of_a_download(*_: object, **__: object) -> dict[str, torch.Tensor]:
    net = pytorch_fid.inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    own = net.state_dict()
    shapes = {n.removesuffix(".conv.weight"): tuple(own[n].shape) for n in own if "conv.w" in n}
    kept["names"] = np.array([*shapes])
    kept["shapes"] = np.array([*shapes.values()])
    own.update({name: torch.from_numpy(array) for name, array in weigh(shapes).items()})
    return own


pytorch_fid.inception.load_state_dict_from_url = instead_of_a_download
net = pytorch_fid.inception.InceptionV3([3]).eval()
with torch.no_grad():
    for name, picture in pictures().items():
        shown = torch.from_numpy(picture.astype(np.float32) / 255).permute(0, 3, 1, 2)
        kept[name] = net(shown)[0].squeeze(-1).squeeze(-1).numpy()
np.savez_compressed(HERE / "inception.npz", **kept)

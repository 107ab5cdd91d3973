"""The reference: models of transformers with random weights, and torch's own way of training."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Arrays, Side
from mlm_jax.pretrained import load
from mlm_jax.train import cast

torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")


def prepare(setting: Setting) -> None:
    """Threads, and no more words than needed."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)


def device(setting: Setting) -> str:
    return "cuda" if setting.device == "gpu" else "cpu"


def placed(model: Any, setting: Setting) -> Any:
    """On the device, in evaluation, in the precision."""
    return model.eval().to(device(setting), getattr(torch, setting.precision))


def tensors(arrays: Mapping[str, np.ndarray], setting: Setting, precision: str) -> dict[str, Any]:
    """Integers as torch takes them; pictures with channels first."""

    def one(array: np.ndarray) -> Any:
        if array.ndim == 4:
            array = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
        if array.dtype in (np.bool_, np.int32):
            return torch.tensor(array.astype(np.int64), device=device(setting))
        return torch.tensor(array, device=device(setting), dtype=getattr(torch, precision))

    return {name: one(array) for name, array in arrays.items()}


def ours(model: Any, folder: Path, precision: str = "float32") -> tuple[Any, Any]:
    """The same model here, with the same weights, in memory of its own."""
    model.save_pretrained(folder)
    read = load(folder)
    params = jax.tree.map(jnp.array, read.params)
    return read.model, cast(params, precision)


# --- sides ---


def side(name: str, compute: Callable[[], Any], setting: Setting) -> Side:
    """`compute` gives a dict of tensors."""

    def call() -> Any:
        out = compute()
        if setting.device == "gpu":
            torch.cuda.synchronize()
        return out

    return Side(name, call, to_arrays)


def to_arrays(out: Mapping[str, Any]) -> Arrays:
    return {name: value.detach().float().cpu().numpy() for name, value in out.items()}


def ways(
    function: Callable[..., Any], *args: Any, setting: Setting, grad: bool = False
) -> list[Side]:
    """`function(*args)` eager and compiled; on a GPU with cuDNN's attention as well."""
    mode = nullcontext if grad else torch.inference_mode
    compiled = torch.compile(function, dynamic=False)

    def run(call: Callable[..., Any], attention: Any) -> Callable[[], Any]:
        def compute() -> Any:
            with mode(), attention():
                return call(*args)

        return compute

    found = [
        side("eager", run(function, nullcontext), setting),
        side("compiled", run(compiled, nullcontext), setting),
    ]
    if setting.device == "gpu":
        again = torch.compile(function, dynamic=False)
        found += [
            side("eager, cuDNN attention", run(function, cudnn), setting),
            side("compiled, cuDNN attention", run(again, cudnn), setting),
        ]
    return found


def cudnn() -> AbstractContextManager[None]:
    """cuDNN's attention first, the others where it cannot."""
    attention = importlib.import_module("torch.nn.attention")
    kinds = attention.SDPBackend
    order = [kinds.CUDNN_ATTENTION, kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION, kinds.MATH]
    return attention.sdpa_kernel(order, set_priority=True)


# --- training ---


def trainer(
    model: Any, loss: Callable[[Any, dict[str, Any]], Any], batch: Any, lr: float, setting: Setting
) -> list[Side]:
    """Forward, backward, clip to 1, AdamW (fused), eager and compiled.

    In bfloat16 by autocast, over float32 masters, as here. All train the same model, of which one
    is as much as fits into memory; each begins its first step from the same weights.
    """
    model = model.float().train().to(device(setting))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = adam(model, lr)
    attentions: dict[str, Any] = {"": nullcontext}
    if setting.device == "gpu":
        attentions[", cuDNN attention"] = cudnn
    sides = []
    for kind in ("eager", "compiled"):
        for suffix, attention in attentions.items():
            function = torch.compile(loss, dynamic=False) if kind == "compiled" else loss
            step = Step(model, start, optimiser, function, batch, attention, setting)
            sides.append(side(kind + suffix, step, setting))
    return sides


def adam(model: Any, lr: float) -> Any:
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


@dataclass
class Step:
    """A call is a training step; before its first the weights are put back to the `start`."""

    model: Any
    start: dict[str, Any]
    optimiser: Any
    loss: Callable[..., Any]
    batch: Any
    attention: Any
    setting: Setting
    begun: bool = False

    def __call__(self) -> dict[str, Any]:
        if not self.begun:
            self.model.load_state_dict(self.start)
            self.optimiser.state.clear()
            self.begun = True
        half = self.setting.precision == "bfloat16"
        with torch.autocast(device(self.setting), torch.bfloat16, enabled=half), self.attention():
            value = self.loss(self.model, self.batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {"loss": value}

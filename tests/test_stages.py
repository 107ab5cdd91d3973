"""A run that builds on a run: what it takes from it, that this stays, and that it stands alone."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import toy

from mlm_jax import checkpoint, sharding, stages
from mlm_jax.checkpoint import restore_params
from mlm_jax.config import Config, Data, Mesh, Optim, Stage, UserError, read, to_json
from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.drawing import Drawing, draw
from mlm_jax.generate import How
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Coded, Denoise, Drawn, Rebuilt
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.codes import Codes
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.painter import Painter
from mlm_jax.models.prior import AutoregressivePrior
from mlm_jax.models.unclip import Unclip
from mlm_jax.paths import named
from mlm_jax.run import read_metrics
from mlm_jax.train import train
from mlm_jax.trained import open_trained

WORDS, LENGTH = 16, 6
LEVELS = (3, 4)
SHARED: dict[str, Any] = {"steps": 2, "save_every": 1, "log_every": 1}
OPTIM = Optim(lr=0.01, warmup=0, ema=0.5)


@pytest.fixture(autouse=True, scope="module")
def _optax_promotes() -> Iterator[None]:
    """optax raises floats to integer powers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Made(NamedTuple):
    """Two runs, and a copy of the second that has lost the first and its last step."""

    data: Path
    codes: Path
    dalle: Path
    alone: Path

    def drawer(self, run: Path, **decoder: Any) -> Config:
        """Its own codes are others than those of the run."""
        body = Transformer(16, 1, Block(heads=2, ratio=1.0))
        sizes: dict[str, Any] = {"vocab": WORDS + 12, "length": LENGTH + 4, "grid": (2, 2)}
        model = Dalle(
            Codes(CodeEncoder((8, 8), (4,), (4, 8))),
            TextDecoder(**(sizes | decoder), body=body),
            words=WORDS,
            length=LENGTH,
        )
        data = Data(
            str(self.data), batch=4, captions=1, questions=0, target_length=LENGTH, threads=1
        )
        return Config(model, Drawn(), data, OPTIM, codes=Stage(str(run)), **SHARED)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("stages")
    data = toy.write_pictures(root / "pictures")
    made = Made(data, *(root / name for name in ("codes", "dalle", "alone")))
    model = Codes(
        CodeEncoder(toy.SIZE, (2, 2), (4, 8, 8), blocks=0), None, Quantiser("fsq", LEVELS)
    )
    pictures = Data(str(data), batch=4, captions=0, questions=0, threads=1)
    assert train(Config(model, Rebuilt(), pictures, OPTIM, **SHARED), made.codes) == 0
    first = root / "first"
    shutil.copytree(made.codes, first)
    assert train(made.drawer(first), made.dalle) == 0
    shutil.copytree(made.dalle, made.alone)
    shutil.rmtree(made.alone / "checkpoints" / "2")
    shutil.rmtree(first)
    return made


def drawn(run: Path) -> np.ndarray:
    how = Drawing(codes=How("sample"))
    return draw(open_trained(run), ["it is red"], how=how, seed=1)


def test_the_codes_are_those_of_the_run_before_and_do_not_move(made: Made) -> None:
    """The moving average of that run: what it is evaluated by."""
    before = named(restore_params(made.codes)[1])
    for tree in (params_at(made.dalle, 1), params_at(made.dalle, 2)):
        for kept in ("params", "ema"):
            leaves = named(tree[kept]["codes"])
            assert leaves.keys() == before.keys()
            for path, leaf in leaves.items():
                np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    assert not np.array_equal(
        before["image/conv_first/kernel"],
        params_at(made.codes, 2)["params"]["image"]["conv_first"]["kernel"],
    )
    one, two = (named(params_at(made.dalle, step)["params"]["decoder"]) for step in (1, 2))
    assert not any(np.array_equal(one[path], two[path]) for path in one if "kernel" in path)


def params_at(run: Path, step: int) -> Any:
    saved = checkpoint.read(run / "checkpoints", step, checkpoint.on_one_device)
    assert not isinstance(saved, str)
    return saved.trees


def test_it_begins_on_several_devices(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "devices", lambda: jax.devices()[:4])
    config = replace(made.drawer(made.codes), mesh=Mesh(data=2, fsdp=2))
    assert train(config, tmp_path / "run") == 0
    alone, shared = (read_metrics(run) for run in (made.dalle, tmp_path / "run"))
    for one, two in zip(alone, shared, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    kept = named(params_at(tmp_path / "run", 2)["params"]["codes"])
    for path, leaf in named(restore_params(made.codes)[1]).items():
        np.testing.assert_array_equal(kept[path], leaf, err_msg=path)


def test_the_run_holds_the_model_of_the_run_before(made: Made) -> None:
    config = read(made.dalle)
    assert config.model.codes == read(made.codes).model
    assert config.model.codes.quantiser.levels == LEVELS
    assert config.optim.freeze == ("codes",)


def test_it_stands_alone_and_goes_on_to_the_same_end(made: Made) -> None:
    """Without the run before: given as it was at first, and as the run has it."""
    gone = Path(read(made.alone).codes.run)
    assert not gone.exists()
    assert train(made.drawer(gone), made.alone) == 0
    one, other = (named(params_at(run, 2)) for run in (made.dalle, made.alone))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[path], other[path]) for path in one)
    assert train(read(made.alone), made.alone) == 0
    pixels = drawn(made.alone)
    assert pixels.shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(pixels, drawn(made.dalle))


# --- what is refused ---


def test_the_codes_of_a_painter_lie_inside_an_unclip(made: Made, tmp_path: Path) -> None:
    config = replace(made.drawer(made.codes), model=Unclip(painter=Painter(codes=Codes())))
    found = stages.resolve(config, tmp_path / "new")
    assert found.model.painter.codes == read(made.codes).model
    assert found.optim.freeze == ("painter/codes", "prior")
    params = {"prior": {}, "painter": {"net": 1, "codes": {}}}
    filled = stages.with_stages(found, params)
    assert filled["painter"]["net"] == 1
    assert params["painter"] == {"net": 1, "codes": {}}
    ours, stored = named(filled["painter"]["codes"]), named(params_at(made.codes, 2)["ema"])
    assert ours.keys() == stored.keys()
    assert all(np.array_equal(ours[path], stored[path]) for path in stored)
    without = replace(config, model=Unclip())
    with pytest.raises(UserError, match=r"--codes.run .*: a Unclip has no codes"):
        stages.resolve(without, tmp_path / "new")


def test_one_kind_of_prior_may_stand_for_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(Unclip(), Denoise(), prior=Stage("earlier"))
    monkeypatch.setattr(stages, "read", lambda path: Config(AutoregressivePrior(), Coded()))
    assert stages.resolve(config, tmp_path).model.prior == AutoregressivePrior()
    monkeypatch.setattr(stages, "read", lambda path: Config(Codes(), Rebuilt()))
    with pytest.raises(UserError, match=r"--prior.run earlier is a Codes, no Prior"):
        stages.resolve(config, tmp_path)


def test_a_stage_without_a_run_is_held_still_and_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gets no gradient, and weight decay would shrink it; what is absent is no stage."""
    for model, still in (
        (Dalle(), ("codes",)),
        (Unclip(), ("prior",)),
        (Unclip(painter=Painter(codes=Codes())), ("painter/codes", "prior")),
        (Cascade(), ("base",)),
        (Painter(), ()),
        (Codes(), ()),
    ):
        config = Config(model, Denoise(), optim=replace(OPTIM, freeze=("net",)))
        found = stages.resolve(config, tmp_path)
        assert found.model == model
        assert found.optim.freeze == ("net", *still)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == len(still)
        for line, path in zip(said, still, strict=True):
            name = path.rpartition("/")[2]
            assert line.startswith(f"WARNING: model.{path.replace('/', '.')} is drawn from the")
            assert f"--{name}.run names a run" in line


@pytest.mark.parametrize("freeze", [(), ("codes",)])
def test_a_run_that_has_begun_holds_still_what_it_held(
    freeze: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(Dalle(), Drawn(), optim=replace(OPTIM, freeze=freeze))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert stages.resolve(config, tmp_path) == config
    assert not capsys.readouterr().err


def test_a_stage_that_is_no_run_is_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--codes.run: .*nowhere is no run directory.*trained bef"):
        train(made.drawer(tmp_path / "nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_of_another_kind_is_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--codes.run .*dalle is a Dalle, no Codes"):
        train(made.drawer(made.dalle), tmp_path / "run")
    config = replace(read(made.codes), codes=Stage(str(made.codes)))
    with pytest.raises(UserError, match="a Codes has no codes"):
        train(config, tmp_path / "run")
    number = replace(config, model=AutoregressivePrior())  # how many codes it has is no stage
    with pytest.raises(UserError, match="a AutoregressivePrior has no codes"):
        train(number, tmp_path / "run")


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"vocab": WORDS + 13}, "16 words and 12 codes: decoder.vocab is 29, and must be 28"),
        ({"length": LENGTH + 2, "grid": None}, "9 tokens, but positions for 8"),
        ({"grid": (1, 4)}, r"grid is \(1, 4\).* its length 10: .* \(2, 2\) after 6 words"),
        ({"length": LENGTH + 5}, r"grid is \(2, 2\).* its length 11: .* \(2, 2\) after 6 words"),
    ],
)
def test_a_decoder_that_does_not_fit_the_codes_is_refused(
    made: Made, tmp_path: Path, decoder: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(made.drawer(made.codes, **decoder), tmp_path / "run")


def test_a_start_that_failed_may_name_another_stage(made: Made, tmp_path: Path) -> None:
    """The failed one has left a configuration with the codes of the first stage."""
    config, run = made.drawer(made.codes), tmp_path / "run"
    other = tmp_path / "other"
    shutil.copytree(made.codes, other)
    text = (other / "config.json").read_text()
    assert '"blocks": 0' in text
    (other / "config.json").write_text(text.replace('"blocks": 0', '"blocks": 2'))
    few = config.model.clone(words=5, decoder=replace(config.model.decoder, vocab=17, grid=None))
    with pytest.raises(UserError, match=r"model.words is 5"):
        train(replace(config, model=few), run)
    assert read(run).model.codes.image.blocks == 0
    again = stages.resolve(replace(config, codes=Stage(str(other))), run)
    assert again.model.codes.image.blocks == 2


def test_a_damaged_stage_is_refused_and_an_older_step_of_it_used(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(made.codes, stage)
    config = made.drawer(stage)
    damage(stage, 2)
    found = named(stages.with_stages(config, {})["codes"])
    assert f"{stage / 'checkpoints' / '2'} is damaged" in capfd.readouterr().err
    older = named(params_at(made.codes, 1)["ema"])
    assert all(np.array_equal(found[path], older[path]) for path in older)
    damage(stage, 1)
    with pytest.raises(UserError, match="found, all damaged: 1, 2"):
        train(config, tmp_path / "run")
    shutil.rmtree(stage / "checkpoints")
    with pytest.raises(UserError, match=r"stage.*holds no checkpoint yet"):
        train(config, tmp_path / "run")


def damage(run: Path, step: int) -> None:
    """Flip one byte in the middle of each larger file."""
    for file in (run / "checkpoints" / str(step)).rglob("*"):
        if file.is_file() and file.stat().st_size > 1_000:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

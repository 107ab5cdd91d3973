"""The tree, its command line, its file, and what it refuses."""

import dataclasses
import json
from dataclasses import field, replace
from pathlib import Path

import flax.linen as nn
import pytest

from mlm_jax import checks, command
from mlm_jax import config as configs
from mlm_jax.config import Config, Data, Optim, UserError
from mlm_jax.decoders.codes import Quantiser
from mlm_jax.encoders import TextEncoder
from mlm_jax.losses import Caption, Contrastive, Rebuilt
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.clip import Clip
from mlm_jax.models.codes import Codes
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.painter import Painter
from mlm_jax.models.prior import DiffusionPrior
from mlm_jax.models.unclip import Unclip

WORDS = {"world": 76, "clips": 55}
"""Tokens that the languages of the sets need at least."""


@pytest.fixture
def config() -> Config:
    return Config(Multimodal(), Caption())


def test_every_experiment_loads_checks_and_survives_its_file() -> None:
    assert "vit_tiny" in configs.names()
    for name in configs.names():
        for attribute in ("config", "tiny"):
            loaded = configs.load(f"{name}:{attribute}")
            checks.check(loaded)
            checks.check_vocab(loaded, WORDS.get(loaded.data.name.split("/")[0], 0))
            text = json.dumps(configs.to_json(loaded))
            assert configs.from_json(json.loads(text)) == loaded


def test_names_come_with_the_first_line_of_the_docstring() -> None:
    assert all(configs.names().values())


def test_unknown_experiment_suggests() -> None:
    with pytest.raises(UserError, match=r"did you mean .*vit_tiny"):
        configs.load("vit_tiy")
    with pytest.raises(UserError, match=r"has no Config called `huge` .*config, tiny"):
        configs.load("vit_tiny:huge")
    with pytest.raises(UserError, match="no file"):
        configs.load("nowhere/own.py")


def test_load_takes_a_file(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("from experiments.configs.vit_tiny import tiny\nconfig = tiny\n")
    assert configs.load(str(own)) == configs.load("vit_tiny:tiny")


def test_keys_of_every_depth(config: Config) -> None:
    given = configs.override(
        config,
        [
            "--optim.lr",
            "3e-4",
            "--model.image.body.depth",
            "6",
            "--loss.smoothing",
            "0.1",
            "--model.image.size",
            "96",
            "64",
            "--model.image.class-token",
            "True",
            "--data.fields.image",
            "file",
            "--optim.freeze",
            "image",
            "text/body",
            "--optim.lr-scale",
            "image",
            "0.1",
            "text",
            "0.5",
            "--steps",
            "7",
        ],
    )
    assert type(given) is Config
    assert given.optim.lr == 3e-4
    assert given.model.image.body.depth == 6
    assert given.model.image.size == (96, 64)
    assert given.model.image.class_token is True
    assert given.loss == Caption(smoothing=0.1)
    assert given.data.fields.image == "file"
    assert given.optim.freeze == ("image", "text/body")
    assert given.optim.lr_scale == (("image", 0.1), ("text", 0.5))
    assert given.steps == 7
    assert configs.override(config, []) == config


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--model.image.body.deph 2", "--model.image.body.depth"),
        ("--optim.lr fast", "fast"),
        ("--optim.schedule cosin", "cosine"),
        ("--model.fusion.kind glue", "cross_attention"),
        ("--no-model.image.class-token", "--model.image.class-token"),
    ],
)
def test_mistakes_are_answered(
    config: Config, words: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        configs.override(config, words.split())
    assert exit_.value.code == 2
    assert answer in capsys.readouterr().err


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = command.cli(["--config", "vit_tiny", "--steps", "3"])
    assert (config.steps, run) == (3, Path("runs/vit_tiny"))
    assert command.cli(["--config", "vit_tiny:tiny"])[1] == Path("runs/vit_tiny-tiny")
    (tmp_path / "config.json").write_text(json.dumps(configs.to_json(config)))
    assert command.cli(["--run", str(tmp_path)]) == (config, tmp_path)
    with pytest.raises(SystemExit) as exit_:
        command.cli([])
    assert exit_.value.code == 2
    with pytest.raises(UserError, match=r"--run .*vit_tny: no run is there"):
        command.cli(["--run", str(tmp_path / "vit_tny")])


def test_help_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.cli(["--help"])
    assert exit_.value.code == 0
    assert "vit_tiny" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.cli(["--config", "vit_tiny", "--help"])
    shown = capsys.readouterr().out
    assert "--model.fusion.kind" in shown
    assert "Peak learning rate" in shown
    assert "parent" not in shown


@pytest.mark.parametrize(
    "kind",
    [
        "os.system",
        "subprocess.Popen",
        "mlm_jax.config.Path",
        "mlm_jax.config.suggest",
        "mlm_jax.config.nn.Dense",
        "mlm_jax.nowhere.Model",
        "mlm_jax.config.Nothing",
        "experiments.train.main",
        "None",
    ],
)
def test_a_file_cannot_name_other_code(kind: str) -> None:
    with pytest.raises(UserError):
        configs.from_json({"type": kind})


def test_a_file_of_other_code_is_named(config: Config) -> None:
    tree = configs.to_json(config)
    tree["optim"]["momentum"] = 0.9
    with pytest.raises(UserError, match=r"Optim has no field momentum"):
        configs.from_json(tree)


def test_damaged_or_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        configs.read(tmp_path)
    (tmp_path / "config.json").write_text('{"type": ')
    with pytest.raises(UserError, match="damaged"):
        configs.read(tmp_path)


class Foreign(nn.Module):
    width: int = 2


def test_what_could_not_be_found_again_is_not_saved(config: Config) -> None:
    with pytest.raises(UserError, match=r"config\.model is a .*Foreign"):
        configs.to_json(replace(config, model=Foreign()))


class Pair(nn.Module):
    first: nn.Module = field(default_factory=lambda: nn.Dense(2))
    more: tuple[nn.Module, ...] = ()


def test_one_module_in_two_fields_is_refused() -> None:
    one, another = nn.Dense(2), nn.Dense(2)
    configs.refuse_shared(Pair(one, (another,)))
    with pytest.raises(UserError, match=r"config\.more\[1\] is config\.first again"):
        configs.refuse_shared(Pair(one, (another, one)))


def test_shared_module_in_an_experiment_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from mlm_jax.config import Config\nfrom mlm_jax.losses import Caption\n"
        "from mlm_jax.layers import Transformer\nfrom mlm_jax.models.multimodal import Multimodal\n"
        "from mlm_jax.encoders import ImageEncoder, TextEncoder\nbody = Transformer()\n"
        "config = Config(Multimodal(ImageEncoder(body=body), TextEncoder(body=body)), Caption())\n"
    )
    with pytest.raises(UserError, match=r"config\.model\.text\.body is config\.model\.image\.body"):
        configs.load(str(own))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0: at least 1"),
        ({"keep_best": 1, "eval_every": 300, "save_every": 400}, "eval_every 300 must divide"),
        ({"optim": Optim(accumulate=3)}, "data.batch 64 is not divisible by optim.accumulate 3"),
        (
            {
                "model": Codes(quantiser=Quantiser("vq")),
                "loss": Rebuilt(),
                "data": Data(captions=0, questions=0),
                "optim": Optim(accumulate=2),
            },
            "optim.accumulate 2: the codebook of vq is renewed by the whole batch",
        ),
        ({"optim": Optim(lr=float("nan"))}, "optim.lr is nan"),
        ({"optim": Optim(ema=1.0)}, "optim.ema is 1.0: at least 0 and under 1"),
        ({"optim": Optim(lr_scale=(("image", 0.0),))}, "optim.lr_scale image is 0.0"),
        ({"data": Data(max_broken=1.5)}, "data.max_broken is 1.5: from 0 to 1"),
        ({"data": Data(captions=0, questions=0)}, "data.captions and data.questions are both 0"),
        ({"data": Data(contrary=True)}, "data.contrary: only losses.Contrastive learns from wrong"),
        (
            {"data": Data("coco_captions", contrary=True), "loss": Contrastive()},
            "data.contrary: what is wrong of coco_captions is not known, so it must be False",
        ),
        ({"data": Data(text_length=33)}, "data.text_length 33 is over the 32 positions"),
        ({"data": Data(target_length=34)}, "data.target_length 34 needs 33 positions"),
    ],
)
def test_what_cannot_work_is_refused(config: Config, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        checks.check(replace(config, **changes))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("dalle_tiny", "model.length"),
        ("painter_tiny", "model.text.length"),
        ("prior_tiny", "model.clip.text.length"),
        ("unclip_tiny", "model.prior.clip.text.length"),
        ("unclip_tiny", "model.painter.text.length"),
        ("upsampler_tiny", "model.base.prior.clip.text.length"),
    ],
)
def test_captions_that_what_draws_could_not_read_are_refused(name: str, key: str) -> None:
    """Training would cut their rows to fit, and drawing could not."""
    loaded = configs.load(f"{name}:tiny")
    data = replace(loaded.data, target_length=25)
    with pytest.raises(UserError, match=f"target_length 25 is over the 24 positions of {key}"):
        checks.check(replace(loaded, data=data))


def test_of_a_stage_that_comes_from_a_run_the_length_is_asked_for_when_it_is_there() -> None:
    loaded = configs.load("prior_tiny")
    longer = replace(loaded, data=replace(loaded.data, target_length=25))
    checks.check(longer)
    with pytest.raises(UserError, match=r"over the 24 positions of model\.clip\.text\.length"):
        checks.check_lengths(longer)


@pytest.mark.parametrize(
    "name", ["bert_tiny", "clip_tiny", "dalle_tiny", "prior_tiny", "unclip_tiny", "upsampler_tiny"]
)
def test_models_of_captions_alone_take_no_questions(name: str) -> None:
    loaded = configs.load(name)
    checks.check(loaded)
    for captions, questions in ((1, 1), (0, 1)):
        data = replace(loaded.data, captions=captions, questions=questions)
        with pytest.raises(UserError, match="learns from captions alone"):
            checks.check(replace(loaded, data=data))
    with pytest.raises(UserError, match="both 0: nothing would be learned"):
        checks.check(replace(loaded, data=replace(loaded.data, captions=0)))


def test_a_cascade_knows_the_words_of_its_base() -> None:
    base = Painter(text=TextEncoder(vocab=60))
    assert Cascade(base).words == Cascade(Cascade(base)).words == 60
    assert Cascade(Unclip()).words == Unclip().words
    assert Cascade(Painter(text=None)).words > 1e9, "it reads none"


def test_parts_without_a_place_to_take_them_from_are_refused(config: Config) -> None:
    with pytest.raises(UserError, match=r"init\.take and init\.skip say what"):
        checks.check(replace(config, init=configs.Init(take=("image",))))


def test_all_that_is_wrong_is_named_at_once(config: Config) -> None:
    with pytest.raises(UserError) as error:
        checks.check(replace(config, steps=0, keep=0))
    assert "steps" in str(error.value)
    assert "keep" in str(error.value)


def test_tokenizer_must_fit_the_model(config: Config) -> None:
    checks.check_vocab(config, config.model.text.vocab)
    with pytest.raises(UserError, match=r"513 tokens, but model\.text\.vocab is 512"):
        checks.check_vocab(config, 513)
    prior = DiffusionPrior(clip=Clip(text=TextEncoder(vocab=600)))
    painter = Painter(text=TextEncoder(vocab=512))
    drawer = replace(config, model=Unclip(prior=prior, painter=painter))
    with pytest.raises(UserError, match=r"513 tokens, but model\.painter\.text\.vocab is 512"):
        checks.check_vocab(drawer, 513)


def test_frozen(config: Config) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 2  # type: ignore[misc]

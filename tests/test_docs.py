"""What README and the pages say to type: code is run, commands are read by the command line."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from PIL import Image

import experiments
import experiments.ablations
import experiments.configs
from mlm_jax import config
from mlm_jax.ablation import plan
from mlm_jax.command import cli
from mlm_jax.planner.compiler import example

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODED = [page for page in PAGES[1:] if "```python\n" in page.read_text()]
OWN = {"encoder": "mixer_tiny", "fusion": "product_tiny"}  # pages that write an experiment


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            mine = any(name in line for name in (*OWN.values(), "ablate.py product"))
            if line.startswith("    python experiments/") and "--help" not in line and not mine:
                yield page.name, line.partition("#")[0].strip()


@pytest.mark.parametrize("page", CODED, ids=lambda page: page.stem)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page one after the other, as they would be pasted."""
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(page)), page.name, "exec"), {"__name__": page.stem})


@pytest.fixture
def own(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The experiment whose files a page gives; it is found as if they had been written."""
    page = (ROOT / "docs" / f"{request.param}.md").read_text()
    files = dict(re.findall(r'```python title="(.*?)"\n(.*?)```', page, re.DOTALL))
    files["experiments/configs/vit_tiny.py"] = ""  # a name alone: the project's own is imported
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(config, "folder", lambda: tmp_path / "experiments" / "configs")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for package in (experiments, experiments.configs, experiments.ablations):
        place = tmp_path / Path(*package.__name__.split("."))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])
    yield OWN[request.param]
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("own", OWN, indirect=True)
def test_files_of_a_page_are_an_experiment(own: str) -> None:
    """As written it is built, saved and read again, and its loss can be told."""
    found = config.load(f"{own}:tiny")
    assert found.steps == 2
    assert config.from_json(config.to_json(found)) == found
    key, batch = jax.random.key(0), example(found)
    params = jax.eval_shape(found.model.init, key, batch)

    def loss(params, batch):
        return found.loss(found.model.apply(params, batch), batch)[0]

    assert jax.eval_shape(loss, params, batch).shape == ()
    cli(["--config", own, "--steps", "3"])


@pytest.mark.parametrize("own", ["encoder"], indirect=True)
def test_fields_of_the_mixer_are_keys(own: str) -> None:
    found, _ = cli(["--config", own, "--model.image.depth", "4"])
    assert found.model.image.depth == 4


@pytest.mark.parametrize("own", ["fusion"], indirect=True)
@pytest.mark.parametrize("tiny", [False, True])
def test_the_ablation_of_a_page_is_one(own: str, tiny: bool) -> None:
    found = plan.make("product", plan.load("product"), tiny=tiny)
    assert found.variants[-1].source == (f"{own}:tiny" if tiny else own)


def test_the_picture_to_ask_about_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [
        shlex.split(line)[2]
        for page in (ROOT / "README.md", ROOT / "docs" / "index.md")
        for line in page.read_text().splitlines()
        if line.startswith("    python -c ")
    ]
    assert len(said) == 2
    assert said[0] == said[1]
    monkeypatch.chdir(tmp_path)
    exec(said[0], {})
    assert Image.open("picture.png").size == (48, 48)


def test_the_example_of_readme_is_one_that_runs() -> None:
    (example,) = blocks(ROOT / "README.md")
    assert blocks(ROOT / "docs" / "python.md")[0] == example


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(("page", "command"), [*commands()])
def test_commands_are_understood(page: str, command: str) -> None:
    _, script, *words = shlex.split(command)
    assert (ROOT / script).is_file(), page
    if script == "experiments/train.py":
        alone = ("--coordinator", "--processes", "--process")
        told = [i for i, word in enumerate(words) if word in alone]
        cli([word for i, word in enumerate(words) if not {i, i - 1} & {*told}])
        return
    said = (ROOT / script).read_text()
    for word in words:
        if word.startswith("--") and not word.startswith(("--mesh", "--data", "--config")):
            name = word.removeprefix("--").replace("-", "_")
            assert re.search(rf"\b{name}\b", said), f"{page}: {script} knows no {word}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_what_is_named_is_there() -> None:
    """Files of the package that pages speak of."""
    for page in PAGES:
        for name in re.findall(r"`((?:mlm_jax|experiments)/[\w/]+\.py)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"

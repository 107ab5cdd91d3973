"""What README and the pages say to type: code is run, commands are read by the command line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlm_jax.command import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODED = [page for page in PAGES[1:] if "```python" in page.read_text()]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            mine = "--help" in line or "mixer_tiny" in line  # the reader's own experiment
            if line.startswith("    python experiments/") and not mine:
                yield page.name, line.partition("#")[0].strip()


@pytest.mark.parametrize("page", CODED, ids=lambda page: page.stem)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page one after the other, as they would be pasted."""
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(page)), page.name, "exec"), {"__name__": page.stem})


def test_the_example_of_readme_is_one_that_runs() -> None:
    (example,) = blocks(ROOT / "README.md")
    assert blocks(ROOT / "docs" / "python.md")[0] == example


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
            made = "experiments/configs/mixer_tiny.py"  # the reader writes it
            assert name == made or (ROOT / name).exists(), f"{page.name}: {name}"

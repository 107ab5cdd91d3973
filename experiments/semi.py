"""Captions from few labels and many pictures: pseudo-captions, filtered by the model itself.

python -m experiments.semi --out runs/semi [--fractions 1 10 100] [--seeds 0 1 2]

A teacher learns from the captions of a share of train. What its moving average says of further
pictures, whose own captions are not looked at, are pseudo-captions, and a student learns from both
(CapFilt, arXiv:2201.12086, section 3.3):

labelled    the teacher itself
unfiltered  every pseudo-caption
filtered    the share of them that the teacher's own matching finds likeliest
rounds      filtered once more, by the captions and the matching of the filtered student: offline
            self-training, the teacher of a round being the moving average of the one before

Every one of these trains from the seed, for the same number of steps, and is graded on the test
split of the world: all that differs is what it reads. Where a run is finished it is not run again,
and where one was stopped it goes on. The table is in OUT/table.md and OUT/table.json.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tyro

from mlm_jax import command
from mlm_jax.config import Config, UserError, load
from mlm_jax.data import sources
from mlm_jax.data.records import Source
from mlm_jax.data.transforms import decode_for
from mlm_jax.evaluate import evaluate
from mlm_jax.evaluators import matching
from mlm_jax.evaluators.texts import chunks, say
from mlm_jax.run import write
from mlm_jax.train import train
from mlm_jax.trained import Trained, open_trained
from mlm_jax.world import scene
from mlm_jax.world.grade import grade_caption

Method = Literal["labelled", "unfiltered", "filtered", "rounds"]
METHODS: tuple[Method, ...] = get_args(Method)
TEACHERS: dict[Method, Method] = {
    "unfiltered": "labelled", "filtered": "labelled", "rounds": "filtered"
}  # fmt: skip
FIGURES = ("caption/facts_f1", "caption/wholly_right")
SETTINGS = ("config", "unlabelled", "keep", "steps", "limit")


@dataclass(frozen=True)
class Arguments:
    """Captions from few labels and many pictures."""

    out: Path = Path("runs/semi")
    """The folder of runs, pseudo-captions and the table."""
    config: str = "match_tiny"
    """An experiment that captions and matches."""
    fractions: tuple[int, ...] = (1, 10, 100)
    """Percent of train that have captions; of 100 there is nothing else to learn from."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every cell is trained once with each."""
    unlabelled: int = 6_000
    """Pictures without captions, those of train that come after the labelled ones."""
    keep: float = 0.5
    """Share of the pseudo-captions that is kept where they are filtered."""
    steps: int = 400
    """Of each run."""
    limit: int = 1_000
    """Pictures of test that are graded."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(Arguments, args=list(argv), prog="semi.py", description=__doc__)
    config = replace(load(given.config), steps=given.steps)
    if not matching.learnt(config.model):
        raise UserError(f"--config {given.config}: it learns no matching (model.matching)")
    if config.data.name.partition("/")[0] != "world":
        raise UserError(f"--config {given.config}: its captions are not graded, those of world are")
    if not 0 < given.keep <= 1:
        raise UserError(f"--keep {given.keep}: over 0 and at most 1")
    experiment = Experiment(given, config)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        for fraction in given.fractions:
            for method in METHODS if fraction < 100 else METHODS[:1]:
                name = f"{fraction}-{method}"
                found.setdefault(name, []).append(experiment.cell(fraction, method, seed))
                write(given.out / "table.json", json.dumps(found, indent=2) + "\n")
                write(given.out / "table.md", table(found))
    print(table(found))
    return 0


class Experiment:
    """The cells of the table, each a run and what it is said to be worth."""

    def __init__(self, given: Arguments, config: Config):
        self.given, self.config = given, config
        self.settings = {key: getattr(given, key) for key in SETTINGS}
        given.out.mkdir(parents=True, exist_ok=True)

    def path(self, fraction: int, method: Method, seed: int) -> Path:
        return self.given.out / f"{fraction}-{method}-{seed}"

    def cell(self, fraction: int, method: Method, seed: int) -> dict[str, Any]:
        """Figures of a run, trained if it is not yet. Raises: UserError; KeyboardInterrupt."""
        path, data = self.path(fraction, method, seed), self.config.data
        done = path / "cell.json"
        if done.exists():
            return self.kept(done)
        labelled, unlabelled = self.splits(fraction)
        config, kept = replace(self.config, seed=seed), {}
        if method == "labelled":
            config = replace(config, data=replace(data, train=labelled))
        else:
            rows = path.with_suffix(".jsonl")
            teacher = self.path(fraction, TEACHERS[method], seed)
            keep = 1.0 if method == "unfiltered" else self.given.keep
            known, other = (sources.open_source(data, s) for s in (labelled, unlabelled))
            kept = write_rows(rows, open_trained(teacher), known, other, keep)
            own = replace(
                data,
                name=str(rows),
                images=(str(self.pictures()),),
                train="labelled+pseudo",
                test="labelled",
                tokenizer=str(teacher / "tokenizer.json"),
            )
            config = replace(config, data=own)
        if train(config, path):
            raise KeyboardInterrupt
        figures = evaluate(path, "test", limit=self.given.limit, name=data.name)
        values = {name: figure.value for name, figure in figures.items()}
        row = {"seed": seed, "figures": values, "pseudo": kept, "settings": self.settings}
        write(done, json.dumps(row, indent=2) + "\n")
        return row

    def kept(self, path: Path) -> dict[str, Any]:
        """A cell that was done before. Raises: UserError if it was with other settings."""
        row: dict[str, Any] = json.loads(path.read_text())
        for key, value in self.settings.items():
            was = row.get("settings", {}).get(key, "unknown")
            if was != value:
                raise UserError(f"{path}: its {key} is {was}, not {value}: name another --out")
        return row

    def splits(self, fraction: int) -> tuple[str, str]:
        """The labelled pictures and those whose captions are not looked at, in TFDS syntax."""
        name, end = self.config.data.train, self.ends(fraction)
        return f"{name}[:{end[0]}]", f"{name}[{end[0]}:{end[1]}]"

    def ends(self, fraction: int) -> tuple[int, int]:
        count = len(sources.open_source(self.config.data, self.config.data.train))
        labelled = max(round(fraction * count / 100), 1)
        return labelled, min(labelled + self.given.unlabelled, count)

    def pictures(self) -> Path:
        """All pictures that are labelled or told in some run, in the order of train, once."""
        count = max(self.ends(fraction)[1] for fraction in self.given.fractions if fraction < 100)
        path = self.given.out / f"pictures-{count}.npz"
        size = self.config.model.image.size
        if not path.exists():
            decode = decode_for(self.config.data, size)
            source = sources.open_source(self.config.data, f"{self.config.data.train}[:{count}]")
            part = path.with_suffix(".part.npz")
            np.savez(part, images=[decode(source[i].image) for i in range(count)])
            part.replace(path)
        return path


def write_rows(
    path: Path, teacher: Trained, labelled: Source, pseudo: Source, keep: float
) -> dict[str, float]:
    """A data set of the user's own kind: `labelled`, then what the teacher says of `pseudo`.

    The share `keep` of pseudo-captions that the teacher's own matching finds likeliest is kept.
    Gives back how many these are, and the share of them that is wholly right, which is known of
    the world and used for nothing else.
    """
    told = list(pseudo_captions(teacher, pseudo))
    if not told:
        raise UserError(f"{teacher.path} says nothing of any picture: more --steps")
    told.sort(key=lambda each: -each.probability)
    kept = sorted(told[: max(round(keep * len(told)), 1)], key=lambda each: each.place)
    first = len(labelled)
    rows = [
        {"image": i, "captions": list(labelled[i].captions), "split": "labelled"}
        for i in range(first)
    ]
    rows += [
        {"image": first + each.place, "captions": [each.text], "split": "pseudo"} for each in kept
    ]
    write(path, "".join(json.dumps(row) + "\n" for row in rows))
    right = [grade_caption(each.text, scene.from_json(each.truth)).wholly_right for each in kept]
    return {"captions": len(kept), "wholly_right": float(np.mean(right))}


class Pseudo(NamedTuple):
    """What was said of picture number `place`, and the probability that it tells it."""

    place: int
    text: str
    probability: float
    truth: str


def pseudo_captions(teacher: Trained, source: Source) -> Iterator[Pseudo]:
    """Greedy captions; empty ones, and those that do not end, are left out."""
    longest = teacher.config.data.target_length - 2  # beside bos and eos
    for chunk in chunks(teacher, source, None):
        asked = [each for each in chunk if each[0].kind == "caption"]
        said = zip(asked, say(teacher, asked, 1), strict=True)
        told = [(pair, matching.seen_in(arrays), each.text) for (pair, arrays), each in said]
        told = [each for each in told if 0 < len(teacher.tokenizer.encode(each[2])) <= longest]
        if not told:
            continue
        pairs, shown, texts = zip(*told, strict=True)
        found = matching.probabilities(teacher, shown, texts).tolist()
        for pair, text, probability in zip(pairs, texts, found, strict=True):
            yield Pseudo(pair.index, text, probability, pair.truth)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: the mean and standard deviation over seeds of each cell."""
    head = ["captions", "read", "F1 of facts", "wholly right", "pseudo-captions wholly right", "n"]
    lines = [head, ["---"] * len(head)]
    for name, rows in found.items():
        fraction, _, method = name.partition("-")
        figures = [spread([row["figures"][key] for row in rows]) for key in FIGURES]
        pseudo = [row["pseudo"]["wholly_right"] for row in rows if row["pseudo"]]
        share = spread(pseudo) if pseudo else ""
        lines.append([f"{fraction} %", method, *figures, share, str(len(rows))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float]) -> str:
    """ "0.812 ± 0.013"; of one value alone, without."""
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


if __name__ == "__main__":
    sys.exit(command.main(main))

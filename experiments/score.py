"""Score files of captions, answers or similarities as the public benchmarks do, without Java.

    score.py --metric coco --references captions_val2014.json --candidates mine.json
        [--df corpus|FILE] [--subset] [--json out.json] [--per-image out.jsonl]
    score.py --metric vqa --references annotations.json --candidates results.json
    score.py --metric retrieval --candidates similarity.npy [--references owners.json]
    score.py --metric pope --references questions.jsonl --candidates answers.jsonl
    score.py --metric pope --objects instances.json --absent popular --out questions.jsonl

    coco       BLEU, ROUGE-L, CIDEr-D, CIDEr, exact part of METEOR, of the COCO scorer's words
    vqa        accuracy among ten people, of all questions and by kinds
    retrieval  recall@k of a table with a row for each picture and a column for each caption
    pope       is there an object? (arXiv:2305.10355); with --objects the questions are made

Every figure has a 95 % interval, from pictures drawn again.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from mlm_jax import command
from mlm_jax.config import UserError

SHOWN = 3  # captions of the best, and of the worst
LINE = 200  # characters of one

Metric = Literal["coco", "vqa", "retrieval", "pope"]
SINGLE = ("candidates", "references", "subset", "json", "per_image")
READ = {
    "coco": (*SINGLE, "df"),
    "vqa": SINGLE,
    "retrieval": ("candidates", "references", "json"),
    "pope": SINGLE,
    "pope --objects": ("objects", "absent", "seed", "out"),
}
"""Options that are read, by the metric."""


@dataclass(frozen=True)
class Arguments:
    """Score files as the public benchmarks do."""

    metric: Metric
    candidates: Path | None = None
    """What a model says: captions, answers, or a .npy of similarities."""
    references: Path | None = None
    """What people say: captions, answers, labels; of retrieval the picture of each caption."""
    df: str = "corpus"
    """What tells CIDEr how common words are: the references, another FILE like them, or one of
    document frequencies, {"documents": 5000, "frequencies": {"a dog": 120}}."""
    subset: bool = False
    """Score what has a candidate, where others have none."""
    json: Path | None = None
    """Write all figures there."""
    per_image: Path | None = None
    """Write the scores of each picture, or question, there: a JSON object a line."""
    objects: Path | None = None
    """Pictures with their objects, to ask about."""
    absent: Literal["random", "popular", "adversarial"] = "adversarial"
    """How objects are chosen that are not there."""
    seed: int = 0
    """What is drawn of objects."""
    out: Path | None = None
    """Where the questions go."""


def main(argv: Sequence[str]) -> int:
    given = tyro.cli(
        Arguments, args=list(argv), prog="score.py", description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    refuse_unread(given)
    for name in ("json", "per_image", "out"):
        path = getattr(given, name)
        if path is not None and not path.parent.is_dir():
            raise UserError(f"{option(name)} {path}: there is no folder {path.parent}")
    if given.objects is not None:
        return ask(given)
    {"coco": coco, "vqa": vqa, "retrieval": retrieval, "pope": pope}[given.metric](given)
    return 0


def refuse_unread(given: Arguments) -> None:
    """Raises: UserError for what would be passed over in silence."""
    asks = given.metric == "pope" and given.objects is not None
    metric = "pope --objects" if asks else given.metric
    said = [each.name for each in fields(given) if getattr(given, each.name) != each.default]
    unread = [option(name) for name in said if name not in ("metric", *READ[metric])]
    if unread:
        raise UserError(f"--metric {metric} does not read {', '.join(unread)}")


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def coco(given: Arguments) -> None:
    from mlm_jax.scorers import captions, files
    from mlm_jax.terminal import printable

    references = files.read_references(needed(given, "references"))
    candidates = files.read_candidates(needed(given, "candidates"))
    files.matching(references, candidates, subset=given.subset)
    others = None if given.df == "corpus" else files.read_common(Path(given.df))
    scores = captions.score(candidates, references, others)
    columns = {name: column.tolist() for name, column in scores.per_picture.items()}
    save(given, scores.figures, (
        {"image_id": name, "caption": candidates[name]} | dict(zip(columns, row, strict=True))
        for name, row in zip(candidates, zip(*columns.values(), strict=True), strict=True)
    ))  # fmt: skip
    show(scores.figures, f"{len(candidates):,} captions")
    order = sorted(zip(columns["CIDEr-D"], candidates, strict=True), reverse=True)
    for title, part in (("best", order[:SHOWN]), ("worst", order[SHOWN:][-SHOWN:])):
        print(f"{title} by CIDEr-D")
        for value, name in part:
            shown = [printable(text[:LINE]) for text in (candidates[name], references[name][0])]
            print(f"  {value:.3f} {printable(name)}: {shown[0]}  (one of {shown[1]})")


def vqa(given: Arguments) -> None:
    from mlm_jax.scorers import files
    from mlm_jax.scorers import vqa as scorer

    asked = files.read_asked(needed(given, "references"))
    answers = files.read_answers(needed(given, "candidates"))
    files.matching(asked, answers, subset=given.subset, what="question")
    scores = scorer.score(answers, asked)
    save(given, scores.figures, (
        {"question_id": name, "answer": answers[name], "accuracy": value}
        for name, value in scores.per_question.items()
    ))  # fmt: skip
    plain = {name: each for name, each in scores.figures.items() if "/question/" not in name}
    show(plain, f"answers to {len(answers):,} questions")
    if len(plain) < len(scores.figures):
        print(f"{len(scores.figures) - len(plain)} kinds of questions: --json FILE has each")


def retrieval(given: Arguments) -> None:
    from mlm_jax.scorers import files
    from mlm_jax.scorers import retrieval as scorer

    similarity = files.read_similarity(needed(given, "candidates"))
    owners = files.read_owners(given.references, similarity)
    figures = scorer.score(similarity, owners)
    save(given, figures, None)
    show(figures, "{:,} pictures, {:,} captions".format(*similarity.shape))


def pope(given: Arguments) -> None:
    from mlm_jax.scorers import files, objects

    asked = files.read_questions(needed(given, "references"))
    answers = files.read_answers(needed(given, "candidates"))
    files.matching(asked, answers, subset=given.subset, what="question")
    right = {name: objects.said_yes(text) == asked[name].label for name, text in answers.items()}
    figures = objects.score(answers, asked)
    save(given, figures, (
        {"question_id": name, "answer": answer, "right": right[name]}
        for name, answer in answers.items()
    ))  # fmt: skip
    show(figures, f"{len(answers):,} questions about objects")


def ask(given: Arguments) -> int:
    """Questions of POPE, of annotated pictures."""
    from mlm_jax.run import write
    from mlm_jax.scorers import files, objects

    pictures = files.read_objects(needed(given, "objects"))
    found = objects.questions(pictures, given.absent, seed=given.seed)
    if not found:
        raise UserError(
            f"{given.objects}: no picture has more than {objects.PRESENT} kinds of objects and"
            " lacks another"
        )
    out = needed(given, "out")
    write(out, "".join(f"{json.dumps(row)}\n" for row in objects.as_rows(found)))
    print(f"{out}: {len(found):,} questions of {len({q.picture for q in found}):,} pictures")
    return 0


def needed(given: Arguments, name: str) -> Path:
    path: Path | None = getattr(given, name)
    if path is None:
        raise UserError(f"--metric {given.metric} needs --{name} FILE")
    return path


def save(
    given: Arguments, figures: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] | None
) -> None:
    from mlm_jax.run import write

    if given.json is not None:
        tree = {name: asdict(figure) for name, figure in figures.items()}
        write(given.json, json.dumps(tree, indent=2, allow_nan=False) + "\n")
    if given.per_image is not None and rows is not None:
        write(given.per_image, "".join(f"{json.dumps(row)}\n" for row in rows))


def show(figures: Mapping[str, Any], title: str) -> None:
    from mlm_jax.report import print_figures

    print_figures(figures, title)


if __name__ == "__main__":
    sys.exit(command.main(main))

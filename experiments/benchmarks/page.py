"""The page of figures, made of a file of results."""

from collections.abc import Iterator, Mapping
from typing import Any

FORMULA = (
    "matmul FLOPs only, 2 per multiply-add, training 3 x forward, recomputation not counted; "
    "attention in full, and `halved` where it is causal; MFU = FLOPs / seconds / peak"
)

# Beginning of a row's name -> what must be reached, what is aimed at. "x": a rate over the best
# rate of the other side, higher is better; otherwise a time over the best time, lower is better.
TARGETS = {
    "ViT-B/16, forward, batch 8": ("1.25", "1.0"),
    "ViT-B/16, train step, batch 8": ("1.25", "1.0"),
    "BERT-base 128 tokens, forward": ("1.20", "1.0"),
    "CLIP B/32, forward": ("1.10", "0.9"),
    "attention, 8 x 197 tokens x 12 heads x 64, forward": ("1.5", "1.05"),
    "attention, 2 x 512 tokens x 12 heads x 64, forward": ("1.5", "1.05"),
    "GPT-2 small, greedy, batch 1,": ("1.3x", "2x"),
    "GPT-2 small, greedy, batch 8,": ("1.1x", "1.5x"),
    "BLIP-base captions, beam 1, batch 8": ("1.2x", "2x"),
    "BLIP-base captions, beam 3, batch 8": ("1.2x", "2x"),
    "pictures at 224 px": ("1.0x", "1.5x"),
    "checkpoint, 100 M parameters": ("1 s", "0.2 s"),
    "ViT-B/16, train step, batch": ("35 %", "50 %"),
    "CLIP B/16, train step": ("33 %", "46 %"),
    "BERT-base 512, train step": ("38 %", "52 %"),
    "GPT-2 1024, train step": ("33 %", "47 %"),
    "multimodal base, train step": ("30 %", "45 %"),
}


def page(results: Mapping[str, Any], source: str) -> str:
    """Markdown."""
    return "\n".join([*head(results, source), *tables(results), *foot(results), ""])


def head(results: Mapping[str, Any], source: str) -> list[str]:
    m = results["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    flags = ", ".join(f"{k}={v}" for k, v in m["flags"].items()) or "none"
    return [
        "# Figures",
        "",
        f"Made from `{source}` by `python -m experiments.benchmarks --json {source} --markdown"
        " PAGE`; not edited by hand.",
        "",
        f"- machine: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, accelerator:"
        f" {m['accelerator']}; {m['threads']} threads for each side, on as many cores",
        f"- Python {m['python']}, {versions}",
        f"- flags: {flags}",
        "- Both sides have the same random weights and inputs, and their outputs were compared"
        " before anything was timed (`difference`: the largest). They ran in turns, in one process."
        " `ratio`: our median time over that of the best of eager and compiled, below 1 is faster;"
        " `rounds`: least and largest ratio of one round. Rates say how many times the best other's"
        " rate.",
        f"- FLOPs: {results['formula']}",
        "",
    ]


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for part in results["parts"].values() for row in part.get("rows", [])]
    kinds = {
        "Side by side": ([r for r in rows if "ratio" in r], beside),
        "Training on one accelerator": ([r for r in rows if "tflops_per_second" in r], trained),
        "From the start of a process, seconds": ([r for r in rows if "stages" in r], started),
        "Memory of a training step, GiB": ([r for r in rows if "gib" in r], held),
        "Checkpoints": ([r for r in rows if "stall" in r], stalled),
    }
    for title, (chosen, table) in kinds.items():
        if chosen:
            yield from [f"## {title}", "", *lined(table(chosen)), ""]


def lined(cells: list[list[str]]) -> list[str]:
    ruled = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return [f"| {' | '.join(line)} |" for line in ruled]


def beside(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["what", "ours", "eager or DataLoader", "compiled", "ratio", "rounds", "rate",
              "must", "aim", "difference", "spread", "load"]]  # fmt: skip
    for row in rows:
        taken = row["seconds"]
        compiled = next((taken[k] for k in taken if k.endswith("compiled")), None)
        other = taken.get("eager") or taken.get("DataLoader") or {}
        must, aim = target(row["what"])
        least, most = row["by_round"]
        table.append([
            row["what"], time_of(taken["ours"]), time_of(other), time_of(compiled or {}),
            f"**{row['ratio']:.3g}**", f"{least:.3g} to {most:.3g}", rated(row), must, aim,
            differed(row), f"{100 * taken['ours']['spread']:.2g} %", str(row["load"]),
        ])  # fmt: skip
    return table


def rated(row: Mapping[str, Any]) -> str:
    if "times" not in row:
        return ""
    return f"{row['rate']['ours']:.4g} {row['unit']}, {row['times']:.3g}x"


def differed(row: Mapping[str, Any]) -> str:
    if "same_words" in row:
        return f"{100 * row['same_words']:.4g} % of words equal"
    found = row["difference"].values()
    return f"{max(found):.1e}" if found else "not comparable"


def time_of(summary: Mapping[str, Any]) -> str:
    """A median, in ms under a second."""
    if not summary:
        return ""
    s = summary["median"]
    return f"{s:.3g} s" if s >= 1 else f"{1000 * s:.3g} ms"


def trained(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["what", "step", "examples/s", "TFLOP/s", "MFU", "causal halved", "must", "aim"]]
    for row in rows:
        must, aim = target(row["what"].replace("batch 8", "batch"))
        share = [f"{100 * row[k]:.3g} %" if k in row else "" for k in ("mfu", "mfu_halved")]
        table.append([row["what"], time_of(row["seconds"]["ours"]), str(row["examples_per_second"]),
                      str(row["tflops_per_second"]), *share, must, aim])  # fmt: skip
    return table


def started(rows: list[dict[str, Any]]) -> list[list[str]]:
    names = list(next(iter(rows[0]["stages"].values())))
    table = [["what", "compiled programs", *names]]
    for row in rows:
        for kind, at in row["stages"].items():
            table.append([row["what"], kind, *(str(at.get(name, "")) for name in names)])
    return table


def held(rows: list[dict[str, Any]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for row in rows for name in row["gib"]))
    return [["what", *names], *([row["what"], *(str(row["gib"].get(n, "")) for n in names)]
                                for row in rows)]  # fmt: skip


def stalled(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["what", "stall, median", "least", "until written", "must", "aim"]]
    for row in rows:
        stall, whole = row["stall"], row["written"]
        table.append([row["what"], time_of(stall), f"{stall['minimum']:.3g} s", time_of(whole),
                      *target(row["what"])])  # fmt: skip
    return table


def target(what: str) -> tuple[str, str]:
    return next((wanted for start, wanted in TARGETS.items() if what.startswith(start)), ("", ""))


def foot(results: Mapping[str, Any]) -> Iterator[str]:
    notes = [f"- {name}: left out, {why}" for name, why in results.get("left_out", {}).items()]
    for name, part in results["parts"].items():
        if "problem" in part:
            notes.append(f"- {name}: {' '.join(part['problem'].split())[-300:]}")
        for row in part.get("rows", []):
            for kind, why in row.get("impossible", {}).items():
                notes.append(f"- {row['what']}: {kind} is impossible here: {why.split(chr(10))[0]}")
    if notes:
        yield from ["## Not measured", "", *notes, ""]


def brief(row: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    if "ratio" in row:
        return f"{row['what']}: {row['ratio']:.3g} of {row['best']} {rated(row)}".rstrip()
    for name in ("stages", "gib", "stall", "mfu", "tflops_per_second"):
        if name in row:
            return f"{row['what']}: {name} {row[name]}"
    return str(row.get("what", row))

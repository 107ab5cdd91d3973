"""The page of figures, made of a file of results."""

from collections.abc import Iterator, Mapping
from typing import Any

FORMULA = (
    "matmul FLOPs only, 2 per multiply-add, training 3 x forward, recomputation not counted; "
    "attention in full, and `halved` where it is causal; MFU = FLOPs / seconds / peak"
)

# Device -> beginning of a row's name -> what must be reached, what is aimed at. "x": a rate over
# the other side's best, "%": MFU, otherwise a time over the other side's best time.
TARGETS = {
    "cpu": {
        "ViT-B/16, forward": ("1.25", "1.0"),
        "ViT-B/16, train step": ("1.25", "1.0"),
        "BERT-base 128 tokens, forward": ("1.20", "1.0"),
        "CLIP B/32, forward": ("1.10", "0.9"),
        "attention, 8 x 197 tokens x 12 heads x 64, forward": ("1.5", "1.05"),
        "attention, 2 x 512 tokens x 12 heads x 64, forward": ("1.5", "1.05"),
        "GPT-2 small, greedy, batch 1,": ("1.3x", "2x"),
        "GPT-2 small, greedy, batch 8,": ("1.1x", "1.5x"),
        "BLIP-base captions": ("1.2x", "2x"),
        "DALL-E, greedy, batch 16,": ("8x", "20x"),
        "UNet, 48 px": ("1.3", "1.0"),
        "DiT, 48 px": ("1.3", "1.0"),
        "pictures at 224 px": ("1.0x", "1.5x"),
        "checkpoint, 100 M parameters": ("1 s", "0.2 s"),
    },
    "gpu": {
        "MFU of ViT-B/16": ("35 %", "50 %"),
        "MFU of CLIP B/16": ("33 %", "46 %"),
        "MFU of BERT-base 512": ("38 %", "52 %"),
        "MFU of GPT-2 1024": ("33 %", "47 %"),
        "MFU of multimodal base": ("30 %", "45 %"),
        "GPT-2 small, greedy, batch 1,": ("800 words/s", "2,500 words/s"),
        "GPT-2 small, greedy, batch 32,": ("18,000 words/s", "55,000 words/s"),
    },
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
        f" {m['accelerator']}; {m['threads']} threads for each side, on as many cores;"
        f" {m['precision']}",
        f"- Python {m['python']}, {versions}",
        f"- flags: {flags}",
        "- Both sides have the same random weights and inputs, and their outputs were compared"
        " before anything was timed (`difference`: the largest). They ran in turns, in one process."
        " `ratio`: our median time over that of the best of eager and compiled, below 1 is faster;"
        " `of processor`: ratio of the processor's seconds, which other work beside this one does"
        " not lengthen. `rounds`: least and largest ratio of one round. Beside a rate stands how"
        " many times the other side's best it is. `spread`: distance of our quartiles over our"
        " median. `load`: processes that wanted to run, over the last minute; where they are more"
        " than the cores, torch, whose threads wait for each other, loses more than XLA.",
        f"- FLOPs: {results['formula']}",
        "",
    ]


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        row | {"wanted": target(row["what"], results["machine"]["device"])}
        for part in results["parts"].values()
        for row in part.get("rows", [])
    ]
    kinds = {
        "Side by side": ("ratio", beside),
        "Training on one accelerator": ("tflops_per_second", trained),
        "From the start of a process, seconds": ("stages", started),
        "Memory of a training step, GiB": ("gib", held),
        "Checkpoints": ("stall", stalled),
    }
    for title, (key, table) in kinds.items():
        chosen = [row for row in rows if key in row]
        if chosen:
            yield from [f"## {title}", "", *lined(table(chosen)), ""]


def lined(cells: list[list[str]]) -> list[str]:
    ruled = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return [f"| {' | '.join(line)} |" for line in ruled]


def beside(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["what", "ours", "the other side", "ratio", "of minima", "of processor", "rounds",
              "rate", "must", "aim", "difference", "spread", "load"]]  # fmt: skip
    for row in rows:
        taken = dict(row["seconds"])
        ours = taken.pop("ours")
        others = "; ".join(f"{name} {time_of(s)}" for name, s in taken.items())
        least, most = row["by_round"]
        table.append([
            row["what"], time_of(ours), others, f"**{row['ratio']:.3g}** of {row['best']}",
            f"{row['ratio_of_minima']:.3g}", f"{row.get('processor_ratio', '')}",
            f"{least:.3g} to {most:.3g}", rated(row), *row["wanted"], differed(row),
            f"{100 * ours['spread']:.2g} %", str(row["load"]),
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
    s = summary["median"]
    return f"{s:.3g} s" if s >= 1 else f"{1000 * s:.3g} ms"


def trained(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["what", "step", "examples/s", "TFLOP/s", "MFU", "causal halved", "must", "aim"]]
    for row in rows:
        share = [f"{100 * row[k]:.3g} %" if k in row else "" for k in ("mfu", "mfu_halved")]
        rate = [str(row[k]) for k in ("examples_per_second", "tflops_per_second")]
        table.append([row["what"], time_of(row["seconds"]["ours"]), *rate, *share, *row["wanted"]])
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
                      *row["wanted"]])  # fmt: skip
    return table


def target(what: str, device: str) -> tuple[str, str]:
    """Of a row: what must be reached and what is aimed at, "" where nothing is asked."""
    found = (wanted for start, wanted in TARGETS[device].items() if what.startswith(start))
    return next(found, ("", ""))


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

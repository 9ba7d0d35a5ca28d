"""Size, FLOPs, latency and memory of really pruned models, and what scoring takes (the paper's appendix E)."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.efficiency import (
    COSTS,
    ENDS,
    NEEDS,
    OF_TINYBERT,
    PAPER_FLOPS,
    SCORED_NUMBERS,
    SCORED_ON,
    SCORING_NEEDS,
    load,
    load_scoring,
)
from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.text.captions import percent

COST_UNITS = {"parameters": (1e6, "M"), "flops": (1e9, "G"), "peak_bytes": (1e6, "MB"), "cache_bytes": (1e6, "MB")}
COST_KEYS = ["model", "device", "threads", "batch", "tokens", "rounds", "ratio", "heads_total", "heads_removed"]
COSTS_NOTE = (
    "A line without removed heads: the dense model; the others in percent of it. Random weights, heads removed at "
    "random. Latency: seconds within a round, in which the dense and the pruned model take turns; median [quartiles] "
    "over rounds. Gap: how far the latency lies above (+) or below what the FLOPs promise, in percent of that. Paper: "
    'what appendix E.1 says of TinyBERT, with "about". Blank: no cache, or no number in the paper.'
)


@table(
    "costs",
    about="Parameters, FLOPs, latency, peak memory and key/value cache of really pruned models, in percent of dense.",
    needs=NEEDS,
    per=("device",),
    load=load,
)
def costs_table(rows: pd.DataFrame) -> Table:
    """Returns a line for each model and ratio."""
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are only measurements of dense models")
    shares = [f"{name}_percent" for name in (*COSTS, *ENDS)]
    data = rows[[*COST_KEYS, *COST_UNITS, "seconds", *shares]].copy()
    data["gap_percent"] = 100 * (data["latency_percent"] / data["flops_percent"] - 1)
    data["paper_flops_percent"] = [_paper(row) for row in rows.to_dict("records")]
    shown = pd.DataFrame([_line(row) for row in data.to_dict("records")])
    models = rows.drop_duplicates("model").to_dict("records")
    settings = "; ".join("{model}: {batch} x {tokens} tokens, {threads} thread(s)".format(**row) for row in models)
    return Table(shown, data, f"What really pruned models cost on {rows['device'].iloc[0]}. {settings}. {COSTS_NOTE}")


@table(
    "scoring",
    about="Seconds of scoring heads, in forward passes and in training steps over the same examples.",
    needs=SCORING_NEEDS,
    per=("device",),
    load=load_scoring,
)
def scoring_table(rows: pd.DataFrame) -> Table:
    """Returns a line for each model and way."""
    passes = rows.apply(lambda row: f"{row['passes']:.2f} [{row['passes_low']:.2f}, {row['passes_high']:.2f}]", axis=1)
    shown = pd.DataFrame({
        "model": rows["model"], "way": rows["way"], "ms": (1e3 * rows["seconds"]).map("{:.0f}".format),
        "forward passes": passes, "training steps": rows["training_steps"].map("{:.2f}".format),
    })  # fmt: skip
    words = (
        "{model}: {texts} texts of {tokens} tokens, {threads} thread(s), load {load} on {cores} cores, {rounds} rounds"
    )
    settings = "; ".join(words.format(**row) for row in rows.drop_duplicates("model").to_dict("records"))
    text = f"What scoring heads takes on {rows['device'].iloc[0]}. {settings}. Median over rounds; in forward passes "
    text += "and training steps within a round, in which all ways take turns; brackets: quartiles. Appendix E.2: "
    text += '"a few seconds", no further forward or backward pass.'
    return Table(shown, rows[[*SCORED_ON, *SCORED_NUMBERS]], text)


def _paper(row: dict[Hashable, Any]) -> float:
    values = [value for ratio, value in PAPER_FLOPS.items() if abs(ratio - row["ratio"]) < 1e-6]
    return values[0] if values and row["architecture"] == "bert" else np.nan


def _line(row: dict[Hashable, Any]) -> dict[str, str]:
    line = {"model": row["model"], "removed": percent(row["ratio"]), **{COSTS[name]: "" for name in COSTS}}
    if not row["ratio"]:
        absolute = {COSTS[name]: _text(row[name] / unit, f" {word}") for name, (unit, word) in COST_UNITS.items()}
        return line | absolute | {"latency": f"{1e3 * row['seconds']:.0f} ms", "gap": "", OF_TINYBERT: ""}
    relative = {COSTS[name]: _text(row[f"{name}_percent"]) for name in COSTS}
    low, high = (row[f"{end}_percent"] for end in ENDS)
    relative["latency"] += f" [{low:.1f}, {high:.1f}]"
    return line | relative | {"gap": f"{row['gap_percent']:+.1f}", OF_TINYBERT: _text(row["paper_flops_percent"])}


def _text(value: float, unit: str = "") -> str:
    return "" if pd.isna(value) else f"{value:.1f}{unit}"

"""The paper's tables 1, 2, 7 and 8, its numbers beside ours: what each method keeps, and whether HIS and AE agree."""

from functools import partial

import numpy as np
import pandas as pd

from analysis import paper
from analysis.data.scores import load_scores
from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.stats.intervals import summarise
from analysis.stats.pairing import one_calibration_size
from analysis.tables import beside
from analysis.tables.beside import AVERAGE, BERT, BLANK_NOTE, LLAMA, ONE_SIZE, OURS, PAPER, Printed, printed_of
from analysis.text import choice
from analysis.text.captions import caption, number, percent
from analysis.text.labels import CRITERION_NAMES, GLUE_NAMES, label, ordered_curves, task_name

METHOD_RATIOS = (0.1, 0.3, 0.5)
# Our curves under the name of the method in the paper, in the paper's order.
PRINTED_NAMES = {
    **{CRITERION_NAMES[name]: CRITERION_NAMES[name]
       for name in ("random", "ad", "his", "l2", "llm_pruner_channel", "llm_pruner_block")},
    **{label("slicegpt", {"tune": tune}): label("slicegpt", {"tune": tune}) for tune in (False, True)},
    label("hies", {"alpha": "per_ratio"}): "HIES",
}  # fmt: skip
UNPRUNED, UNPRUNED_IN_PAPER = "unpruned", "BERT"
CELL = ["ratio", "criterion", "task"]
OF_EACH = "of each criterion on GLUE at 10, 30 and 50 %, the paper's numbers (BERT-base) beside ours."
# The paper's column -> its name for readers; u is HIS divided by its sum over all heads, v is AE.
MOMENTS = {
    "mean_u_his": "E[u]",
    "mean_v_ae": "E[v]",
    "cov_uv": "Cov(u, v)",
    "mean_inner_product": "E[uv]",
    "correlation": "correlation",
}
OF_SCORES = "Orthogonality of HIS and AE over the heads, the paper's numbers"


@table("table1", f"Quality {OF_EACH}", f"rows of GLUE tasks {ONE_SIZE}")
def table1(rows: pd.DataFrame) -> Table:
    """Returns quality in percent as the paper maps it."""
    title = (
        "Quality (%: accuracy; MRPC: F1; CoLA and STS-B: a correlation r as (r + 1) / 2), beside the paper's table 1"
    )
    return _methods_table(rows, "quality", paper.read_paper("table1_bert_glue_quality"), title)


@table("table2", f"Stability {OF_EACH}", f"rows of GLUE tasks {ONE_SIZE}")
def table2(rows: pd.DataFrame) -> Table:
    """Returns the agreement with the unpruned model in percent."""
    title = (
        "Stability (%, agreement with the unpruned model), beside the paper's table 2, whose one line LLM-Pruner is "
        "set beside the block-wise method"
    )
    names = {"LLM-Pruner": CRITERION_NAMES["llm_pruner_block"]}
    printed = paper.read_paper("table2_bert_glue_stability").replace({"method": names})
    return _methods_table(rows, "stability", printed, title)


def _methods_table(rows: pd.DataFrame, measure: str, printed: pd.DataFrame, title: str) -> Table:
    """The paper's number above ours for each criterion and ratio; further curves of ours stand alone."""
    rows = one_calibration_size(rows[rows["task"].isin(GLUE_NAMES)])
    pruned = beside.at_ratios(rows, METHOD_RATIOS, GLUE_NAMES)
    if not pruned["curve"].isin(PRINTED_NAMES).any():
        raise Unavailable(f"there are no rows of GLUE at 10, 30 or 50 % for any of {', '.join(PRINTED_NAMES)}")
    lines = [(ratio, curve) for ratio in METHOD_RATIOS for curve in [*PRINTED_NAMES, *_further(pruned)]]
    paper = printed.set_index(["ratio", "method", "task"])[f"{measure}_percent"].to_dict()
    if (0.0, UNPRUNED_IN_PAPER, AVERAGE) in paper:
        lines = [(0.0, UNPRUNED), *lines]
    cells = pd.DataFrame([(*line, task) for line in lines for task in (*GLUE_NAMES, AVERAGE)], columns=CELL)
    names = {**PRINTED_NAMES, UNPRUNED: UNPRUNED_IN_PAPER}
    keys = zip(cells["ratio"], cells["criterion"].map(names), cells["task"], strict=True)
    cells[PAPER] = [paper.get(key, np.nan) for key in keys]
    data = cells.merge(_ours(pruned, rows, measure), on=CELL, how="left").fillna({"n": 0, "seeds": 0})
    data = data.astype({"n": int, "seeds": int})
    used = rows[rows["curve"].isin([curve for _, curve in lines])]
    text = f"{title}: {caption(used)}. {_note(data)}{beside.missing_tasks(pruned, GLUE_NAMES)}"
    return Table(_two_lines(data), data, text)


def _ours(pruned: pd.DataFrame, rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean, n (defined values) and seeds of each ratio, curve and task, and the averages that all tasks have."""
    unpruned = rows[rows["ratio"] == 0].assign(curve=UNPRUNED).drop_duplicates(["task", "seed"])
    points = summarise(pd.concat([pruned, unpruned]), measure, ["ratio", "curve", "task"])
    points = points.rename(columns={"curve": "criterion", "mean": OURS})[[*CELL, OURS, "n", "seeds"]]
    whole = points.groupby(CELL[:2]).filter(lambda part: part["task"].nunique() == len(GLUE_NAMES))
    averages = whole.groupby(CELL[:2], as_index=False).agg(
        {OURS: lambda means: means.mean(skipna=False), "seeds": "min"}
    )
    return pd.concat([points, averages.assign(task=AVERAGE, n=averages["seeds"])])


def _further(rows: pd.DataFrame) -> list[str]:
    """Our curves that the paper has no line for; single numbers for alpha only where none was chosen."""
    alphas = rows["alpha"] if "alpha" in rows else pd.Series(np.nan, index=rows.index)
    chosen = alphas.map(lambda alpha: isinstance(alpha, str)).any()
    fixed = set(rows.loc[alphas.map(choice.is_number), "curve"]) if chosen else set()
    return [curve for curve in ordered_curves(rows) if curve not in PRINTED_NAMES and curve not in fixed]


def _two_lines(data: pd.DataFrame) -> pd.DataFrame:
    """Two lines for what the paper has, one for what it has not, none for what neither side has."""
    there = data.groupby(["ratio", "criterion"])[[PAPER, OURS]].transform("count") > 0
    both = beside.on_both_sides(data[there.any(axis=1)])
    both = both[(both["numbers"] == OURS) | there[PAPER].reindex(both.index)]
    removed = both["ratio"].map(percent)
    return beside.side_by_side(both.assign(removed=removed), ["removed", "criterion", "numbers"], _mean_of_task)


def _mean_of_task(row: dict) -> dict[str, str]:
    text = number(row[row["numbers"]])
    partly = row["numbers"] == OURS and text and row["n"] != row["seeds"]
    return {task_name(row["task"]): f"{text} (n = {row['n']})" if partly else text}


def _note(data: pd.DataFrame) -> str:
    undefined = data[(data["n"] == 0) & (data["seeds"] > 0) & (data["task"] != AVERAGE)]
    cells = [f"{task_name(row.task)} at {percent(row.ratio)} for {row.criterion}" for row in undefined.itertuples()]
    text = f" Undefined for all draws (constant predictions): {', '.join(cells)}." if cells else ""
    averages = beside.averages_note([*GLUE_NAMES])
    return f"Paper: BERT-base. Ours: mean over draws. {beside.BLANK_NOTE}; {averages}.{text}"


def _orthogonality_table(rows: pd.DataFrame, printed: Printed, heads: str) -> Table:
    """Means over draws of statistics over all heads of the model, the paper's, which has so many heads, above ours."""
    rows = rows[(rows["criterion"] == "his") & rows["task"].isin(printed.tasks)]
    if rows.empty:
        raise Unavailable(f"there are no rows of his on {printed.kind}")
    runs = one_calibration_size(rows).drop_duplicates("run_id")
    if runs.duplicated(["task", "seed"]).any():
        raise Unavailable(f"it cannot choose between several curves: {', '.join(sorted(runs['curve'].unique()))}")
    ours = {str(task): _mean_over_seeds(part) for task, part in runs.groupby("task")}
    nothing = {**dict.fromkeys(MOMENTS, np.nan), "seeds": 0}
    theirs = printed.numbers.set_index("task")
    data = pd.DataFrame(
        {"task": task, "statistic": name, PAPER: theirs.loc[task, name], OURS: own[name], "seeds": own["seeds"]}
        for task in printed.tasks
        for own in [ours.get(task, nothing)]
        for name in MOMENTS
    )
    text = (
        f"Orthogonality, beside the paper's table {printed.table} ({printed.model}, {heads} heads): {caption(rows)}. "
        "u: HIS divided by its sum over all heads; v: AE; moments over the heads, mean over draws. "
        f"{BLANK_NOTE}.{beside.missing_tasks(rows, printed.tasks)}"
    )
    named = beside.on_both_sides(data.assign(task=data["task"].map(task_name)))
    shown = beside.side_by_side(
        named, ["task", "numbers"], lambda row: {MOMENTS[row["statistic"]]: number(row[row["numbers"]], ".2E")}
    )
    return Table(shown, data, text)


table7 = table(
    "table7",
    f"{OF_SCORES} (BERT-base) beside ours.",
    f"rows and score files of his on GLUE tasks {ONE_SIZE}",
)(partial(_orthogonality_table, printed=printed_of(7, "table7_8_orthogonality", BERT), heads="144"))
table8 = table(
    "table8",
    f"{OF_SCORES} (LLaMA-2-7B) beside ours.",
    f"rows and score files of his on HellaSwag, WinoGrande, ARC or OBQA {ONE_SIZE}",
)(partial(_orthogonality_table, printed=printed_of(8, "table7_8_orthogonality", LLAMA), heads="1,024"))


def orthogonality(his: np.ndarray, ae: np.ndarray) -> dict[str, float]:
    """Returns the statistics of tables 7 and 8 of two scores [heads]; the correlation is NaN where one is constant."""
    u, v = his / his.sum(), ae
    covariance = float(np.mean(u * v) - u.mean() * v.mean())
    deviations = float(u.std() * v.std())
    correlation = covariance / deviations if deviations > 0 else np.nan
    moments = (float(u.mean()), float(v.mean()), covariance, float(np.mean(u * v)), correlation)
    return dict(zip(MOMENTS, moments, strict=True))


def _mean_over_seeds(runs: pd.DataFrame) -> dict[str, float]:
    seeds = []
    for row in runs.to_dict("records"):
        values = load_scores({"path": row["path"]}).values
        if "ae" not in values or "his" not in values:
            raise Unavailable(f"the score file of {row['run_id']} has no his or no ae")
        seeds.append(orthogonality(values["his"], values["ae"]))
    return {**pd.DataFrame(seeds).mean().to_dict(), "seeds": len(seeds)}

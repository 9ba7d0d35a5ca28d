"""Curve minus curve, with intervals over seeds and examples: HIES against HIS, all against HIES, forms of a score."""

import numpy as np
import pandas as pd

from analysis.registry import OF_MODEL, Table, table
from analysis.stats.intervals import side_of_zero
from analysis.stats.pairing import COMPARED_MEASURES, against_hies, one_calibration_size
from analysis.stats.significance import DRAWS, MEAN, Gain, curve_differences, gains_over_his, mean_over_tasks
from analysis.stats.variants import NO_REFERENCE, compare
from analysis.text.captions import caption
from analysis.text.labels import ordered_curves, task_name
from analysis.text.numbers import number, percent, signed_interval

EXCLUDES_ZERO = "Ahead or behind: the interval excludes 0."


@table(
    "significance",
    about="HIES minus HIS for each task and ratio, bootstrapped over seeds and examples together.",
    needs="rows and predictions of his, and of hies with alpha chosen per ratio, per task or auto, on the same seeds",
    per=OF_MODEL,
)
def significance_table(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """Returns a line for each task, HIES curve and ratio; ahead or behind only if the interval excludes 0."""
    gains = [gain for gain in gains_over_his(one_calibration_size(rows), draws) if gain.measure in COMPARED_MEASURES]
    data = pd.DataFrame([_of_his(gain, place) for gain in gains for place in range(len(gain.ratios))])
    lines = []
    for (task, curve, ratio), part in data.groupby(["task", "criterion", "ratio"], sort=False):
        line = {"task": task_name(str(task)), "criterion": curve, "removed": percent(float(str(ratio)))}
        for row in part.to_dict("records"):
            measure = row["measure"]
            line[f"{measure}: HIS"], line[f"{measure}: HIES"] = number(row["his"]), number(row["hies"])
            line[f"{measure}: difference"], line[f"{measure}: HIES is"] = _difference(row), row["verdict"]
        lines.append(line)
    used = rows[rows["curve"].isin(data["criterion"].unique()) | (rows["criterion"] == "his")]
    text = f"HIES minus HIS in percentage points: {caption(used)}. {bootstrap_note(draws)} {undefined_note(data)} "
    return Table(pd.DataFrame(lines), data, text + EXCLUDES_ZERO)


@table(
    "against",
    about="Every criterion minus HIES in quality and stability at each ratio, mean over tasks, with paired intervals.",
    needs="rows and predictions of hies and of another criterion on the same seeds",
    per=OF_MODEL,
)
def against_table(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """Returns a line for each criterion and reference; only tasks and seeds that both have."""
    rows = one_calibration_size(rows)
    pairs = against_hies(rows)
    gains = curve_differences(rows, pairs, draws)
    order = ordered_curves(rows)
    curves = sorted(set(zip(pairs["against"], pairs["curve"], strict=True)), key=lambda pair: [*map(order.index, pair)])
    data = pd.DataFrame([line for reference, curve in curves for line in _of_pair(curve, reference, gains)])
    text = (
        f"Criterion minus the one it stands against in percentage points, mean over the tasks that both have: "
        f"{caption(_used(data, rows))}. {bootstrap_note(draws)} Bold: the interval excludes 0. One seed: no interval."
    )
    return Table(_side_by_side(data), data, text)


@table(
    "variants",
    about="Reductions of HIS, entropies and combinations of HIES against the paper's, with intervals.",
    needs="rows and predictions of another form of his, ae or hies and of the paper's form, on the same seeds",
    per=OF_MODEL,
)
def variants_table(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """Returns a line for each curve, reference and task, those of the mean over tasks before those of single tasks."""
    data = compare(rows, draws)
    lines = []
    first = pd.concat([data[data["task"] == MEAN], data[data["task"] != MEAN]])
    for (curve, against, task), part in first.groupby(["criterion", "against", "task"], sort=False):
        line = {"criterion": curve, "against": against, "task": task_or_mean(str(task), part["tasks"].max())}
        for row in part.to_dict("records"):
            text = "" if np.isnan(row["mean"]) else f": {signed_interval(row)}"
            line[f"{row['measure']}, {row['removed']}"] = f"{row['verdict']}{text}"
        lines.append({**line, "seeds": str(part["seeds"].max())})
    used = _used(data, rows)
    text = (
        f"Criterion minus the one it stands against in percentage points, mean over the ratios (of {ratios_of(used)})"
    )
    text += f": {caption(used)}. {bootstrap_note(draws)} {undefined_note(data)}{missing_note(data)} "
    return Table(pd.DataFrame(lines).fillna(""), data, f"{text}{EXCLUDES_ZERO} Blank: undefined.")


def task_or_mean(task: str, tasks: int) -> str:
    """Returns the name of a task, or over how many tasks the mean is."""
    return f"mean of {tasks} tasks" if task == MEAN else task_name(task)


def ratios_of(used: pd.DataFrame) -> str:
    """Returns the pruned ratios of these rows in words."""
    return ", ".join(percent(ratio) for ratio in sorted(used.loc[used["ratio"] > 0, "ratio"].unique()))


def bootstrap_note(draws: int) -> str:
    """Returns how the intervals were made, for a caption."""
    return (
        f"Brackets: 95 % percentile interval of {draws:,} paired bootstrap draws over calibration seeds and evaluation "
        "examples (evenness: over seeds alone) of one fine-tuned checkpoint and one choice of alpha, not corrected for "
        "the number of comparisons."
    )


def undefined_note(data: pd.DataFrame) -> str:
    """Returns what was left out because the metric is undefined there, for a caption."""
    lost = data[(data["undefined_seeds"] > 0) | (data["undefined_draws"] > 0)]
    lost = lost[(lost["seeds"] > 1) & (lost["task"] != MEAN)]
    if lost.empty:
        return "No draw was undefined."
    worst = lost.groupby("task")["undefined_draws"].max()
    parts = [f"{task_name(str(task))} up to {count:,}" for task, count in worst.items()]
    return f"Draws left out because the metric is undefined (constant predictions): {', '.join(parts)}."


def missing_note(data: pd.DataFrame) -> str:
    """Returns which comparisons lack their reference, for a caption; empty if none does."""
    lacking = data[data["verdict"] == NO_REFERENCE].drop_duplicates(["criterion", "against", "task"])
    by_pair = lacking.groupby(["criterion", "against"], sort=False)["task"]
    parts = [f"{curve} has no {against} on {', '.join(map(task_name, tasks))}" for (curve, against), tasks in by_pair]
    return f" Left out, since no run of the same seed is there to compare with: {'; '.join(parts)}." if parts else ""


def _used(data: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["curve"].isin({*data["criterion"], *data["against"]})]


def _difference(row: dict) -> str:
    return "" if np.isnan(row["mean"]) else signed_interval(row)


def _of_his(gain: Gain, place: int) -> dict[str, object]:
    """One ratio of HIES minus HIS."""
    estimate = gain.over(np.arange(len(gain.ratios)) == place).estimate()
    both = ~np.isnan(gain.gains[:, place])  # the means of HIS and HIES are those that the difference is made of
    his, hies = (side[both, place].mean() if both.any() else np.nan for side in (gain.reference, gain.values))
    line = {"task": gain.task, "criterion": gain.curve, "ratio": gain.ratios[place], "measure": gain.measure}
    return {**line, "his": his, "hies": hies, **estimate._asdict(), "verdict": estimate.verdict}


def _of_pair(curve: str, reference: str, gains: list[Gain]) -> list[dict[str, object]]:
    """One curve minus its reference: a line for each ratio and measure, means over tasks."""
    of_pair = [gain for gain in gains if (gain.curve, gain.against) == (curve, reference)]
    lines = []
    for ratio in sorted({ratio for gain in of_pair for ratio in gain.ratios.tolist() if ratio > 0}):
        for measure in COMPARED_MEASURES:
            samples = [gain.over(gain.ratios == ratio) for gain in of_pair if gain.measure == measure]
            estimate = mean_over_tasks(samples).estimate()
            key = {"criterion": curve, "against": reference, "ratio": ratio, "measure": measure, "tasks": len(samples)}
            lines.append({**key, **estimate._asdict(), "verdict": side_of_zero(estimate.low, estimate.high)})
    return lines


def _side_by_side(data: pd.DataFrame) -> pd.DataFrame:
    """A line for each curve and reference, a column for each ratio, those of quality first."""
    lines = []
    for (curve, reference), part in data.groupby(["criterion", "against"], sort=False):
        line: dict[str, object] = {"criterion": curve, "against": reference}
        for row in part.to_dict("records"):
            text = _difference(row)
            bold = text and row["verdict"] in ("ahead", "behind")
            line[f"{row['measure']}, {percent(row['ratio'])}"] = f"**{text}**" if bold else text
        lines.append({**line, "tasks": str(part["tasks"].min()), "seeds": str(part["seeds"].min())})
    shown = pd.DataFrame(lines).fillna("")
    cells = [column for column in shown if column not in ("criterion", "against", "tasks", "seeds")]
    cells.sort(key=lambda column: not column.startswith("quality"))
    return shown[["criterion", "against", *cells, "tasks", "seeds"]]

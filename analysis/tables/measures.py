"""What each curve keeps and removes: each measure with intervals over draws, HIES against HIS, costs."""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from analysis.errors import Unavailable
from analysis.registry import OF_TASK, Table, numbered, table
from analysis.stats.intervals import LEAST_DRAWS, Interval, corrected, summarise
from analysis.stats.pairing import paired
from analysis.stats.significance import of_seeds
from analysis.text.captions import EQUAL, caption, interval_words, percent, signed_interval
from analysis.text.labels import in_order, model_name, ordered_curves, task_name
from analysis.text.measures import IN_PERCENT, MEASURE_OF, axis_label, difference_units, is_loss, measure_of, notes
from hies.runs.schema import LOSSES

PARTS_LEFT = {"parameters": "parameters left", "flops": "FLOPs left"}
OF_SUMMARY = ("mean", "low", "high", "p", "within", "margin", "scope", "verdict")  # of an estimate
UNDEFINED = "undefined"  # in the place of a number that no seed has


def _measure_table(rows: pd.DataFrame, measure: str) -> Table:
    """Returns a measure of each curve and ratio in its unit; what it is stands in the caption."""
    title = {
        "quality": f"Quality (%, {', '.join(sorted(rows['metric'].unique()))})",
        "stability": "Stability (%, agreement with the unpruned model)",
    }.get(measure, "")
    if is_loss(measure):
        numbered(rows, [measure])
        label = axis_label(measure, rows)
        title = f"{label[0].upper()}{label[1:]}; lower is better"
    points = in_order(summarise(rows, measure, ["curve", "ratio"]), rows, ["curve", "ratio"])
    seeds, digits = rows["seed"].nunique(), MEASURE_OF[measure].digits
    texts = [_text(Interval(*point), seeds, digits) for point in points[[*Interval._fields]].itertuples(index=False)]
    wide = points.assign(text=texts).pivot(index="curve", columns="ratio", values="text")
    wide = wide.reindex(ordered_curves(rows)).fillna("")
    wide.columns = [percent(ratio) for ratio in wide.columns]
    return Table(wide.reset_index(names="criterion"), points, f"{title}: {caption(rows)}. {_seeds_note(rows)}")


quality_table, stability_table, *_ = (
    table(
        name,
        about=f"{'mean ' * is_loss(name)}{MEASURE_OF[name].words}".capitalize()
        + " of each criterion at each ratio: mean over draws and its interval.",
        needs=f"rows with a {MEASURE_OF[name].words}" if is_loss(name) else "any rows",
        per=OF_TASK,
    )(partial(_measure_table, measure=name))
    for name in (*IN_PERCENT, *LOSSES.values())
)


@table(
    "summary",
    about="HIES minus HIS in quality and stability, paired by seed, with a verdict for each ratio.",
    needs="rows of his and hies with the same seeds",
    per=("experiment",),
)
def summary_table(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> Table:
    """Returns a line for each model, task, HIES curve and ratio; verdicts are corrected for their number."""
    pairs = paired(rows)
    keys = ["model", "task", "curve", "ratio"]
    groups = pairs.groupby(keys, dropna=False)
    lines = [_line(dict(zip(keys, key, strict=True)), group, measures) for key, group in groups]
    data = in_order(pd.DataFrame(lines), pairs, keys)
    tests = [data[f"{measure}_p"].notna().sum() for measure in measures]
    for measure in measures:
        columns = {f"{measure}_{name}": name for name in ("p", "within", "margin", "scope", "verdict")}
        data[f"{measure}_verdict"] = corrected(data.rename(columns=columns), pd.Series(0, index=data.index))["verdict"]
    used = rows[rows["criterion"].isin(["his", "hies"])]
    text = f"HIES minus HIS in {difference_units(measures, used)}, paired by seed: {caption(used)}. "
    text += f"{_seeds_note(used)} "
    if any(tests):
        text += f"Ahead or behind: p is at most 0.05 after Holm's correction for {max(tests)} comparisons a measure. "
        text += f"{EQUAL} "
    else:
        text += f"Fewer than {LEAST_DRAWS} draws: no verdict. "
    text += "Brackets cover the choice of the draws, not that of the evaluation examples."
    return Table(_shown(data, measures), data, text + notes(measures, used, differences=True))


@table(
    "removed",
    about="Parameters and FLOPs that each criterion leaves at each ratio, and the seconds of scoring and pruning.",
    needs="rows of a pruned ratio with parameters and FLOPs",
)
def removed_table(rows: pd.DataFrame) -> Table:
    """Returns percent of the dense model; means over tasks and draws, seconds the median over them."""
    rows = rows[rows["parameters"].notna() & rows["flops"].notna()]
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are no rows of a pruned ratio with parameters and FLOPs")
    data = parts_left(rows)
    columns = {"removed": data["ratio"].map(percent), "criterion": data["curve"]}
    columns |= {words: data[name].map("{:.1f} %".format) for name, words in PARTS_LEFT.items()}
    text = (
        f"Parameters and FLOPs left, in percent of the dense model: {caption(rows)}. A ratio is a share of the "
        "attention weights. Heads and channels leave MLPs and embeddings whole; slicing narrows the MLPs as well, and "
        "adds a matrix to every shortcut. Seconds: calibration pass, search or tuning before the first answer, median "
        "over runs on the machine that they ran on; several criteria share one calibration pass."
    )
    return Table(pd.DataFrame(columns | {"seconds": data["seconds"].map("{:.1f}".format)}), data, text)


def parts_left(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns for each curve and pruned ratio parameters and flops in percent of the unpruned model, and seconds."""
    shares = {name: percent_of_dense(rows, name) for name in PARTS_LEFT}
    pruned = rows.assign(**shares)[rows["ratio"] > 0]
    groups = pruned.groupby(["ratio", "curve"])
    means = groups.agg(parameters=("parameters", "mean"), flops=("flops", "mean"), seconds=("score_seconds", "median"))
    return in_order(means.reset_index(), rows, ["ratio", "curve"])


def percent_of_dense(rows: pd.DataFrame, name: str) -> pd.Series:
    """Returns a column of the rows in percent of its value for the run's unpruned model; NaN if unknown."""
    dense = rows[rows["ratio"] == 0].drop_duplicates("path").set_index("path")[name]
    return 100 * pd.to_numeric(rows[name]) / rows["path"].map(pd.to_numeric(dense))


def _seeds_note(rows: pd.DataFrame) -> str:
    """What the brackets mean, for a caption."""
    return f"Brackets: {interval_words(rows)}." if rows["seed"].nunique() > 1 else "One seed: no intervals."


def _text(point: Interval, seeds: int, digits: int) -> str:
    """`mean [low, high]`, or that it is undefined, and n where some seeds are undefined or missing."""
    if point.n == 0:
        return UNDEFINED
    mean, low, high = (f"{value:.{digits}f}" for value in point[:3])
    return mean + (f" [{low}, {high}]" if point.n > 1 else "") + (f" (n = {point.n})" if point.n < seeds else "")


def _line(line: dict[str, object], group: pd.DataFrame, measures: Sequence[str]) -> dict[str, object]:
    line["seeds"] = len(group)
    for measure in measures:
        known = measure_of(measure)
        sample = of_seeds(group[f"{measure}_gain"].to_numpy(), known.better, known.margin)
        line |= {f"{measure}_{name}": value for name, value in sample.estimate().items() if name in OF_SUMMARY}
        line[f"{measure}_n"] = sample.known_seeds
        line[f"{measure}_verdict"] = line[f"{measure}_verdict"] or UNDEFINED
    return line


def _shown(data: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    columns = {"model": data["model"].map(model_name), "task": data["task"].map(task_name), "criterion": data["curve"]}
    columns["removed"] = data["ratio"].map(percent)
    for measure in measures:
        words, digits = MEASURE_OF[measure].words, MEASURE_OF[measure].digits
        ends = data[[f"{measure}_{name}" for name in ("mean", "low", "high")]].set_axis(["mean", "low", "high"], axis=1)
        known = data[f"{measure}_n"] > 0
        columns[words] = ends.apply(signed_interval, axis=1, digits=digits).where(known, UNDEFINED)
        columns[f"{words}: HIES is"] = data[f"{measure}_verdict"].where(known, "")
    columns["draws"] = data["seeds"].map(str)
    return pd.DataFrame(columns)

"""Curve minus curve, with intervals over draws and examples: HIES against HIS, all against HIES, forms of a score."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis.registry import Table, table
from analysis.stats.intervals import LEAST_DRAWS, TO_ONE_SIDE, corrected
from analysis.stats.pairing import against_hies, one_calibration_size
from analysis.stats.resampling import EVENNESS
from analysis.stats.significance import (
    DRAWS,
    ESTIMATE,
    MEAN,
    ChosenRatios,
    Gain,
    averaged_gains,
    curve_differences,
    estimates,
    gains_over_his,
    mean_over_tasks,
    of_measures,
)  # fmt: skip
from analysis.stats.variants import NO_REFERENCE, WINDOWS, compare
from analysis.tables.beside import side_by_side, signed, tasks_and_means
from analysis.text.captions import EQUAL, caption, number, percent
from analysis.text.labels import listed_tasks, ordered_curves, task_name
from analysis.text.measures import IN_PERCENT, MEASURE_OF, difference_units, is_loss, notes
from hies.runs.schema import LOSSES

OF_CHOSEN_ALPHA = (
    "rows and predictions of his, and of hies with alpha chosen per ratio, per task or auto, on the same seeds"
)
REDUNDANT = WINDOWS["up to 10 %"]


def specialised(ratios: np.ndarray) -> np.ndarray:
    """Returns which ratios are of what the paper calls the specialised regime."""
    return ratios >= 0.3 - 1e-9


@dataclass(frozen=True)
class Claim:
    """What the paper says of HIES minus HIS in one measure.

    Attributes:
        words: for readers; what is before the colon names it.
        measure: quality, stability, evenness or a loss.
        sign: of the difference.
        at: at which ratios.
    """

    words: str
    measure: str
    sign: int
    at: ChosenRatios

    def decided(self, estimate: Mapping[Any, Any]) -> str:
        """Returns `holds` for a decided difference on the claimed side of 0, `does not hold` for one on the other."""
        verdict = str(estimate["verdict"])
        for side in TO_ONE_SIDE:
            verdict = verdict.replace(side, "holds" if self.sign * estimate["mean"] > 0 else "does not hold")
        return verdict


CLAIMS = (
    Claim("1: higher quality at 30 % and more", "quality", 1, specialised),
    Claim("2: higher stability at 30 % and more", "stability", 1, specialised),
    Claim("3: HIS ahead in quality up to 10 %", "quality", -1, REDUNDANT),
    Claim("4: removed heads spread more evenly over the sites at 30 % and more", EVENNESS, -1, specialised),
)
BY_LOSS = tuple(  # our reading of claims 1 and 3
    claim
    for loss in LOSSES.values()
    for claim in (
        Claim(f"1 by {MEASURE_OF[loss].words}: lower at 30 % and more", loss, -1, specialised),
        Claim(f"3 by {MEASURE_OF[loss].words}: HIS lower up to 10 %", loss, 1, REDUNDANT),
    )
)


@table(
    "claims",
    about="The paper's four claims about HIES against HIS: holds, does not hold or undecided, with intervals.",
    needs=OF_CHOSEN_ALPHA,
)
def claims_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = IN_PERCENT) -> Table:
    """Returns a line for each HIES curve and task and their mean, a column for each claim in these measures."""
    gains = gains_over_his(one_calibration_size(rows), draws)
    curves = dict.fromkeys(gain.curve for gain in gains)
    claims = {claim.words: claim for claim in (*CLAIMS, *BY_LOSS) if claim.measure in (*measures, EVENNESS)}
    lines: list[dict[str, Any]] = []
    for curve, (words, claim) in product(curves, claims.items()):
        concerned = [gain for gain in gains if (gain.curve, gain.measure) == (curve, claim.measure)]
        lines += estimates(concerned, {words: claim.at})
    data = pd.DataFrame(lines, columns=["criterion", "task", "tasks", "window", "measure", "ratios", *ESTIMATE])
    data = _corrected(data.rename(columns={"window": "claim"}))
    data["verdict"] = [claims[row["claim"]].decided(row) for row in data.to_dict("records")]
    used = rows[rows["curve"].isin(curves) | (rows["criterion"] == "his")]
    text = (
        f"HIES minus HIS in {difference_units([EVENNESS, *measures], used)}, mean over the claim's ratios (of "
        f"{ratios_of(data)}): {caption(used)}. {_sides(claims.values())}; evenness is the standard deviation over the "
        "sites of the share of their heads that is removed. Holds, or does not hold: the difference is on that side, "
        "or on the other. "
    )
    named = data.assign(task=tasks_and_means(data["task"], data["tasks"]))
    shown = side_by_side(named, ["criterion", "task"], lambda row: {row["claim"]: _verdict(row)})
    shown = shown.reindex(columns=["criterion", "task", *claims], fill_value="")
    said = f"{_interval_note(draws)} {verdict_note(data)} {_undefined_note(data)}"
    said += f"{fewer_ratios_note(data, 'claim')}{notes(measures, used)}"
    return Table(shown, data.drop(columns=["tasks", "measure"]), text + said)


def _sides(claims: Collection[Claim]) -> str:
    """On which side of 0 each claim puts the difference, in words."""
    above, below = ([claim.words.partition(":")[0] for claim in claims if claim.sign == sign] for sign in (1, -1))
    return f"Claims {' and '.join(above)} put it above 0, claims {' and '.join(below)} below"


@table(
    "significance",
    about="HIES minus HIS for each task and ratio, with intervals over draws and examples together.",
    needs=OF_CHOSEN_ALPHA,
)
def significance_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = IN_PERCENT) -> Table:
    """Returns a line for each task, HIES curve and ratio; ahead or behind only where that survives the correction."""
    gains = of_measures(gains_over_his(one_calibration_size(rows), draws), measures)
    data = _corrected(pd.DataFrame([_of_his(gain, place) for gain in gains for place in range(len(gain.ratios))]))
    named = data.assign(task=data["task"].map(task_name), removed=data["ratio"].map(percent))
    shown = side_by_side(named, ["task", "criterion", "removed"], _his_and_hies)
    used = rows[rows["curve"].isin(data["criterion"].unique()) | (rows["criterion"] == "his")]
    text = f"HIES minus HIS in {difference_units(measures, used)}: {caption(used)}. {_interval_note(draws)} "
    text += f"{verdict_note(data)} {_undefined_note(data)}{notes(measures, used, differences=True)}"
    return Table(shown, data, text)


@table(
    "against",
    about="Every criterion minus HIES in quality and stability at each ratio, mean over tasks, with paired intervals.",
    needs="rows and predictions of hies and of another criterion on the same seeds",
)
def against_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = IN_PERCENT) -> Table:
    """Returns a line for each criterion and reference; only tasks and seeds that both have."""
    rows = one_calibration_size(rows)
    pairs = against_hies(rows)
    gains = of_measures(curve_differences(rows, pairs, draws), measures)
    order = ordered_curves(rows)
    curves = sorted(set(zip(pairs["against"], pairs["curve"], strict=True)), key=lambda pair: [*map(order.index, pair)])
    lines = [line for reference, curve in curves for line in _of_pair(curve, reference, gains, measures)]
    data = corrected(pd.DataFrame(lines), pd.Series(MEAN, index=range(len(lines))))
    used = _used(data, rows)
    text = (
        f"Criterion minus the one it stands against in {difference_units(measures, used)}, mean over the tasks that "
        f"both have at this ratio: {caption(used)}. {_interval_note(draws)} Bold: ahead or behind. {verdict_note(data)}"
        f"{notes(measures, used)}"
    )
    of_pair = data.groupby(["criterion", "against"])
    tasks, least = (of_pair[name].transform(each) for name, each in (("tasks", _from_to), ("seeds", "min")))
    named = data.assign(tasks=tasks, draws=least.astype(str))
    shown = side_by_side(named, ["criterion", "against"], _bold_if_decided, after=["tasks", "draws"])
    first = [
        "criterion",
        "against",
        *(column for column in shown if column.startswith(f"{MEASURE_OF[measures[0]].words},")),
    ]
    return Table(shown[[*first, *(column for column in shown if column not in first)]], data, text)


@table(
    "variants",
    about="Reductions of HIS, entropies and combinations of HIES against the paper's, with intervals.",
    needs="rows and predictions of another form of his, ae or hies and of the paper's form, on the same seeds",
)
def variants_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = IN_PERCENT) -> Table:
    """Returns a line for each curve, reference and task, those of the mean over tasks before those of single tasks."""
    data, keys = _corrected(compare(rows, draws, measures)), ["criterion", "against", "task"]
    first = pd.concat([data[data["task"] == MEAN], data[data["task"] != MEAN]])
    most = first.groupby(keys)["seeds"].transform("max").astype(str)
    named = first.assign(task=tasks_and_means(first["task"], first["tasks"]), draws=most)
    cells, windows = {measure: MEASURE_OF[measure].words for measure in measures}, window_words(data)
    shown = side_by_side(
        named, keys, lambda row: {f"{cells[row['measure']]}, {windows[row['removed']]}": _verdict(row)}, ["draws"]
    )
    used = _used(data, rows)
    text = (
        f"Criterion minus the one it stands against in {difference_units(measures, used)}, mean over the ratios "
        f"(of {ratios_of(data)}): {caption(used)}. {_interval_note(draws)} {verdict_note(data)} "
        f"{_undefined_note(data)}{fewer_ratios_note(data)}{missing_note(data)}"
        f"{notes(measures, used, differences=True)} Blank: undefined."
    )
    return Table(shown, data, text)


def missing_note(data: pd.DataFrame) -> str:
    """Returns which comparisons lack their reference, for a caption; empty if none does."""
    lacking = data[data["verdict"] == NO_REFERENCE].drop_duplicates(["criterion", "against", "task"])
    by_pair = lacking.groupby(["criterion", "against"], sort=False)["task"]
    parts = [f"{curve} has no {against} on {listed_tasks(tasks)}" for (curve, against), tasks in by_pair]
    return f" Left out, since no run of the same seed is there to compare with: {'; '.join(parts)}." if parts else ""


def ratios_of(data: pd.DataFrame) -> str:
    """Returns the ratios that the means of these lines are over, in words."""
    return _percents(" ".join(data["ratios"].dropna()).split())


def window_words(data: pd.DataFrame) -> dict[str, str]:
    """Returns what to call each range of ratios (`removed`): by its ratios where it has one or two."""
    found = {}
    for window, part in data.groupby("removed"):
        ratios = sorted({float(ratio) for text in part["ratios"].dropna() for ratio in text.split()})
        few = " and ".join(f"{100 * ratio:g}" for ratio in ratios)
        found[str(window)] = f"{few} %" if 0 < len(ratios) <= 2 else str(window)
    return found


def fewer_ratios_note(data: pd.DataFrame, window: str = "removed") -> str:
    """Returns which means are over fewer ratios than others of their window, for a caption; empty if none is.

    Args:
        data: lines with criterion, task and ratios, and against if there are several references.
        window: the column that says of which ratios the mean should be.
    """
    there = data.dropna(subset="ratios")
    every = there.groupby(window)["ratios"].agg(lambda texts: len(set(" ".join(texts).split())))
    fewer = there[there["ratios"].str.split().str.len() < there[window].map(every)]
    pair = [name for name in ("criterion", "against") if name in there]
    parts = []
    for (*curves, words, ratios), tasks in fewer.groupby([*pair, window, "ratios"], sort=False)["task"]:
        single = listed_tasks(set(tasks) - {MEAN})
        where = " and ".join(filter(None, [single, "mean over tasks" * (MEAN in set(tasks))]))
        named = f"{'claim ' * (window == 'claim')}{words.partition(':')[0]}"
        parts.append(f"{' minus '.join(curves)}, {named}, {where} ({_percents(ratios.split())})")
    return f" Over fewer ratios, since runs lack the others: {'; '.join(parts)}." if parts else ""


def _percents(ratios: Collection[str]) -> str:
    return ", ".join(percent(ratio) for ratio in sorted({float(ratio) for ratio in ratios}))


def _corrected(data: pd.DataFrame) -> pd.DataFrame:
    """Verdicts that are corrected for the number of comparisons, those of means over tasks and of tasks apart."""
    return corrected(data, data["task"].eq(MEAN))


def _interval_note(draws: int) -> str:
    """Returns how the intervals were made, for a caption."""
    return (
        f"Brackets: 95 % t interval over calibration draws and evaluation examples ({draws:,} bootstrap draws of them; "
        "evenness: over calibration draws alone) of these tasks, one fine-tuned checkpoint each and alpha as it "
        f"was chosen; of fewer than {LEAST_DRAWS} draws their range, and no verdict."
    )


def verdict_note(data: pd.DataFrame) -> str:
    """Returns what the verdicts mean and for how many comparisons they are corrected, for a caption."""
    tested = data[data["p"].notna()]
    single = tested["task"].ne(MEAN) if "task" in tested else pd.Series(False, index=tested.index)
    counts = {"means over tasks": (~single).sum(), "single tasks": single.sum()}
    some = " and ".join(f"{count} of {words}" for words, count in counts.items() if count)
    if not some:
        return "Too few draws for a verdict."
    few = "tasks" in tested and tested["tasks"].between(2, LEAST_DRAWS - 1).any()
    lacking = ", or there is none (fewer than five tasks)" if few else ""
    return (
        f"A side is decided where p is at most 0.05 after Holm's correction for the comparisons here ({some}); 'on "
        f"these tasks': an interval that counts tasks as drawn too holds 0{lacking}; 'one task': so does that without "
        f"the most extreme task. {EQUAL}"
    )


def _undefined_note(data: pd.DataFrame) -> str:
    """Returns what was left out because the metric is undefined there, for a caption."""
    lost = data[(data["undefined_seeds"] > 0) | (data["undefined_draws"] > 0)]
    lost = lost[(lost["seeds"] > 1) & (lost["task"] != MEAN)]
    if lost.empty:
        return "No draw was undefined."
    by_loss = lost["measure"].map(is_loss)
    whys = {"the metric is undefined (constant predictions)": lost[~by_loss], "runs have no finite loss": lost[by_loss]}
    sentences = []
    for (why, part), words in product(whys.items(), ("Draws", "Calibration draws")):
        worst = part.groupby("task")["undefined_draws" if words == "Draws" else "undefined_seeds"].max()
        parts = [f"{task_name(str(task))} up to {count:,}" for task, count in worst[worst > 0].items()]
        sentences += [f"{words} left out because {why}: {', '.join(parts)}."] if parts else []
    return " ".join(sentences)


def _used(data: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["curve"].isin({*data["criterion"], *data["against"]})]


def _of_his(gain: Gain, place: int) -> dict[str, object]:
    """One ratio of HIES minus HIS."""
    estimate = gain.over(np.arange(len(gain.ratios)) == place).estimate()
    both = ~np.isnan(gain.gains[:, place])  # the means of HIS and HIES are those that the difference is made of
    his, hies = (side[both, place].mean() if both.any() else np.nan for side in (gain.reference, gain.values))
    line = {"task": gain.task, "criterion": gain.curve, "ratio": gain.ratios[place], "measure": gain.measure}
    return {**line, "his": his, "hies": hies, **estimate}


def _of_pair(curve: str, reference: str, gains: list[Gain], measures: Sequence[str]) -> list[dict[str, object]]:
    """One curve minus its reference: a line for each ratio and measure, means over tasks."""
    of_pair = [gain for gain in gains if (gain.curve, gain.against) == (curve, reference)]
    lines = []
    for ratio in sorted({ratio for gain in of_pair for ratio in gain.ratios.tolist() if ratio > 0}):
        for measure in measures:
            averaged = averaged_gains([gain for gain in of_pair if gain.measure == measure])
            there = [gain.over(at) for gain in averaged if (at := gain.ratios == ratio).any()]
            if not there:
                continue
            sample = mean_over_tasks(there)
            key = {"criterion": curve, "against": reference, "ratio": ratio, "measure": measure, "tasks": sample.tasks}
            lines.append({**key, **sample.estimate()})
    return lines


def _from_to(counts: pd.Series) -> str:
    """The numbers of tasks that means at several ratios are over."""
    return f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"


def _verdict(row: dict) -> str:
    """Verdict and difference; the verdict alone, which may be empty, where the difference is undefined."""
    return row["verdict"] if np.isnan(row["mean"]) else f"{row['verdict']}: {signed(row)}"


def _bold_if_decided(row: dict) -> dict[str, str]:
    text, words = signed(row), MEASURE_OF[row["measure"]].words
    bold = text and row["verdict"].startswith(TO_ONE_SIDE)
    return {f"{words}, {percent(row['ratio'])}": f"**{text}**" if bold else text}


def _his_and_hies(row: dict) -> dict[str, str]:
    measure = MEASURE_OF[row["measure"]]
    cells = {"HIS": number(row["his"], f".{measure.digits}f"), "HIES": number(row["hies"], f".{measure.digits}f")}
    cells |= {"difference": signed(row), "HIES is": row["verdict"]}
    return {f"{measure.words}: {name}": text for name, text in cells.items()}

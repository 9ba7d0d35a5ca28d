"""Which sign of the entropy term is right where, and what of the heads goes with it."""

from collections.abc import Sequence

import pandas as pd

from analysis.registry import Table, table
from analysis.stats.significance import DRAWS
from analysis.stats.signs import LEAST, PREDICTORS, SETTINGS, predictors, rank_correlations, sign_gains
from analysis.tables.beside import side_by_side, signed
from analysis.tables.sizes import INTERVALS
from analysis.text.captions import caption, number, percent
from analysis.text.labels import model_name, task_name
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, difference_units, measured, notes


@table(
    "signs",
    about="The paper's sign of the entropy term minus the turned one, for each model and task, and what predicts it.",
    needs="rows, predictions and score files of his, and of hies with both signs or of ae and ad, on the same seeds",
    per=("experiment",),
)
def signs_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = ALL_MEASURES) -> Table:
    """Returns a line for each model, task, curve and ratio, and one for each predictor's rank correlation with it."""
    measures = measured(rows, measures)
    gains, known = sign_gains(rows, draws), predictors(rows)
    gains = gains[gains["measure"].isin(measures)].drop(columns="verdict")  # which none is corrected
    keys = ["model", "task", "criterion", "removed"]
    named = gains.merge(known, on=SETTINGS, how="left")
    named = named.assign(
        model=named["model"].map(model_name), task=named["task"].map(task_name), removed=named["ratio"].map(percent)
    )

    def cells(row: dict) -> dict[str, str]:
        difference = {MEASURE_OF[row["measure"]].words: signed(row)}
        return difference | {words: number(row[name]) for name, words in PREDICTORS.items()}

    correlations = _correlations(gains, known)
    shown = pd.concat([side_by_side(named, keys, cells), correlations], ignore_index=True).fillna("")
    shown = shown[[*keys, *(MEASURE_OF[measure].words for measure in measures), *PREDICTORS.values()]]
    text = (
        f"The paper's sign of the entropy term (focused heads stay) minus the turned one, in "
        f"{difference_units(measures, rows)}: {caption(rows)}. {INTERVALS}. Ratios count the heads that are "
        "scored, all but where `sites` names some; statistics are of these heads, means over the draws of HIS."
    )
    if len(correlations):
        text += (
            f" The last lines, of {LEAST} models and tasks or more: Spearman rank correlation over them of each "
            "statistic of the heads with the difference (of losses, of which less is better, the other side of 0 says "
            "the same), without those where both signs give the same answers. "
            "It is found and tested on the same few cells, so it is a lead and no proof."
        )
    return Table(shown, gains.merge(known, on=SETTINGS, how="left"), text + notes(measures, rows))


def _correlations(gains: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """A line for each curve, ratio and measure with the rank correlation of each predictor, over the settings."""
    lines = []
    for (curve, ratio, measure), part in gains.groupby(["criterion", "ratio", "measure"], sort=False):
        if found := rank_correlations(part, known):
            key = {"model": f"over {found['settings']}", "task": f"by {MEASURE_OF[measure].words}", "criterion": curve}
            numbers = {words: number(found[name], "+.2f") for name, words in PREDICTORS.items()}
            lines.append({**key, "removed": percent(ratio), **numbers})
    return pd.DataFrame(lines)

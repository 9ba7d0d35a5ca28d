"""Tasks on which the unpruned model is no better than a guess: there quality says nothing about which heads matter."""

import pandas as pd
from scipy.special import bdtrc

SHARES = ("accuracy", "exact_match")  # shares of right answers
QUALITIES = ("quality", "quality_norm")  # the measures that a guess has a level in
CHANCE_LEVEL = 0.01  # of the test; low, since a row of tasks is tested
# The share of right answers of a guess among a document's options, where rows do not say it (`chance`).
GUESSED = {
    "gsm8k": 0.0,  # no options: a model is above it with one right answer
    **dict.fromkeys(("hellaswag", "arc_easy", "arc_challenge", "openbookqa", "mmlu", "docs"), 1 / 4),
    **dict.fromkeys(("winogrande", "piqa"), 1 / 2),
}


def at_chance(rows: pd.DataFrame, measure: str) -> list[str]:
    """Returns the tasks of choice on which the unpruned model is not clearly above chance in a measure of quality.

    Clearly above is what an exact binomial test (one-sided, at CHANCE_LEVEL) of its right answers among the reported
    documents says. Classifiers, and other measures than quality, have no level of chance.
    """
    dense = rows[(rows["ratio"] == 0) & rows["metric"].isin(SHARES)]
    if measure not in QUALITIES or dense.empty:
        return []
    level = dense["task"].map(GUESSED).astype(float)
    level = dense["chance"].astype(float).fillna(level) if "chance" in dense else level
    known = dense.assign(level=level).dropna(subset=["level", measure])
    right = (known[measure].astype(float) / 100 * known["examples"]).round()
    above = bdtrc(right - 1, known["examples"], known["level"]) < CHANCE_LEVEL  # of at least so many right answers
    return [str(task) for task, some in above.groupby(known["task"]).any().items() if not some]

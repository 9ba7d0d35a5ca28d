"""Language models: accuracy above, stability below, a column for each task and the mean (figure 4 of the paper)."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes

from analysis import labels, paper
from analysis.errors import Unavailable
from analysis.figures.tasks import CRITERIA, draw_tasks, shown_curves
from analysis.registry import figure

METHODS = (*CRITERIA, "llm_pruner_channel", "llm_pruner_block", "slicegpt")  # the paper's, and AE
PRINTED_MODEL = "llama2_7b"  # the model whose numbers table 10 prints; figure 4 itself comes without numbers
NOTE = " Hollow: the paper's table 10 (LLaMA-2-7B, mean over its seeds)."


@figure(
    "figure4",
    about="Quality above stability against the ratio for language tasks, a column for each and one for their mean.",
    needs="rows of a language task (HellaSwag, WinoGrande, ARC, OBQA, PIQA, docs) at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """The paper's methods; beside LLaMA-2-7B the paper's HIS and HIES where its table 10 has them."""
    printed = table10()
    printed = printed[printed["task"].isin(rows.loc[rows["model"] == PRINTED_MODEL, "task"])]
    return draw_kind(rows, labels.LANGUAGE, printed, "" if printed.empty else NOTE)


def draw_kind(
    rows: pd.DataFrame, tasks: Iterable[str], printed: pd.DataFrame | None = None, note: str = ""
) -> list[Axes]:
    """The paper's methods on these tasks.

    Raises:
        Unavailable: none of the tasks has rows of a pruned ratio.
    """
    rows = rows[rows["task"].isin(tasks)]
    if not (rows["ratio"] > 0).any():
        raise Unavailable(f"there are no rows of a pruned ratio on {labels.named_tasks(tasks)}")
    rows = rows[rows["curve"].isin(shown_curves(rows, METHODS))]
    return draw_tasks(rows, f"{rows['model'].iloc[0]}: quality (above) and stability (below)", None, printed, note)


def table10() -> pd.DataFrame:
    """What the paper's table 10 prints of single tasks: task, criterion, ratio, percent."""
    printed = paper.read("table10_llama_seeds").rename(columns={"HIS_percent": "his", "HIES_percent": "hies"})
    told = printed.melt(["task", "ratio"], ["his", "hies"], var_name="criterion", value_name="percent")
    return told[told["task"].isin(labels.LANGUAGE)]

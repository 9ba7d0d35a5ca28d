"""The paper's methods on language, reasoning and images, and the output norm (the paper's figures 4, 10, 11, 13)."""

from collections.abc import Iterable
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from analysis import paper
from analysis.errors import Unavailable
from analysis.figures.tasks import TASK_CRITERIA, draw_tasks, shown_curves
from analysis.registry import OF_MODEL, figure
from analysis.text import choice, labels

PAPER_CRITERIA = (*TASK_CRITERIA, "llm_pruner_channel", "llm_pruner_block", "slicegpt")  # the paper's, and AE
PRINTED_MODEL = "llama2_7b"  # the model whose numbers table 10 prints; figure 4 itself comes without numbers
PRINTED_NOTE = " Hollow: the paper's table 10 (LLaMA-2-7B, mean over its seeds)."
NORM = "output_norm"


def draw_kind(
    rows: pd.DataFrame, tasks: Iterable[str], printed: pd.DataFrame | None = None, note: str = ""
) -> list[Axes]:
    """Draws the paper's methods on these tasks.

    Raises:
        Unavailable: none of the tasks has rows of a pruned ratio.
    """
    rows = rows[rows["task"].isin(tasks)]
    if not (rows["ratio"] > 0).any():
        raise Unavailable(f"there are no rows of a pruned ratio on {labels.named_tasks(tasks)}")
    rows = rows[rows["curve"].isin(shown_curves(rows, PAPER_CRITERIA))]
    return draw_tasks(rows, f"{rows['model'].iloc[0]}: quality (above) and stability (below)", None, printed, note)


@figure(
    "figure4",
    about="Quality above stability against the ratio for language tasks, a column for each and one for their mean.",
    needs="rows of a language task (HellaSwag, WinoGrande, ARC, OBQA, PIQA, docs) at a pruned ratio",
    per=OF_MODEL,
)
def draw_figure4(rows: pd.DataFrame) -> list[Axes]:
    """Draws the paper's methods; beside LLaMA-2-7B the paper's HIS and HIES where its table 10 has them."""
    printed = printed_language()
    printed = printed[printed["task"].isin(rows.loc[rows["model"] == PRINTED_MODEL, "task"])]
    return draw_kind(rows, labels.LANGUAGE_NAMES, printed, "" if printed.empty else PRINTED_NOTE)


draw_figure10 = figure(
    "figure10",
    about="Quality above stability against the ratio for GSM8K and MMLU, and their mean.",
    needs="rows of GSM8K or MMLU at a pruned ratio",
    per=OF_MODEL,
)(partial(draw_kind, tasks=labels.REASONING_NAMES))
draw_figure11 = figure(
    "figure11",
    about="Quality above stability against the ratio for sets of images, a column for each and one for their mean.",
    needs="rows of CIFAR-10, CIFAR-100, Food-101, Fashion-MNIST or ImageNet-1k at a pruned ratio",
    per=OF_MODEL,
)(partial(draw_kind, tasks=labels.VISION_NAMES))


@figure(
    "figure13",
    about="Quality above stability against the ratio: the norm of the outputs alone, and with AE, a column a task.",
    needs="rows of output_norm and of hies with importance output_norm, at a pruned ratio",
    per=OF_MODEL,
)
def draw_figure13(rows: pd.DataFrame) -> list[Axes]:
    """Draws two lines a panel; of several alphas the preferred one."""
    alone, together = norm_and_mixture(rows)
    if alone is None or together is None or not (rows["ratio"] > 0).any():
        raise Unavailable(f"it takes rows of {NORM}, and of hies with importance {NORM}, at a pruned ratio")
    title = f"{rows['model'].iloc[0]}: norm of the outputs alone and with AE"
    return draw_tasks(rows[rows["curve"].isin([alone, together])], title, note=f" With AE: {together}.")


def norm_and_mixture(rows: pd.DataFrame) -> tuple[str | None, str | None]:
    """Returns the curves of the norm alone, and of HIES with it in the place of HIS; None for one that is not there."""
    mixed = rows[rows["importance"] == NORM] if "importance" in rows else rows[:0]
    return choice.plainest(rows, NORM), choice.plainest(mixed, "hies")


def printed_language() -> pd.DataFrame:
    """Returns what the paper's table 10 prints of single tasks: task, criterion, ratio, percent."""
    printed = paper.read_paper("table10_llama_seeds").rename(columns={"HIS_percent": "his", "HIES_percent": "hies"})
    long = printed.melt(["task", "ratio"], ["his", "hies"], var_name="criterion", value_name="percent")
    return long[long["task"].isin(labels.LANGUAGE_NAMES)]

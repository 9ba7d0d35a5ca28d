"""The order of a public checkpoint's outputs, which is not always that of the data set's labels."""

import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from transformers import PreTrainedModel

from hies.errors import HiesError, ParameterError
from hies.tasks.base import Task
from hies.tasks.checks import plain_label


def find_label_order(
    task: Task,
    network: PreTrainedModel,
    answers: Callable[[], np.ndarray],
    labels: np.ndarray,
    configured: list[int] | None = None,
    data_root: Path | None = None,
) -> list[int] | None:
    """Returns the output that stands for each label, [labels]; None where outputs are in the order of the labels.

    What is `configured` counts; else the names in the checkpoint's configuration, if they are the task's own (or the
    numbers of a `numbered` task) and the answers do not speak against them; else the order under which the unpruned
    model is right most often, if it leaves no doubt. Either is judged at two standard errors, for every two labels
    exchanged.

    Args:
        task: a task with classes, or a regression task (None).
        network: the fine-tuned checkpoint.
        answers: gives the model's outputs on the selection split, [examples]; called unless an order is `configured`.
        labels: of the same examples, [examples].
        configured: the order that the configuration gives.
        data_root: the folder of local copies of data sets, which may name the classes.

    Raises:
        ParameterError: what is `configured` is no order of the labels.
        HiesError: the answers contradict the names, or do not tell one order from another.
    """
    names = list(task.label_names(data_root))
    in_order = list(range(len(names)))
    if configured is not None and sorted(configured) != in_order:
        raise ParameterError("label_order", configured, f"for task={task.name} it must be an order of {in_order}")
    if not names:
        return None
    named = in_order if task.numbered else _by_name(names, network)
    order = configured or _confirmed(task.name, names, named, answers(), labels)
    if not configured and named is None:
        warnings.warn(
            f"The checkpoint for {task.name} does not name its outputs; by its answers they stand, in order, for "
            f"{', '.join(names[i] for i in np.argsort(order))}. +model.label_order.{task.name}={order} says so, too.",
            stacklevel=2,
        )
    return None if order == in_order else order


def _by_name(names: list[str], network: PreTrainedModel) -> list[int] | None:
    by_id = {int(index): plain_label(str(name)) for index, name in dict(network.config.id2label or {}).items()}
    outputs = [by_id[index] for index in sorted(by_id)]
    wanted = [plain_label(name) for name in names]
    return [outputs.index(name) for name in wanted] if {*outputs} == {*wanted} else None


def _confirmed(
    task: str, names: list[str], named: list[int] | None, answers: np.ndarray, labels: np.ndarray
) -> list[int]:
    """Returns the order that the answers speak for, or the named one unless they speak against it."""
    counts = np.zeros((len(names), len(names)))  # label x output
    np.add.at(counts, (labels, answers), 1)
    best = named or linear_sum_assignment(counts, maximize=True)[1].tolist()
    for i, j in combinations(range(len(names)), 2):
        kept, swapped = counts[i, best[i]] + counts[j, best[j]], counts[i, best[j]] + counts[j, best[i]]
        doubt = 2 * np.sqrt(kept + swapped)  # two standard errors of their difference, were there nothing to tell
        if named and swapped - kept > doubt:
            raise HiesError(
                f"The checkpoint for task={task} names its outputs in the order {named}, but with {names[i]} and "
                f"{names[j]} exchanged its answers are right {swapped:.0f} instead of {kept:.0f} times; give the "
                f"output of each label as in +model.label_order.{task}={[*range(len(names))]}."
            )
        if not named and kept - swapped <= doubt:
            raise HiesError(
                f"The checkpoint for task={task} does not name its outputs, and its answers do not tell which of "
                f"them stand for {names[i]} and {names[j]}; give the output of each label ({', '.join(names)}) as in "
                f"+model.label_order.{task}={[*range(len(names))]}."
            )
    return best

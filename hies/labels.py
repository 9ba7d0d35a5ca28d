"""The order of a public checkpoint's outputs, which is not always that of the data set's labels."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from transformers import PreTrainedModel

from hies.errors import HiesError
from hies.tasks.base import Task


def found_label_order(
    task: Task,
    network: PreTrainedModel,
    answers: Callable[[], np.ndarray],
    labels: np.ndarray,
    given: list[int] | None = None,
) -> list[int] | None:
    """Which output stands for each label, [labels]; None where the outputs are in the order of the labels.

    What `given` says counts; else the names in the checkpoint's configuration, if they are the task's own; else the
    order under which the unpruned model is right most often, if it leaves no doubt (two standard errors).

    Args:
        task: a task with classes, or a regression task (None).
        network: the fine-tuned checkpoint.
        answers: gives the model's outputs on the selection split, [examples]; asked only where names do not tell.
        labels: of the same examples, [examples].
        given: the order from the configuration.

    Raises:
        HiesError: `given` is no order of the labels, or the answers do not tell one order from another.
    """
    names = list(task.label_names())
    own = list(range(len(names)))
    if given is not None and sorted(given) != own:
        raise HiesError(f"model.label_order gives {given} for task={task.name}; it must be an order of {own}.")
    if not names:
        return None
    found = given or _by_name(names, network) or _by_answers(task, answers(), labels)
    return None if found == own else found


def _by_name(names: list[str], network: PreTrainedModel) -> list[int] | None:
    outputs = [str(name).lower() for name in dict(network.config.id2label or {}).values()]
    return [outputs.index(name.lower()) for name in names] if {*outputs} == {name.lower() for name in names} else None


def _by_answers(task: Task, answers: np.ndarray, labels: np.ndarray) -> list[int]:
    names = task.label_names()
    counts = np.zeros((len(names), len(names)))  # label x output
    np.add.at(counts, (labels, answers), 1)
    best = linear_sum_assignment(counts, maximize=True)[1]
    # What another order loses, taking that with two labels swapped: the least of it must be more than chance gives.
    for i, j in combinations(range(len(names)), 2):
        kept, swapped = counts[i, best[i]] + counts[j, best[j]], counts[i, best[j]] + counts[j, best[i]]
        if kept - swapped <= 2 * np.sqrt(kept + swapped):
            raise HiesError(
                f"The checkpoint for task={task.name} does not name its outputs, and its answers do not tell which of "
                f"them stand for {names[i]} and {names[j]}; give the output of each label ({', '.join(names)}) as in "
                f"+model.label_order.{task.name}={[*range(len(names))]}."
            )
    return best.tolist()

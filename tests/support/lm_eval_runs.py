"""lm-eval run by itself, as what the language tasks are compared with."""

import pytest


def evaluate_by_lm_eval(model, tasks, folder=None, **options):
    """What lm-eval's own evaluation finds, without the seconds that it takes to index and to report what is installed.

    Of tasks it knows those that are defined in `folder`, and those that are given as objects.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)  # asks pip for every package
        return lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **options)

"""Every task answers for itself, and nobody asks which kind it is."""

import ast
from pathlib import Path

import pytest

from hies.errors import HiesError
from hies.evaluation.metrics import METRICS
from hies.evaluation.models import MODALITIES
from hies.runs.quality import PERCENT
from hies.tasks import TASKS

ROOT = Path(__file__).parents[2]
KINDS = {"Task", "ClassifierTask", "PromptTask"}


def test_no_kind_of_task_is_told_from_another_outside_its_room():
    for folder in ("hies", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            if "tasks" not in path.relative_to(ROOT).parts:
                for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
                    named = {name.id for name in ast.walk(call) if isinstance(name, ast.Name)}
                    asks = getattr(call.func, "id", None) in ("isinstance", "issubclass")
                    assert not (asks and KINDS & named), path


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_a_task_declares_what_others_read(kind, monkeypatch):
    monkeypatch.delenv("HIES_JUDGE_URL", raising=False)
    task = kind()
    assert task.modality in MODALITIES and task.metric in METRICS and task.metric in PERCENT
    assert task.finetuned == (task.modality in ("text", "image"))
    assert task.judge is None and (task.finetuned or not task.label_names(None))
    with pytest.raises(HiesError, match="max_examples is 0; it must be at least 1"):
        kind(max_examples=0)


def test_a_task_that_trains_no_model_says_so():
    with pytest.raises(HiesError, match=r"task=gsm8k trains no model; set model\.pretrain_task"):
        TASKS["gsm8k"]().make_processor(None, {}, 64)

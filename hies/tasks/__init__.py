"""Tasks, one declaration each; a new one is a file and a line here."""

from hies.tasks.base import Task
from hies.tasks.embedded.apidocs import ApiDocs
from hies.tasks.embedded.digits import DigitQuestions, Digits
from hies.tasks.embedded.docs import Docs
from hies.tasks.glue import GLUE_TASKS
from hies.tasks.images import IMAGE_TASKS
from hies.tasks.language import LANGUAGE_TASKS
from hies.tasks.own.base import OwnData
from hies.tasks.own.choice import OwnChoice
from hies.tasks.own.lm_eval_task import LmEval
from hies.tasks.own.table import OwnTable
from hies.tasks.own.text import OwnText
from hies.tasks.splits import Split, Splits
from hies.tasks.vqa.mmvet import MMVet
from hies.tasks.vqa.vizwiz import VizWiz

_SINGLE: tuple[type[Task], ...] = (ApiDocs, Digits, DigitQuestions, VizWiz, MMVet, Docs)
_OWN: tuple[type[OwnData | LmEval], ...] = (OwnTable, OwnText, OwnChoice, LmEval)  # whose names are those of their data
TASKS: dict[str, type[Task]] = {task.name: task for task in (*_SINGLE, *GLUE_TASKS, *LANGUAGE_TASKS, *IMAGE_TASKS)}
TASKS |= {task.kind_name: task for task in _OWN}

__all__ = ["TASKS", "ApiDocs", "Digits", "Split", "Splits", "Task"]

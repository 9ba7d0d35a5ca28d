"""Tasks, one small file each; a new one is a file and a line here."""

from hies.tasks.apidocs import ApiDocs
from hies.tasks.base import Split, Splits, Task
from hies.tasks.digits import Digits
from hies.tasks.docs import Docs
from hies.tasks.glue import GLUE
from hies.tasks.language import LANGUAGE
from hies.tasks.mmvet import MMVet
from hies.tasks.pictures import PICTURES
from hies.tasks.questions import DigitQuestions
from hies.tasks.vizwiz import VizWiz

KINDS: tuple[type[Task], ...] = (ApiDocs, Digits, *GLUE, *LANGUAGE, DigitQuestions, VizWiz, MMVet, *PICTURES, Docs)
TASKS: dict[str, type[Task]] = {kind.name: kind for kind in KINDS}

__all__ = ["TASKS", "ApiDocs", "Digits", "Split", "Splits", "Task"]

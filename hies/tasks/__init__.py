"""Tasks, one small file each; a new one is a file and a line here."""

from hies.tasks.apidocs import ApiDocs
from hies.tasks.base import Split, Splits, Task
from hies.tasks.digits import Digits
from hies.tasks.glue import GLUE

KINDS: tuple[type[Task], ...] = (ApiDocs, Digits, *GLUE)
TASKS: dict[str, type[Task]] = {kind.name: kind for kind in KINDS}

__all__ = ["TASKS", "ApiDocs", "Digits", "Split", "Splits", "Task"]

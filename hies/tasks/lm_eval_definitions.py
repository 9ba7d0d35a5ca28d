"""Definitions of lm-eval's tasks: found by name, in its own folder or another one, and what is refused of them."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hies.errors import HiesError, ParameterError, brief
from hies.tasks.embedded.packages import package_folder

PACKAGE = "lm_eval"
EXACT = {
    "metric",
    "aggregation",
    "higher_is_better",
    "regexes_to_ignore",
    "ignore_case",
    "ignore_punctuation",
    "ignore_numbers",
}  # what the definition of an exact match may say
NAMED = re.compile(r"""^["']?(task|group)["']?: *(["']?)([\w.:+-]+)\2 *(?:#.*)?$""", re.MULTILINE)


def version() -> str:
    """Returns the installed version of lm-eval, which its task definitions belong to.

    Raises:
        HiesError: it is not installed.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise HiesError(
            "Language tasks are put to models by lm-eval, which is not installed; in a clone: pip install -e '.[llm]'."
        ) from None


def is_defined(path: str) -> bool:
    """Returns whether lm-eval has this definition of a task, such as `arc/arc_easy.yaml`."""
    return (definitions_folder() / path).is_file()


@functools.cache
def definition(path: str, functions: bool = True) -> dict[str, Any]:
    """Returns lm-eval's own definition of a task, the YAML file `path` under its `tasks`. Not to be changed.

    Args:
        path: of the file, or that of any other.
        functions: import those that it names from the module beside it; False: their names stand in their place.

    Raises:
        HiesError: one of them cannot be imported.
    """
    from lm_eval.utils import import_function

    def read_function(loader: Any, node: Any) -> Any:
        try:
            return import_function(loader, node, yaml_path=file) if functions else loader.construct_scalar(node)
        except (Exception, SystemExit) as error:  # what a module raises that is run
            raise HiesError(
                f"The function {node.value!r} of {file.name} cannot be imported ({brief(error)})."
            ) from error

    file = definitions_folder() / path
    config = _parsed(file.read_text(encoding="utf-8"), read_function)
    above: dict[str, Any] = {}
    for other in _included(config):
        above |= definition((Path(path).parent / other).as_posix(), functions)
    own = {name: value for name, value in config.items() if name != "include"}
    return {**{name: value for name, value in above.items() if name != "task_list"}, **own}


def _parsed(text: str, read_function: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Returns what a YAML text says, with what `read_function(loader, node)` makes of the names of functions."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads functions of modules beside a definition, too."""

    Loader.add_constructor("!function", read_function)
    return yaml.load(text, Loader)


def _included(config: dict[str, Any]) -> list[str]:
    """Returns the definitions that one includes, as paths that count from its folder."""
    included = config.get("include") or []
    return [included] if isinstance(included, str) else included


def definitions_folder() -> Path:
    """Returns the folder of lm-eval's own definitions."""
    version()
    folder = package_folder(PACKAGE)
    assert folder is not None
    return folder / "tasks"


def find(name: str, include_path: str | None) -> str:
    """Returns where the definition of a task is, as `definition` takes it.

    Args:
        name: what lm-eval calls the task.
        include_path: a folder of further definitions, which are looked at first.

    Raises:
        HiesError: no definition has the name, or it is that of a group of tasks.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise ParameterError("task.include_path", include_path, "name a folder with definitions of lm-eval")
    version()
    folders = [*([Path(include_path).absolute()] if include_path else []), definitions_folder()]
    names: dict[str, tuple[str, Path]] = {}
    for folder in reversed(folders):
        names |= _names_in(folder)
    kind, path = names.get(name, ("", Path()))
    if kind == "task":
        return path.as_posix()
    if kind == "group":
        raise ParameterError("task.name", name, f"it is a group, give one of its tasks ({_members(path)})")
    close = difflib.get_close_matches(name, names, 3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    expected = f"lm-eval {version()} has no task of this name; {hint}lm-eval ls tasks lists what there is"
    raise ParameterError("task.name", name, expected)


def reason_to_refuse(path: str) -> str:
    """Returns why a task cannot be evaluated here, in words that follow its name; nothing if it can."""
    config = definition(path, functions=False)
    kind, metrics = config.get("output_type", "generate_until"), config.get("metric_list") or ()
    names = [str(metric["metric"]) for metric in metrics]
    settings = config.get("generation_kwargs") or {}
    reasons = {
        "is written in Python": "class" in config,
        "makes its data by a function": config.get("custom_dataset") is not None,
        "reads pictures or sound": bool(config.get("doc_to_image") or config.get("doc_to_audio")),
        "runs the code that a model writes": bool(config.get("unsafe_code")),
        "takes its prompt from another collection": config.get("use_prompt") is not None,
        "names no split to evaluate on": not (config.get("test_split") or config.get("validation_split")),
        f"is of the kind {kind}": kind not in ("multiple_choice", "generate_until"),
        "scores its answers by a function of its own": config.get("process_results") is not None,
        "asks several times": config.get("repeats", 1) != 1,
        "draws its answers at random": bool(settings.get("do_sample") or float(settings.get("temperature") or 0)),
    }
    if kind == "multiple_choice":
        reasons[f"is measured by {', '.join(names)}"] = bool(names) and "acc" not in names
    else:
        exact: dict[str, Any] = next((one for one in metrics if one["metric"] == "exact_match"), {})
        reasons[f"is measured by {', '.join(names) or 'nothing'}"] = not exact
        reasons["compares answers in a way of its own"] = not exact.keys() <= EXACT
    return next((reason for reason, holds in reasons.items() if holds), "")


def content(path: str) -> str:
    """Returns a digest of a definition, of all that it includes, wherever that is, and of the functions beside them.

    What lm-eval's own folder has is told by its version; of it, the files beside a definition alone count here.
    """
    hashed, file = hashlib.sha256(), definitions_folder() / path
    beside = sorted({file, *file.parent.glob("*.yaml"), *file.parent.glob("*.py")})
    seen = {one.resolve() for one in beside}
    elsewhere = [one for one in _built_on(file, set()) if one.resolve() not in seen]
    for one in [*beside, *dict.fromkeys(elsewhere)]:
        hashed.update(one.read_bytes())
    return hashed.hexdigest()[:12]


def _built_on(file: Path, seen: set[Path]) -> Iterator[Path]:
    """Yields a definition, the modules of its functions and beside it, and the same of all that it includes.

    They come in the order of their being named, which is the same wherever the folders lie.
    """
    if file.resolve() in seen or file.resolve().is_relative_to(definitions_folder().resolve()):
        return
    seen.add(file.resolve())
    state = file.stat()
    included, modules = _named_in(file, state.st_mtime_ns, state.st_size)
    yield from (file, *sorted(file.parent.glob("*.py")), *modules)
    for other in included:
        yield from _built_on(other, seen)


@functools.lru_cache(maxsize=1024)
def _named_in(file: Path, changed: int, size: int) -> tuple[list[Path], list[Path]]:
    """Returns the definitions that a definition includes, and the modules that its functions are in."""
    functions: list[str] = []
    included = _included(_parsed(file.read_text(encoding="utf-8"), lambda _, node: functions.append(str(node.value))))
    modules = [file.parent / f"{name.rpartition('.')[0]}.py" for name in functions]
    return [file.parent / one for one in included], [one for one in modules if one.is_file()]


@functools.cache
def _names_in(folder: Path) -> dict[str, tuple[str, Path]]:
    """Returns the tasks and groups that files define, name -> (kind, file); they are searched, not parsed: 14,000."""
    found: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder.rglob("*.yaml"), reverse=True):
        text = path.read_text(encoding="utf-8", errors="replace")
        kinds = {kind: name for kind, _, name in NAMED.findall(text)}
        if kind := "group" if "group" in kinds else "task" if "task" in kinds else "":
            found[kinds[kind]] = kind, path
    return found


def _members(path: Path) -> str:
    import yaml

    tasks = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader).get("task")
    listed = tasks if isinstance(tasks, list) else []
    names = [str(one.get("task") if isinstance(one, dict) else one) for one in listed]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")

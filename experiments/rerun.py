"""Repeats a finished run and compares: `python -m experiments.rerun RUN_ID [key=value ...]`.

The run's rows are looked for below results_dir; of their command only the options that make the result are taken, and
what is given here comes after them (data_root=..., device=...). A row may come from somebody else, so it imports no
code: where its method or task is from outside, give criterion._target_=MODULE.CLASS, --config-dir=DIR or
task.include_path=DIR here as well.
Scoring and evaluation are computed again in folders that are removed afterwards; data and checkpoints are those of the
cache_dir that is given here. The exit status is 0 where nothing differs but times, revision and command, 1 where
something does, 2 where the run could not be repeated.
"""

import difflib
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from experiments.compare import ANSWERS, Run, run_differences, version_warnings
from experiments.config.messages import CONF, choices_of
from experiments.config.options import translated
from experiments.config.outside import TARGET, source_of_job
from experiments.sweep.command import report_errors
from experiments.sweep.job import COMMAND, Job, evaluator_of
from experiments.sweep.progress import print_warnings_above_the_bar, progress
from hies.errors import HiesError, printable
from hies.runs import files as results
from hies.runs import folders as runs
from hies.runs.files import Row, read_arrays, read_run
from hies.runs.pack import DATA_ROOT
from hies.runs.schema import BadRows

COMPUTED = ("statistics", "predictions", "losses")  # folders of the cache that a repetition does not share
PLAIN_OVERRIDE = re.compile(r"\+{0,2}(?!hydra)([a-z][\w.]*)=(.*)", re.DOTALL)  # sets an option of the job
OF_THIS_CALL = ("results_dir", "cache_dir", "out", "force")  # what a record must not decide
LONGEST_COMMAND = 10_000  # characters; jobs have some hundreds, and each word takes Hydra a millisecond
CONFIG_DIR = "--config-dir="
INCLUDE_PATH = "include_path"  # of task=lm_eval: definitions there name functions, which are imported


def main() -> int:
    """Repeats the run that the command line names; returns the exit status."""
    print_warnings_above_the_bar()
    words = sys.argv[1:]
    if not words or words[0].startswith("-"):
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    further = translated(words[1:])
    if (flag := CONFIG_DIR[:-1]) in further[:-1]:  # its folder is the next word
        at = further.index(flag)
        further[at : at + 2] = [CONFIG_DIR + further[at + 1]]
    return report_errors(lambda: _rerun(words[0], further))


def _rerun(run_id: str, further: list[str]) -> int:
    folders = [Path(word.removeprefix(CONFIG_DIR)).resolve() for word in further if word.startswith(CONFIG_DIR)]
    further = [word for word in further if not word.startswith(CONFIG_DIR)]
    given = {override.key_or_group: override for override in OverridesParser.create().parse_overrides(further)}
    folder = given["results_dir"].value() if "results_dir" in given else "results"
    path, before = _find_run(Path(str(folder)), run_id)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        job = _job_of(before.rows, further, folders)
    print(f"Repeating {path}.", file=sys.stderr)
    now = _repeat(job)
    for warning in version_warnings(before.rows[0], now.rows[0]):
        print(printable(f"warning: {warning}"), file=sys.stderr)
    if not before.arrays:
        print(f"warning: {path} has no arrays beside it, so answers and scores are not compared.", file=sys.stderr)
    lines = run_differences(before, now)
    print("\n".join(map(printable, lines)) if lines else f"{run_id}: nothing differs in its {len(before.rows)} rows.")
    return 1 if lines else 0


def _find_run(results_dir: Path, run_id: str) -> tuple[Path, Run]:
    """The row file of a run, wherever below `results_dir` it lies, packed or not, and the run."""
    if not runs.is_name(run_id):
        raise HiesError(f"RUN_ID is {run_id!r}; give the run_id of a row, which is a name and no path.")
    texts = _texts(results_dir)
    if run_id not in {path.stem for path in texts}:
        close = difflib.get_close_matches(run_id, [path.stem for path in texts], 1, cutoff=0.0)
        hint = (
            f"the closest is {close[0]}" if close else "it holds none at all, and results_dir=DIR names another folder"
        )
        raise HiesError(f"RUN_ID is {run_id!r}, but {results_dir} holds no such run; {hint}.")
    path = next(path for path in texts if path.stem == run_id)
    try:
        run = Run(read_run(path, texts[path]), read_arrays(path))
        if (there := len(run.arrays.get(ANSWERS, run.rows))) != len(run.rows):
            raise BadRows(f"has {len(run.rows)} rows and arrays beside it for {there}")
        return path, run
    except BadRows as problem:
        raise HiesError(f"{path} {problem}, so there is nothing to compare with; run its command again.") from None


def _texts(results_dir: Path) -> dict[Path, str]:
    """Every row file below a folder of results and what is in it."""
    texts: dict[Path, str] = {}
    for folder in sorted(results_dir.glob("*/")):
        try:
            texts |= runs.texts(folder)
        except runs.BadFile as file:
            print(f"warning: {file} cannot be read and is left out.", file=sys.stderr)
    return texts


def _repeat(job: Job) -> Run:
    """Computes a job again, whatever was computed before; what is on the disk stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        results_dir, cache_dir = Path(folder) / "results", Path(folder) / "cache"
        _share(Path(job.config.cache_dir), cache_dir)
        config = replace(job.config, results_dir=str(results_dir), cache_dir=str(cache_dir), force=False)
        again = Job(config, job.overrides)
        progress.start([again], here=True)
        try:
            again.run(evaluator_of(config), progress.tick)
        finally:
            progress.close()
        return Run(again.rows(), runs.read_arrays(again.path))


def _share(cache_dir: Path, target: Path) -> None:
    """A cache with the data and the checkpoints of another and nothing that a criterion's results come from."""
    target.mkdir()
    for child in cache_dir.iterdir() if cache_dir.is_dir() else ():
        if child.name not in COMPUTED and not child.name.startswith("."):  # locks are not to be shared by a link
            (target / child.name).symlink_to(child.resolve(), target_is_directory=child.is_dir())


def recorded_overrides(command: str, named: Collection[str] = (), folders: Sequence[Path] = ()) -> list[str]:
    """Returns the overrides of a recorded command, of which nothing else is taken and nothing is executed.

    Args:
        command: of a row.
        named: options of the command line at hand. Those of them that name code or a folder of configurations may be
            in the record, and are left out of it.
        folders: of configurations, besides conf/, that the command line at hand names.

    Raises:
        HiesError: it is no command of experiments.run, or holds more than plain overrides. A record may come from
            somebody else: it must not read the environment or a file of configuration, nor say how Hydra runs.
    """
    if len(command) > LONGEST_COMMAND:
        raise HiesError(f"The command of the rows has {len(command)} characters; at most {LONGEST_COMMAND} are read.")
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation without an end
        words = []
    start = COMMAND.split()
    if words[: len(start)] != start:
        raise HiesError(f"The command of the rows is {command!r}; only one that begins with {COMMAND!r} is repeated.")
    overrides = translated([word for word in words[len(start) :] if word != DATA_ROOT])
    if (code := next((word for word in overrides if _imports(word) and _key(word) not in named), None)) is not None:
        raise HiesError(
            f"The command of the rows takes code or settings from outside, {code[:200]!r}; if you trust them, give "
            f"{printable(_key(code)[:80])}=... yourself."
        )
    overrides = [word for word in overrides if not _imports(word)]
    if (refused := next((word for word in overrides if not _is_plain(word, folders)), None)) is not None:
        raise HiesError(
            f"The command of the rows holds {refused!r}; only overrides of the form key=value are taken, whose groups "
            "have a choice of conf/ and whose values stand for themselves."
        )
    return [word for word in overrides if _key(word) not in OF_THIS_CALL]


def _imports(word: str) -> bool:
    """Whether a word names a class to import, or a folder of what may name one: configurations, or lm-eval's tasks."""
    return word.startswith(CONFIG_DIR) or TARGET in word or INCLUDE_PATH in word


def _is_plain(word: str, folders: Sequence[Path]) -> bool:
    """Whether an override sets one option to a value that is all there, or a group to a choice that is known."""
    if (match := PLAIN_OVERRIDE.fullmatch(word)) is None:
        return False
    key, value = match.groups()
    choices = choices_of(key, folders)
    return value in choices if choices else _stands_for_itself(word)


@cache
def _stands_for_itself(word: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(word)
        return not override.is_sweep_override() and "${" not in f"{override.value()}"  # escapes are resolved here
    except (HydraException, RecursionError):
        return False


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _job_of(rows: Sequence[Row], further: Sequence[str], folders: Sequence[Path]) -> Job:
    """The job that these rows are of, with further overrides and folders of configurations; Hydra must be ready."""
    named = {*map(_key, further), *([_key(CONFIG_DIR)] if folders else [])}
    overrides = [*recorded_overrides(rows[0]["command"], named, folders), *further]
    places = json.dumps([f"file://{folder}" for folder in folders])
    job = Job.of(hydra.compose("config", [f"hydra.searchpath={places}", *overrides]), overrides)
    if job.run_id != rows[0]["run_id"]:
        raise HiesError(
            f"The command of {rows[0]['run_id']} makes another run now, {job.run_id}: {_what_differs(job, rows)}."
        )
    return job


def _what_differs(job: Job, rows: Sequence[Row]) -> str:
    row, config = rows[0], job.config
    described = job.describe()  # whose parameters are the criterion's knobs; those of a row are the model's weights
    now = {**described.pop("parameters"), **config.sparsity.knobs, **described}
    now |= source_of_job(config) | {"calibration_size": config.calibration.size, "precision": config.model.precision}
    now |= {f"calibration_{name}": value for name, value in config.calibration.off_default.items()}
    keys = [key for key in now if key in row and key not in ("run_id", "command") and now[key] != row[key]]
    if keys:
        return ", ".join(f"{key} is {now[key]} where the rows have {row[key]}" for key in keys)
    if missing := sorted({row["ratio"] for row in rows} - {0.0, *config.sparsity.ratios}):
        return f"sparsity.ratios lacks {', '.join(map(str, missing))}"
    if (data := evaluator_of(config).content) != row["data"]:
        return f"the data of task={config.task.name} have the digest {data} where the rows have {row['data']}"
    if not results.versions().items() <= row["versions"].items():
        return "the code, its settings or the weights; the installed versions are others too"
    return "the code, its settings or the model's weights"


if __name__ == "__main__":
    sys.exit(main())

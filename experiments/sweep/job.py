"""One job is one curve: a model, a task, a criterion and a seed over a list of ratios."""

import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
from omegaconf import DictConfig, OmegaConf

from experiments.config.messages import config_dirs
from experiments.config.outside import source_of_job
from experiments.config.schema import Config, to_config
from experiments.sweep.devices import checked_device, silence_libraries, unclaimed_device
from experiments.sweep.measured import loss_arrays, measured_at
from hies.errors import HiesError, UnsupportedModelError
from hies.evaluation.models import PRUNABLE
from hies.methods.planning import Draw, Plan, Tick
from hies.precision import AUTO, has_bfloat16, machine, warn_if_slow
from hies.pruning.selection import check_plain
from hies.runs import files as results
from hies.runs.files import read_arrays, read_run
from hies.runs.schema import CRITERION_SEED, BadRows
from hies.storage import digest, replacing, safe_filename

if TYPE_CHECKING:  # torch and transformers, which are imported when a job is computed
    from hies.evaluation.evaluation import PassCounter
    from hies.evaluation.evaluator import Evaluator

COMMAND = "python -m experiments.run"


@dataclass(frozen=True)
class Job:
    """What one run identifier stands for, and its files.

    Attributes:
        config: the checked configuration.
        overrides: what makes it, none of them a sweep or one of Hydra's own settings.
        config_dirs: folders outside conf/ that its configuration may come from.
    """

    config: Config
    overrides: tuple[str, ...]
    config_dirs: tuple[Path, ...] = ()

    @classmethod
    def of(cls, node: DictConfig, overrides: Sequence[str]) -> "Job":
        """Returns the job of a composed configuration.

        How and where it runs (hydra/launcher=..., resources.gpus=...) is no part of it. A precision that is `auto` is
        settled here and named from here on, so that a worker on another machine computes what was declared.
        """
        kept = [word for word in overrides if not word.startswith(("hydra.", "hydra/", "resources."))]
        config = to_config(node)
        if config.model.precision == AUTO:
            precision = "bfloat16" if has_bfloat16(unclaimed_device(config.device)) else "float32"
            config = replace(config, model=replace(config.model, precision=precision))
            kept.append(f"model.precision={precision}")
        return cls(config, tuple(kept), tuple(config_dirs()))

    @property
    def command(self) -> str:
        """The command line that repeats this job."""
        folders = (f"--config-dir={folder}" for folder in self.config_dirs)
        return " ".join([COMMAND, *map(shlex.quote, (*folders, *self.overrides))])

    @property
    def data_root(self) -> Path | None:
        """The folder of local data sets; None for the Hub."""
        return None if self.config.data_root is None else Path(self.config.data_root)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that changes the result, and nothing else: no path, batch size, sparsity.mode or log setting."""
        config = self.config
        return {
            "schema": results.SCHEMA,
            "model": [config.model.name, config.model.identity(config.task)],
            "task": [config.task.name, config.task.fingerprint(self.data_root), config.task.max_examples],
            "calibration": config.calibration.identity(self.data_root),
            **self.choices,
            **({} if config.model.sites is None else {"sites": config.model.sites}),
            **({} if config.task.judge is None else {"judge": config.task.judge}),
            **source_of_job(config),
        }

    @property
    def choices(self) -> dict[str, Any]:
        """The part of the identity for which neither data nor weights are read."""
        config = self.config
        return {
            "criterion": [config.criterion.name, config.criterion.knobs],
            "sparsity": config.sparsity.knobs,
            "seed": config.seed,
        }

    @cached_property
    def run_id(self) -> str:
        """A readable name that begins with a letter, and a digest of the identity."""
        config = self.config
        words = f"{config.model.name}-{config.task.name}-{config.criterion.name}-s{config.seed}"
        return f"run-{safe_filename(words)}-{digest(self.identity)}"

    @property
    def path(self) -> Path:
        """The row file."""
        return results.run_path(Path(self.config.results_dir), self.config.name, self.run_id)

    @property
    def lock(self) -> filelock.BaseFileLock:
        """Held by the process that is at this job; it goes with the process, however that ends."""
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self._lock_file)

    def lock_is_held(self) -> bool:
        """Tells whether a process is at this job; where none ever was, nothing is written to find out."""
        if not self._lock_file.exists():
            return False
        try:
            with self.lock.acquire(blocking=False):
                return False
        except OSError as problem:  # a folder that may only be read; a process at work would be somebody else's
            return isinstance(problem, filelock.Timeout)

    @property
    def _lock_file(self) -> Path:
        return self.path.parent / ".locks" / self.run_id

    @property
    def finished(self) -> bool:
        """Whether the rows are there, and as they were written."""
        return self.damage() is None

    def rows(self) -> list[results.Row]:
        """Returns the rows as they were written.

        Raises:
            FileNotFoundError: the job has none yet.
            BadRows: they, or the arrays beside them, cannot be trusted.
        """
        try:
            rows = read_run(self.path, self.path.read_text(encoding="utf-8", errors="replace"))
            read_arrays(self.path, ("ratios",))
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise BadRows(f"cannot be read ({problem.strerror})") from None
        return rows

    @property
    def written(self) -> list[int]:
        """When the rows and the record of a failure were written, in nanoseconds; empty if neither is there."""
        files = self.path, results.failure_path(self.path)
        return [file.stat().st_mtime_ns for file in files if file.exists()]

    def left_something_since(self, before: list[int]) -> bool:
        """Tells whether rows or the record of a failure are there that were not at a look (`written`) before."""
        return self.written not in ([], before)

    def damage(self) -> str | None:
        """Returns what is wrong with the row file, in words that follow its name; None if nothing is."""
        try:
            self.rows()
        except BadRows as problem:
            return str(problem)
        except FileNotFoundError:
            return "is not there"
        return None

    def put_aside_damaged(self) -> None:
        """Renames a row file that cannot be trusted, so that nothing is lost that a person may want to look at."""
        if self.path.exists() and self.damage() is not None:
            self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))

    def describe(self) -> dict[str, Any]:
        """Returns what names this job in a grid."""
        names = {key: value for key, value in self._names().items() if key not in ("experiment", "split")}
        identity = {**self.identity, "sparsity": {**self.identity["sparsity"], "ratios": None}}
        own = {"parameters": self._knobs(), "seed": self.config.seed, "command": self.command}
        return {**names, **own, "curve": digest(identity)}

    @property
    def steps(self) -> int:
        """Masks that the model is evaluated with: what a progress bar counts."""
        ratios = self.config.sparsity.ratios
        return len({0.0, *ratios}) + self.config.criterion.steps(ratios)

    def plan(self, evaluator: "Evaluator", tick: Tick = lambda: None) -> Plan:
        """Returns what the job evaluates; `tick` is called for each mask looked at to choose alpha."""
        config = self.config
        draw = Draw(config.seed, config.calibration.size)
        return config.criterion.plan(evaluator, draw, config.sparsity, config.sparsity.ratios, tick)

    def run(self, evaluator: "Evaluator", tick: Tick = lambda: None) -> list[results.Row]:
        """Scores, selects, evaluates every ratio and writes the rows; the unpruned model is the row of ratio 0.

        Args:
            evaluator: of the configuration, from `evaluator_of`.
            tick: called for each mask that the model is evaluated with.
        """
        self._check(evaluator)
        plan = self.plan(evaluator, tick)
        constant, rows = self._constant(evaluator), []
        answers: list[np.ndarray] = []
        losses: list[Mapping[str, np.ndarray]] = []
        for ratio, pruned in plan.models.items():
            if ratio:  # scored, unpruned answers, pruned answers
                passes = evaluator.scoring_passes(self.config.criterion.need, self.config.calibration.size)
                evaluator.counter.naive += passes + 2 * len(evaluator.labels("report"))
            result = pruned.evaluated(evaluator)
            answers.append(result.answers)
            losses.append(result.losses)
            scored = plan.seconds if np.isnan(result.prune_seconds) else result.prune_seconds
            times = {"score_seconds": round(scored, 4), "eval_seconds": round(result.eval_seconds, 4)}
            measured = measured_at(evaluator, pruned.removed, result, answers[0])
            rows.append({**constant, "ratio": ratio, **measured, **plan.notes[ratio], **times})
            tick()
        arrays = {
            "ratios": np.array(list(plan.models)),
            "predictions": np.stack(answers),  # [ratios, examples]
            "labels": evaluator.labels("report"),
            **loss_arrays(losses, len(answers[0])),
        }
        with replacing(self.path.with_suffix(".yaml")) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(self.config))), encoding="utf-8")
        results.write_run(self.path, rows, plan.arrays | arrays)
        return rows

    def _check(self, evaluator: "Evaluator") -> None:
        """Refuses before any work what the data or the model's structure do not allow, and weights that changed."""
        if self.config.model.identity(self.config.task) != self.identity["model"][1]:
            raise HiesError(
                f"The weights of model={self.config.model.name} changed since the command began; give it again."
            )
        evaluator.check_size(self.config.calibration.size)
        names = f"criterion={self.config.criterion.name}", f"model={self.config.model.name}"
        try:
            evaluator.check(self.config.criterion)
        except UnsupportedModelError as error:
            raise HiesError(f"{names[0]} does not fit {names[1]}: {error}") from None
        if evaluator.remove and self.config.criterion.removes_heads:
            try:
                evaluator.prunable_sites()
            except UnsupportedModelError as error:
                why = f"but {names[1]} cannot be cut; use sparsity.mode=mask"
                some = ", or model.sites=prunable for the sites that can" if vars(evaluator).get("prunable") else ""
                raise HiesError(f"sparsity.mode is 'remove', {why}{some}: {error}") from None
        if self.config.sparsity.plain:
            check_plain(evaluator.prunable)
        if self.config.model.sites == PRUNABLE and evaluator.prunable and evaluator.prunable.refused:
            warnings.warn(evaluator.prunable.note, stacklevel=2)

    def _constant(self, evaluator: "Evaluator") -> results.Row:
        """What is the same in every row of the run."""
        config = self.config
        chance = evaluator.task.chance(evaluator.splits.report)
        return {
            **self._names(),
            **self._knobs(),
            **{name: value for name, value in config.sparsity.knobs.items() if name != "ratios"},
            "seed": config.seed,
            "calibration_size": config.calibration.size,
            "heads_total": evaluator.heads_total,
            "metric": config.task.metric,
            "checkpoint": evaluator.checkpoint_identity,
            "label_order": evaluator.label_order,
            "data": evaluator.content,
            "precision": config.model.precision,
            "versions": results.versions() | machine(evaluator.device) | evaluator.trained_on(),
            "revision": results.revision(),
            "command": self.command,
            **({} if config.model.sites is None else {"sites": config.model.sites}),
            **{f"calibration_{name}": value for name, value in config.calibration.off_default.items()},
            **source_of_job(config),
            **({} if chance is None else {"chance": round(chance, 6)}),
            **config.task.notes(self.data_root),
        }

    def _names(self) -> dict[str, str]:
        config = self.config
        return {
            "run_id": self.run_id,
            "experiment": config.name,
            "model": config.model.name,
            "task": config.task.name,
            "split": "report",
            "criterion": config.criterion.name,
        }

    def _knobs(self) -> dict[str, Any]:
        """The criterion's knobs as rows have them, where `seed` is the job's: another one goes by another name."""
        knobs = dict(self.config.criterion.knobs)
        seed = knobs.pop("seed", self.config.seed)
        return knobs if seed == self.config.seed else {**knobs, CRITERION_SEED: seed}


_evaluators: dict[str, "Evaluator"] = {}


@cache
def pass_counter() -> "PassCounter":
    """Returns the counter of all evaluators of this process."""
    from hies.evaluation.evaluation import PassCounter

    return PassCounter()


def evaluator_of(config: Config) -> "Evaluator":
    """Returns the evaluator of a configuration; the last one stays loaded: a sweep reads model and data once."""
    silence_libraries()
    from hies.evaluation.evaluator import Evaluator

    device = checked_device(config.device)
    data_root = None if config.data_root is None else Path(config.data_root)
    evaluator = Evaluator(config.model, config.task, data_root, Path(config.cache_dir), device, pass_counter())
    for name in ("precision", "dtype"):
        if getattr(config.model, name) == "bfloat16":
            warn_if_slow(f"model.{name}", device)
    declared = [config.task.name, evaluator.declared, config.task.max_examples, config.model.identity(config.task)]
    key = digest([declared, str(device), config.model.batch_size, config.model.sites, config.cache_dir])
    if key not in _evaluators or _evaluators[key].task != config.task:
        _evaluators.clear()
        _evaluators[key] = evaluator
    _evaluators[key].fresh = config.force
    _evaluators[key].remove = config.sparsity.mode == "remove"
    _evaluators[key].calibrate_on = config.calibration
    return _evaluators[key]

"""What every command of this package shares: arguments, and errors as one sentence each."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.main import get_args_parser
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.config import messages, options, store
from experiments.config.help import help_text
from experiments.config.outside import place_of
from experiments.sweep.job import Job
from experiments.sweep.jobs import Declared, check_finetuning, jobs_of_sweep
from experiments.sweep.launch import Here, Launcher
from experiments.sweep.progress import print_warnings_above_the_bar
from experiments.sweep.worker import Stopped
from hies.errors import HiesError, ParameterError, first_line, output_closed

store.register()

GOES_ON = {  # whether force=true is set -> what the same command again does
    False: "goes on from there",
    True: "computes all of it again; without force=true it does what has no rows yet",
}


@dataclass
class Command:
    """What Hydra calls with a composed command line: a single job here, a sweep by way of `hydra_plugins`.

    Attributes:
        work: does the declared jobs and returns an exit status.
        takes_out: it writes a pruned model, to the folder `out`.
        status: of the work that was done.
        forced: some of the declared jobs compute anew what is finished.
    """

    work: Callable[[Declared], int]
    takes_out: bool = False
    status: int = 0
    forced: bool = False

    def __call__(self, node: DictConfig) -> None:
        """Does the single job that a command line declares."""
        overrides = HydraConfig.get().overrides.task
        self._do(lambda: Declared([Job.of(node, overrides)], sweep=False, whole=False, launcher=Here()))

    def sweep(self, params: Mapping[str, str], arguments: Sequence[str], launcher: Launcher) -> None:
        """Does the jobs of a sweep."""
        self._do(lambda: jobs_of_sweep(arguments, params, launcher))

    def _do(self, declare: Callable[[], Declared]) -> None:
        # Said here, since Hydra would print a line of its own before it raised what a job raises.
        self.status = report_errors(lambda: self.work(self._checked(declare())), lambda: self.forced)

    def _checked(self, declared: Declared) -> Declared:
        self.forced = any(job.config.force for job in declared.jobs)
        if not self.takes_out and (out := next((job.config.out for job in declared.jobs if job.config.out), None)):
            raise ParameterError("out", out, "this command writes no model there; experiments.prune does")
        check_finetuning(declared.jobs)
        return declared


def run_command(work: Callable[[Declared], int], description: str, takes_out: bool = False) -> int:
    """Does `work` on the jobs that the command line declares, or answers a flag; returns the exit status.

    Args:
        work: returns an exit status.
        description: what --help says before the options.
        takes_out: the work writes a pruned model, to the folder `out`.
    """
    print_warnings_above_the_bar()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors arrive here, to be said in one sentence
    if {"-h", "--help"} & {*sys.argv[1:]}:
        return report_errors(lambda: print(help_text(description)))
    words = options.translated(sys.argv[1:])
    if wrong := messages.not_a_name(words):
        _print_error(wrong)
        return 2
    if any(word.startswith("hydra/launcher=") for word in words):
        words.append("hydra.mode=MULTIRUN")  # Hydra would do a single job itself
    command = Command(work, takes_out)
    main = hydra.main(config_path=str(messages.CONF), config_name="config", version_base="1.3")(command)

    def work_in_order() -> int | None:
        sys.argv[1:] = _flags_last(words)
        return main()

    try:
        return report_errors(work_in_order, lambda: command.forced) or command.status
    except SystemExit as end:  # of Hydra's own flags, or of one that is none
        return int(end.code or 0)


def _flags_last(words: list[str]) -> list[str]:
    """Returns a command line with Hydra's flags and their values behind the options: argparse takes none between.

    Raises:
        HiesError: a flag is not known, lacks its value, has one that it does not take, or does not go with another.
        SystemExit: --version was answered.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # it would print a list of flags and leave
    given, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        raise HiesError(messages.no_option(unknown[0]))
    if len(modes := [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(given, name)]) > 1:
        raise HiesError(f"{' and '.join(modes)} do not go together; give one of them.")
    flags = words[::-1]
    for word in given.overrides:
        flags.remove(word)
    in_order = [*given.overrides, *flags[::-1]]
    return sorted(in_order, key=lambda word: word not in ("-m", "--multirun"))  # first, as documented commands have it


def _refuse(message: str) -> NoReturn:
    raise HiesError(f"{message.removeprefix('argument ')}; --hydra-help says what flags take.")


def report_errors(work: Callable[[], int | None], forced: Callable[[], bool] = lambda: False) -> int:
    """Does `work` and returns the exit status; an error is printed in one sentence.

    Args:
        work: returns an exit status, or None for success.
        forced: tells whether the work computes anew what is finished, as the same command again would.
    """
    try:
        status = work() or 0
        print(end="", flush=True)  # here, where it can be said what came of it
        return status
    except BrokenPipeError:
        return output_closed()
    except (HydraException, OmegaConfBaseException) as error:
        _print_error(messages.sentence(error))
    except HiesError as error:
        _print_error(str(options.with_option(error)))
    except Stopped as error:
        where = error.filename or "A file in results_dir or cache_dir"
        _print_error(
            f"{where} cannot be written ({error.strerror}); check results_dir and cache_dir or make room, and give the "
            f"same command again, which {GOES_ON[forced()]}: finished jobs are kept."
        )
    except OSError as error:
        _print_error(
            f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error}); check results_dir, "
            "cache_dir and data_root."
        )
    except Exception as error:
        if (place := place_of(error)) is None:
            raise
        _print_error(f"{place}: {type(error).__name__}: {first_line(error)}.")
    except KeyboardInterrupt:
        print(f"Interrupted; finished work is kept, and the same command {GOES_ON[forced()]}.", file=sys.stderr)
        return 130
    return 2


def _print_error(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)

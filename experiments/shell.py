"""What every command of this package shares: arguments, and errors as one sentence each."""

import os
import sys
from collections.abc import Callable

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments import schema
from experiments.grid import Declared, declared_jobs
from experiments.messages import CONF, sentence
from experiments.quiet import quiet
from experiments.worker import Stopped
from hies.errors import HiesError

schema.register()
os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors arrive here, to be said in one sentence


def command(work: Callable[[Declared], int], help_of: Callable[[], None]) -> int:
    """Compose the jobs that the command line declares and do `work` on them; the exit status.

    help_of answers Hydra's own flags (--help, --cfg, --info, ...).
    """
    quiet()
    arguments = get_args_parser().parse_args()
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)):
        help_of()
        return 0
    return in_sentences(lambda: work(declared_jobs(arguments.overrides, arguments.multirun)))


def in_sentences(work: Callable[[], int]) -> int:
    """Do `work` with Hydra ready for it; what goes wrong is said in one sentence. The exit status."""
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return work()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
    except HiesError as error:
        print(f"error: {error}", file=sys.stderr)
    except Stopped as error:
        where = error.filename or "A file in results_dir or cache_dir"
        print(
            f"error: {where} cannot be written ({error.strerror}); make room and give the same command again, which "
            "goes on from here: finished jobs are kept.",
            file=sys.stderr,
        )
    except OSError as error:
        print(
            f"error: {error.filename or 'a file'} cannot be read or written ({error.strerror or error}); check "
            "results_dir, cache_dir and data_root.",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print("Interrupted; finished work is kept, and the same command goes on from there.", file=sys.stderr)
        return 130
    return 2

"""Settings and fixtures of all tests; what else they share is in `tests/support`."""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers as tf
from command_line import cache, call, new_process, quicken_hydra  # noqa: F401 - fixtures

gc.disable()  # until all is collected: it would take a third of the seconds of all imports
pytest.register_assert_rewrite("checks", "tiny_models", "shown")
torch.set_num_threads(1)
tf.logging.set_verbosity_error()
quicken_hydra()


def pytest_addoption(parser):
    parser.addoption(
        "--all-architectures", action="store_true", help="every architecture and damaged folder, not a sample"
    )


def pytest_collection_modifyitems(config, items):
    """Leave out the architectures beyond the sample, unless all are wanted or a test is named on the command line."""
    if config.getoption("--all-architectures"):
        return
    named = {argument.partition("[")[0] for argument in config.args if "[" in argument}
    beyond = [item for item in items if item.get_closest_marker("beyond_sample")]
    beyond = [item for item in beyond if item.nodeid.partition("[")[0] not in named]
    config.hook.pytest_deselected(items=beyond)
    items[:] = [item for item in items if item not in beyond]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="session")
def glue_copy(tmp_path_factory):
    """A made-up copy of all GLUE tasks in the layout of the Hub repository."""
    from glue_copy import write_copy

    from hies.tasks.glue import GLUE_TASKS

    root = tmp_path_factory.mktemp("data")
    for kind in GLUE_TASKS:
        write_copy(root, kind)
    return root


def pytest_collection_finish():
    """Spare the garbage collector a look at what the imports left, whenever a test makes many objects."""
    gc.collect()
    gc.freeze()
    gc.enable()

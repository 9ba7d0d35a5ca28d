"""Settings and fixtures of all tests; what else they share is in `tests/support`."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers as tf
from command_line import cache, call, new_process  # noqa: F401 - fixtures

pytest.register_assert_rewrite("checks", "tiny_models", "shown")
torch.set_num_threads(1)
tf.logging.set_verbosity_error()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="session")
def glue_copy(tmp_path_factory):
    """A made-up copy of all GLUE tasks in the layout of the Hub repository."""
    from glue_copy import write_copy

    from hies.tasks.glue import GLUE

    root = tmp_path_factory.mktemp("data")
    for kind in GLUE:
        write_copy(root, kind)
    return root

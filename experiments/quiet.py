"""Keeps the libraries' messages off the terminal, where the sweep's own are."""

import sys
import warnings
from typing import Any

import huggingface_hub
import transformers
from tqdm import tqdm


def quiet() -> None:
    """Show of transformers and the Hub nothing but errors, and a warning as one line above a bar, in this process."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    warnings.showwarning = _in_a_line


def _in_a_line(message: Any, *_: Any, **__: Any) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)

"""Keeps the libraries' messages off the terminal, where the sweep's own are."""

import huggingface_hub
import transformers


def quiet() -> None:
    """Show of transformers and the Hub nothing but errors, in this process."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()

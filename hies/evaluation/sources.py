"""What a source of weights stands for: the commit of a Hub name, and no adapter. Needs no torch."""

import re
from functools import cache
from pathlib import Path

from hies.errors import ParameterError
from hies.storage import RECORD

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # owner/name, or the name alone of an old model
ADAPTER = "adapter_config.json"
MERGE = (
    f"it holds an adapter ({ADAPTER}), and whole models alone can be told from each other; merge it into its base "
    "model with peft's merge_and_unload(), write that with save_pretrained(), and give the new folder"
)


@cache
def commit_of(source: str) -> str | None:
    """Returns the commit that a Hub name stands for: that of the snapshot that huggingface_hub reads.

    The Hub says it, or, offline, the local cache. A process asks once: all that it loads is of one commit, and its
    results are called by that.

    Args:
        source: a Hub name, or any other source.

    Returns:
        None for what is no Hub name, and where neither the Hub nor the local cache has a model of this name.
    """
    file = None if Path(source).exists() else _hub_file(source, "config.json")
    return None if file is None else file.parent.name


def holds_adapter(folder: Path) -> bool:
    """Returns whether an adapter would be loaded from a local folder, on top of its weights or of others.

    Of what `hies.save_pruned` wrote, only the files that its record names are read.
    """
    return (folder / ADAPTER).is_file() and not (folder / RECORD).is_file()


def check_no_adapter(source: str) -> None:
    """Raises ParameterError where a folder, or what the Hub has under a name, holds an adapter."""
    if holds_adapter(Path(source)) or (not Path(source).exists() and _hub_file(source, ADAPTER, commit_of(source))):
        raise ParameterError("source", source, MERGE)


def _hub_file(name: str, file: str, commit: str | None = None) -> Path | None:
    """Returns a file of the Hub in the local cache, fetched if it may be; None where there is none to be had."""
    if not HUB_NAME.fullmatch(name):
        return None
    import huggingface_hub

    local = not _hub_answers()
    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=commit, local_files_only=local))
    except Exception:  # huggingface_hub raises whatever its network layer does; loading says that nothing is there
        return None


@cache
def _hub_answers() -> bool:
    """Returns whether the Hub can be reached, tried once: for each name huggingface_hub would try half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # offline, by the environment's word or the network's
        return False
    return True

"""Hydra's errors as one sentence each: the option, its value, and what would work."""

import difflib
import re
from pathlib import Path

from omegaconf import OmegaConf

from experiments.schema import Config

CONF = Path(__file__).parent.parent / "conf"


def sentence(error: BaseException) -> str:
    """What a person needs of an error that Hydra or OmegaConf raised."""
    text = str(error)
    if match := re.search(r"Could not find '(?:(?!hydra/).*/)?((?:hydra/)?\w+)/([^'/]+)'", text):
        group, name = match.groups()
        return f"{group}={name} is not known; {_choices(group, name)}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        key = match.group(1) or match.group(2)
        return f"There is no option {key!r}{_closest_key(key)}"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match.group(1)!r} has several values; put -m before the options to run a job for each."
    if match := re.search(r"Error parsing override '([\w.]+)'", text):
        return f"{match.group(1)!r} is no option; options are given as NAME=VALUE."
    if match := re.search(
        r"Error merging override ([^=\s]+)=(\S+)[\s\S]*is not a ListConfig", f"{text} {error.__cause__}"
    ):
        key, value = match.groups()
        return f"{key}={value} is no list; write {key}=[{value}]."
    cause = error.__cause__ or error.__context__
    reason = f": {_first_line(str(cause))}" if cause is not None and text.startswith("Error merging") else ""
    return f"{_first_line(text)}{reason}".rstrip(".") + "."


def _choices(group: str, name: str) -> str:
    known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? It" if close else "it"
    return f"{hint} can be {', '.join(known)}." if known else f"there is no group {group!r}."


def _closest_key(key: str) -> str:
    """Which choice of its group has this option; else the most similar one, by the last word of the key first."""
    group, _, name = key.partition(".")
    if having := [file.stem for file in sorted((CONF / group).glob("*.yaml")) if name in OmegaConf.load(file)]:
        return f" here; {group}={having[0]} has it."
    known = _all_keys()
    same_word = [option for option in known if option.split(".")[-1] == key.split(".")[-1]]
    close = same_word[:1] or difflib.get_close_matches(key, known, 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ", and none is similar to it."


def _all_keys() -> list[str]:
    schema = OmegaConf.structured(Config)
    keys = [str(key) for key in schema]
    keys += [f"{section}.{key}" for section in ("calibration", "wandb", "resources") for key in schema[section]]
    for file in sorted(CONF.glob("*/*.yaml")):
        node = OmegaConf.load(file)
        if OmegaConf.is_dict(node) and file.parent.name != "experiment":
            keys += [f"{file.parent.name}.{key!s}" for key in node if key != "defaults"]
    return sorted(set(map(str, keys)))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "unknown error"

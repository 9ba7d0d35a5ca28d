"""Hydra's errors as one sentence each: the option, its value, and what would work."""

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from experiments.config.schema import Config
from hies.errors import first_line

CONF = Path(__file__).parents[2] / "conf"
# What Hydra reads as something else than a name.
NO_NAME = re.compile(r"null|true|false|[-+]?(inf|nan|[\d_.]+(e[-+]?\d+)?)", re.IGNORECASE)


def sentence(error: BaseException) -> str:
    """Returns what a person needs of an error that Hydra or OmegaConf raised."""
    text = str(error)
    if match := re.search(r"Could not find '((?:hydra/)?\w+)/([^']+)'", text):
        group, name = match.groups()
        if group == "model" and ("/" in name or Path(name).exists()):
            return (
                f"model={name} is no choice of conf/model; for weights in a folder or on the Hub give model=any (or "
                f"model=language, for a model that answers prompts) and {quoted('model.source', name)}."
            )
        return f"{group}={name} is not known; {_choices(group, name)}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        return _unknown_key(match[1] or match[2], str(error.__cause__))
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        again = quoted(*match.group(1).split("=", 1))
        return (
            f"{match.group(1)!r} has several values; put -m before the options to run a job for each, or quote a "
            f"single value that has commas: {again}."
        )
    if match := re.search(r"Error parsing override '([\w.]+)'", text):
        return no_option(match.group(1))
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if match := re.search(
        r"Error merging override ([^=\s]+)=(\S+)[\s\S]*is not a ListConfig", f"{text} {error.__cause__}"
    ):
        key, value = match.groups()
        return f"{key}={value} is no list; write {key}=[{value}]."
    cause = error.__cause__ or error.__context__
    reason = f": {first_line(cause)}" if cause is not None and text.startswith("Error merging") else ""
    return f"{first_line(error)}{reason}."


def _unreadable(word: str) -> str:
    """What to do about a word that is none in Hydra's grammar."""
    key, _, value = word.partition("=")
    if not re.fullmatch(r"\+{0,2}~?[\w./@:-]+", key, re.ASCII) or quoted(key, value) == word:
        return no_option(word)
    if value.startswith(("[", "{")):
        return (
            f"{word[:200]} is no whole list or mapping; write {key}=[1,2], its texts in quotes, all of it in quotes of "
            "the shell."
        )
    return (
        f"{key} is {value!r}, which has characters that mean something else to Hydra; quote it for Hydra and for the "
        f"shell: {quoted(key, value)}."
    )


def not_a_name(words: Sequence[str]) -> str | None:
    """Returns what is wrong with a word that has a name too few or too many, for which Hydra has no sentence."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if re.match(r"[+~@]*=", word):
            return no_option(word)
        if key == "experiment" and "," in value:
            return f"{word!r} names several grids, and a command does one; give a command for each."
        if any(NO_NAME.fullmatch(one.strip()) for one in value.split(",")) and choices_of(key):
            return f"{word!r} is no name; {_choices(key, value)}"
    return None


def no_option(word: str) -> str:
    """Returns what to say of a word that names no option."""
    return f"{word!r} is no option; options are given as NAME=VALUE."


def quoted(key: str, value: str) -> str:
    """Returns an option as one types it, whatever is in its value."""
    if re.fullmatch(r"[\w./:@%-]+", value, re.ASCII):
        return f"{key}={value}"
    inside = re.sub(r'(\\*)"', r'\1\1\\"', value)  # Hydra reads backslashes before a quotation mark, and no others
    inside += inside[len(inside.rstrip("\\")) :]
    return shlex.quote(f'{key}="{inside}"')


def choices_of(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Returns the names that a group can be set to: files, of `folders` as well, and what is stored by itself."""
    places = [folder / group for folder in (CONF, *folders)]
    files = {path.relative_to(place).with_suffix("").as_posix() for place in places for path in place.rglob("*.yaml")}
    return sorted(files | {name.removesuffix(".yaml") for name in _stored(group) if name.endswith(".yaml")})


def config_dirs() -> list[Path]:
    """Returns the folders of configurations that the command line names (--config-dir), besides conf/."""
    if not GlobalHydra.instance().is_initialized():
        return []
    entries = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return [Path(entry.path.removeprefix("file://")) for entry in entries if entry.provider == "command-line"]


def _stored(group: str) -> list[str]:
    try:
        return ConfigStore.instance().list(group)
    except OSError:  # no such group, or the name of a single configuration
        return []


def _choices(group: str, name: str) -> str:
    known = choices_of(group)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? It" if close else "it"
    return f"{hint} can be {', '.join(known)}." if known else f"there is no group {group!r}."


def _unknown_key(key: str, why: str) -> str:
    """What to say of an option that is not there, or of a mapping with a key that is not, as `why` says."""
    if match := re.search(r"full_key: (\S+)", why):
        key = match[1]
    if "reference_type=Dict" in why:
        return f"{key} has no value yet; a new entry takes a plus sign: +{key}=VALUE."
    return f"There is no option {key!r}{_closest_key(key)}"


def _closest_key(key: str) -> str:
    """Names the choice of its group that has this option; else the most similar one, by the last word of the key."""
    group, _, name = key.partition(".")
    if having := [choice for choice in choices_of(group) if name in _keys_of(group, choice)]:
        return f" here; {group}={having[0]} has it."
    known = _all_keys()
    same_word = [option for option in known if option.split(".")[-1] == key.split(".")[-1]]
    close = same_word[:1] or difflib.get_close_matches(key, known, 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ", and none is similar to it."


def _all_keys() -> list[str]:
    schema = OmegaConf.structured(Config)
    keys = [str(key) for key in schema]
    keys += [f"{section}.{key}" for section in ("calibration", "wandb", "resources") for key in schema[section]]
    for group in ("model", "task", "criterion", "sparsity"):
        keys += [f"{group}.{key}" for choice in choices_of(group) for key in _keys_of(group, choice)]
    return sorted(set(keys))


def _keys_of(group: str, choice: str) -> set[str]:
    """Returns the options of a choice: those that its file sets, and those of the dataclass that the file builds on."""
    file, store = CONF / group / f"{choice}.yaml", ConfigStore.instance()
    kind = f"{group}/{choice.partition('/')[0]}" if group in ("criterion", "task") else group
    nodes = [OmegaConf.load(file)] if file.exists() else []
    if f"{choice}.yaml" in _stored(group):
        nodes.append(store.load(f"{group}/{choice}.yaml").node)
    if f"{kind.rpartition('/')[2]}.yaml" in _stored(f"schema/{kind}".rpartition("/")[0]):
        nodes.append(store.load(f"schema/{kind}.yaml").node)
    return {str(key) for node in nodes for key in node if key != "defaults"}

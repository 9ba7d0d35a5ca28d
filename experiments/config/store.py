"""Makes the options known to Hydra: the fields of the dataclasses, and a choice for every method and task."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from experiments.config import outside
from experiments.config.messages import CONF
from experiments.config.schema import Config, Sparsity
from hies.evaluation.models import Model
from hies.methods import METHODS
from hies.tasks import TASKS

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # the files of conf/hydra/launcher


@cache
def register() -> None:
    """Makes everything known, once in a process."""
    _store("schema", Config)
    _store("model", Model, "schema")
    _store("sparsity", Sparsity, "schema")
    _store_choices("criterion", METHODS)
    _store_choices("task", TASKS)
    Plugins.instance()  # stores the launchers' own settings, against which Hydra would check our files, and warn
    for name in LAUNCHERS:
        ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{name}.yaml", None)


def _store_choices(group: str, kinds: Mapping[str, type]) -> None:
    """Stores each kind as what files build on, and as a choice where it has no file of its name; then those outside."""
    for name, kind in kinds.items():
        _store(name, kind, f"schema/{group}")
        if not (CONF / group / f"{name}.yaml").exists():
            _store(name, kind, group)
    _store_outside(group)


def _store_outside(group: str) -> None:
    """Stores a choice for each class that installed packages offer, and `custom`; files come before them."""
    for name, target in outside.choices(group).items():
        if not (CONF / group / f"{name}.yaml").exists():
            ConfigStore.instance().store(name=name, group=group, node=outside.node(target))


def _store(name: str, kind: type, group: str | None = None) -> None:
    ConfigStore.instance().store(name=name, group=group, node=_writable(OmegaConf.structured(kind)))


def _writable(node: Any) -> Any:
    """A frozen dataclass gives a read-only node, which the command line could not override."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(child := node[key]):
            _writable(child)
    return node

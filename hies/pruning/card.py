"""The model card of a pruned model: what was removed, how to load it, and its metrics where they are known."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from hies.heads.pruned import PrunedHeads
from hies.storage import replacing

CARD = "README.md"
MARK = "<!-- Written by hies.save_pruned, which replaces it. Remove this line to keep what you write here. -->"
HEAD = """---
library_name: transformers
tags: [hies, pruned]
---
# {name} without {removed} attention heads

Pruned with [HIES](https://arxiv.org/abs/2510.13832) by the library `hies`. To load it, from this folder or its name on
the Hub:

```python
import hies

model = hies.load_pruned("FOLDER")
```

Plain `from_pretrained` {loads}.

| attention module | heads before | removed |
|---|---|---|
"""
PLAIN = {True: "loads it too", False: "does not load it: the configuration cannot say which heads are gone"}


def write_card(folder: Path, model: nn.Module, plain: bool, metrics: Mapping[str, object] | None = None) -> None:
    """Writes the model card of a pruned model; one that somebody else wrote is left.

    Args:
        folder: of the model.
        model: made by `hies.prune`.
        plain: True if plain `from_pretrained` loads the folder.
        metrics: name -> value, as they are to be read.
    """
    if own_card(folder):
        with replacing(folder / CARD) as place:
            place.write_text(_text(model, plain, metrics or {}), encoding="utf-8")


def own_card(folder: Path) -> bool:
    """Returns True if the folder has no model card but one that was written here."""
    path = folder / CARD
    return not path.exists() or MARK in path.read_text(encoding="utf-8", errors="replace")


def _text(model: nn.Module, plain: bool, metrics: Mapping[str, object]) -> str:
    records = {name: PrunedHeads.of(module) for name, module in model.named_modules()}
    pruned = {name: record for name, record in records.items() if record}
    removed = sum(len(record.removed) for record in pruned.values())
    name = type(model).__name__
    lines = [f"| `{site}` | {one.dense_heads} | {', '.join(map(str, one.removed))} |" for site, one in pruned.items()]
    text = HEAD.format(name=name, removed=removed, loads=PLAIN[plain]) + "\n".join(lines) + "\n"
    if metrics:
        rows = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in metrics.items())
        text += f"\n| metric | value |\n|---|---|\n{rows}"
    return f"{text}\n{MARK}\n"


def _cell(value: object) -> str:
    """Returns a value as one cell of a Markdown table."""
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")

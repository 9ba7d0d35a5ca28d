"""docs/architectures.md and its JSON, from the rows of a walk."""

import json
import re
from pathlib import Path

import torch
import transformers

from hies.heads.conventions import REFUSED
from tests.walk.catalogue import parent_of, types

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA, VERSIONS = DOCS / "architectures.md", DOCS / "architectures.json", DOCS / "versions.json"
CHECKS = ("scored", "masked", "pruned", "saved", "plain")
HEAD = """# What works for which architecture

Made by `python -m tests.walk` with transformers {transformers} and torch {torch}, from
[architectures.json](architectures.json): every model type of transformers stands here. Each was tried as a tiny model
with random weights, in float64, with padding where it reads text; its sizes come from its default configuration by
rule, or stand in `tests/support`.

| | model types |
|---|---|
{counts}

- **heads**: the query heads of each attention module, in order of use.
- **scored**: HIS against central finite differences through gates of another make; AE against the softmax of the
  model's eager code, or the one that its module computes.
- **masked**: the outputs are those with the gates of the heads at zero, and those of a model whose output matrices
  ignore them.
- **pruned**: the outputs are those of the masked model, to 1e-10, and to 1e-5 in float32: some heads of every layer, a
  whole layer besides, and all heads. *partly*: some attention modules can be cut, others are refused by name.
- **saved**: what `save_pruned` wrote, `load_pruned` reads back; one layer has lost all its heads.
- **plain**: with the same groups of heads gone everywhere, transformers' own `from_pretrained` reads it too.

| type | class | heads | scored | masked | pruned | saved | plain | |
|---|---|---|---|---|---|---|---|---|
"""
SECTIONS = {
    "without": ("No attention heads", "| type | class | what it is made of |\n|---|---|---|\n"),
    "refused": ("Heads that are not reached", "| type | class | why |\n|---|---|---|\n"),
    "unbuilt": ("Not run", "| type | why |\n|---|---|\n"),
    "part": (
        "Parts",
        "Tried in the model that they are a part of; they have no head alone.\n\n| model | its parts |\n|---|---|\n",
    ),
}
CLASSES = """
## Classes that are not cut

Refused by the name of the class (`REFUSED` in `hies/heads/conventions.py`). Any other module is refused if it has a
part with weights whose share in the heads is not known, or names that are not in the table, or matrices that are
quantised, or weights that another module uses too.

| class | why |
|---|---|
"""
OTHERS = """
## Other versions, other libraries

`make test-versions` scores, masks, prunes, saves and loads {families} with each minor version of transformers that is
out, in an environment of its own ([versions.json](versions.json)): {results}.

Vision transformers of timm 1.0.31 and torchvision 0.28.0 were tried by hand (heads found; HIS against differences,
masks against zeroed columns, in float64). All held for torchvision's ViT, Swin and Swin V2, and for timm's ViT, Swin,
Swin V2, BEiT, PVT V2, EVA-02, the ViT with relative positions, and the class attention of CaiT, whose talking heads are
no sites. ConViT, CoaT, EfficientFormer V2, EfficientViT, FastViT, Hiera and IFormer are refused by name. None of them
can be cut: their projections have names of their own. The rest of timm was not tried.
"""
TAIL = """
## To add one

Finding, scoring and masking need nothing. For pruning, the names of its projections, norms and other parts go into
`hies/heads/conventions.py`; what changes besides the weights is in `hies/pruning/removal.py`. The walk builds a new
model type by rule; what the rules do not know of it goes into `tests/walk/own.py`, and `python -m tests.walk` writes
this page again. A line in `tests/support/text_models.py` or `multimodal_models.py` puts it under the tests of every
day.
"""


def group_of(row):
    """The table that a row stands in."""
    named = next((group for group in ("part", "unbuilt") if group in row), None)
    if named or "heads" in row or row.get("faults"):
        return named or "tried"
    return "without" if row.get("why") else "refused"


def holds(row, *checks):
    """True where all of these checks hold, at some sites at least."""
    return all(str(row.get(check)).split(":")[0] in ("yes", "partly") for check in checks)


def counts(rows):
    """What is counted on top of the page."""
    tried = [row for row in rows.values() if group_of(row) == "tried"]
    yield "heads found, scored and masked", sum(holds(row, "scored", "masked") for row in tried)
    yield "pruned and loaded again", sum(holds(row, "pruned", "saved") for row in tried)
    yield "of these, some attention modules alone", sum(str(row.get("pruned")).startswith("partly") for row in tried)
    yield "no attention heads", sum(group_of(row) == "without" for row in rows.values())
    yield "heads not reached", sum(group_of(row) == "refused" for row in rows.values())
    yield "not run", sum(group_of(row) == "unbuilt" for row in rows.values())
    yield "parts of others", sum(group_of(row) == "part" for row in rows.values())
    yield "in all", len(rows)


def write(rows):
    """Writes page and JSON; every type of transformers stands in them."""
    every = {name: kept(rows[name]) if name in rows else without_row(name) for name in sorted(types())}
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in every.items())
    DATA.write_text(f'{json.dumps(versions)[:-1]}, "types": {{\n{lines}\n}}}}\n')
    PAGE.write_text(rendered({**versions, "types": every}))


def without_row(name):
    """What stands in the JSON of a type that was not tried."""
    parent = parent_of(name)
    return {"part": parent} if parent else {"unbuilt": "not tried"}


def kept(row):
    """What stands in the JSON of a row."""
    dropped = {"type", "entry", "seconds"} | ({"found", "why"} if "heads" in row else set())
    row = {key: value for key, value in row.items() if key not in dropped and value}
    return {**row, **({"notes": list(dict.fromkeys(row["notes"]))} if "notes" in row else {})}


def rendered(data):
    """The page as text."""
    rows = data["types"]
    numbers = "\n".join(f"| {what} | {count} |" for what, count in counts(rows))
    text = HEAD.format(transformers=data["transformers"], torch=data["torch"], counts=numbers)
    groups = {}
    for name, row in rows.items():
        groups.setdefault(group_of(row), {})[name] = row
    text += table(tried_cells(name, row) for name, row in groups.get("tried", {}).items())
    for group, (title, head) in SECTIONS.items():
        text += f"\n## {title}\n\n{head}" + table(CELLS[group](groups.get(group, {})))
    return text + CLASSES + table([f"`{kind}`", reason] for kind, reason in sorted(REFUSED.items())) + others() + TAIL


def others():
    """What `make test-versions` found, and what was tried outside of transformers."""
    found = json.loads(VERSIONS.read_text())["transformers"]
    families = ", ".join(next(iter(found.values())))
    failed = {version: [name for name, said in one.items() if said != "yes"] for version, one in found.items()}
    named = [f"{version} ({', '.join(names) if names else 'all hold'})" for version, names in failed.items()]
    return OTHERS.format(families=families, results="; ".join(named))


def tried_cells(name, row):
    results = [str(row.get(check, "-")) for check in CHECKS]
    reasons = list(dict.fromkeys(reason for result in results if (reason := result.partition(": ")[2])))
    notes = [
        *reasons,
        *row.get("notes", []),
        *(f"FAULT {check}: {error}" for check, error in row.get("faults", {}).items()),
    ]
    short = [
        {"refused": "no", "not checked": "no"}.get(result.split(":")[0], result.split(":")[0]) for result in results
    ]
    return [f"`{name}`", row.get("class", ""), row.get("heads", ""), *short, cell("; ".join(notes))]


CELLS = {
    "without": lambda rows: ([f"`{name}`", row["class"], row["why"]] for name, row in rows.items()),
    "refused": lambda rows: (
        [f"`{name}`", row["class"], cell(row["found"].partition(f"{row['class']} ")[2])] for name, row in rows.items()
    ),
    "unbuilt": lambda rows: ([f"`{name}`", cell(lacking(row["unbuilt"]))] for name, row in rows.items()),
    "part": lambda rows: parts_cells(rows),
}


def lacking(reason):
    """Why a type is not run, in few words."""
    library = re.search(r"requires the (\S+) library", reason)
    return f"needs {library[1]}, which is not here" if library else reason.partition("; ")[0]


def parts_cells(rows):
    of = {}
    for name, row in rows.items():
        of.setdefault(row["part"], []).append(f"`{name}`")
    return [[f"`{parent}`", ", ".join(parts)] for parent, parts in sorted(of.items())]


def cell(text):
    return text.replace("|", "\\|")


def table(rows):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)

"""Write docs/architectures.md by running the checks of the architecture matrix: `python -m tests.support.matrix`."""

import sys
import tempfile
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import checks
import transformers
from tiny_models import MATRIX, make
from tqdm import tqdm
from unsupported_models import UNPRUNABLE

import hies
from hies.heads.conventions import REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
HEAD = """# What works for which architecture

Made by `python -m tests.support.matrix` with transformers {version}; `tests/heads/test_matrix.py` runs the same
checks. Every row is a tiny model with random weights, in float64 unless it says otherwise, with padding; decoders also
with it on the left.

- **heads**: the query heads of each attention module, in order of use. Of hybrids these are the attention layers, of
  LongT5, BigBird-Pegasus and PEGASUS-X the decoder, of SAM the mask decoder: the rest calls no attention function.
- **scored**: HIS against central finite differences, AE against the softmax of the model's own eager code. Qwen-VL,
  Exaone 4.5 and Mistral 3 take one example at a time, since they lay all pictures of a batch in one row.
- **masked**: the logits are those of a model whose output matrices ignore the removed heads, to 1e-10.
- **pruned**: the logits are those of the masked model, to 1e-10, and to 1e-5 in float32: some heads of every layer, a
  whole layer besides, and all heads of the model.
- **saved**: what `save_pruned` wrote, `load_pruned` reads back; one layer has lost all its heads.
- **plain**: with the same groups of heads gone from every layer, transformers' own `from_pretrained` reads it too.

{rows} architectures of {types} model types:

| architecture | model | heads | scored | masked | pruned | saved | plain |
|---|---|---|---|---|---|---|---|
"""
UNCUT = """
## Scored and masked, but pruned in part or not at all

`hies.prunable` names the sites that can be cut, and why the others cannot; `hies.prune` refuses those before it changes
anything. A masked head is one whose output is zero. **pruned**: how many of the sites are cut, saved and loaded, their
logits those of the masked model.

| architecture | model | scored | masked | pruned | why not the others |
|---|---|---|---|---|---|
"""
CLASSES = """
Refused by the name of the class (`REFUSED` in `hies/heads/conventions.py`). Any other module is refused if it has a
part with weights whose share in the heads is not known, or names that are not in the table, or matrices that are
quantised, or weights that another module uses too.

| class | why |
|---|---|
"""
TAIL = """
## To add one

Finding, scoring and masking need nothing: every model that calls transformers' attention interface has them. For
pruning, the names of its projections, norms and other parts go into `hies/heads/conventions.py`; what changes besides
the weights is in `hies/pruning/removal.py`. A line in `tests/support/text_models.py` or `multimodal_models.py` beside
it (its sizes, what it reads, the heads that it should have) puts it under all checks, and
`python -m tests.support.matrix` writes this page again.
"""


def holds(check, *arguments):
    """`yes`, or `no` where the check fails."""
    try:
        check(*arguments)
    except (AssertionError, RuntimeError, ValueError, TypeError, OSError):
        return "no"
    return "yes"


def loads(name):
    """Whether plain `from_pretrained` reads the folder; if it does and gives other logits, that is an error."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            checks.check_plain(name, folder)
        except (RuntimeError, ValueError, TypeError, OSError):
            return "no"
    return "yes"


def every_side(check, name):
    results = [holds(check, name, side) for side in checks.sides(name)]
    return "no" if "no" in results else "yes"


def in_a_folder(check, name):
    with tempfile.TemporaryDirectory() as folder:
        return holds(check, name, folder)


def row(name):
    """What holds of one architecture."""
    heads = MATRIX[name].heads
    shown = " ".join(map(str, heads)) if len(set(heads)) > 1 else f"{len(heads)} x {heads[0]}"
    sides = [every_side(check, name) for check in (checks.check_scored, checks.check_masked, checks.check_pruned)]
    folders = [in_a_folder(checks.check_saved, name), loads(name)]
    found = shown if holds(checks.check_found, name) == "yes" else "no"
    return [f"`{name}`", type(make(name)).__name__, found, *sides, *folders]


def uncut_row(name):
    model = make(name)
    scored, masked = holds(checks.check_scored, name, "right"), holds(checks.check_silenced, name)
    sites = hies.prunable(model, checks.inputs_of(name, dtype=model.dtype))
    part = f"{len(sites)} of {len(sites) + len(sites.refused)}"
    pruned = part if sites and in_a_folder(checks.check_partly, name) == "yes" else "no"
    reasons = [f"{type(model.get_submodule(site)).__name__}: {reason}" for site, reason in sites.refused.items()]
    return [f"`{name}`", type(model).__name__, scored, masked, pruned, "; ".join(dict.fromkeys(reasons))]


def table(rows):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def main():
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    types = {make(name).config.model_type for name in MATRIX}
    rows = [row(name) for name in tqdm(sorted(MATRIX), desc="architectures")]
    uncut = [uncut_row(name) for name in tqdm(sorted(UNPRUNABLE), desc="refused")]
    refused = [[f"`{kind}`", reason] for kind, reason in sorted(REFUSED.items())]
    text = HEAD.format(version=transformers.__version__, rows=len(rows), types=len(types)) + table(rows)
    text += UNCUT + table(uncut) + CLASSES + table(refused) + TAIL
    PAGE.write_text(text)
    print(f"{PAGE}: {len(rows)} architectures, {len(uncut)} refused")


if __name__ == "__main__":
    main()

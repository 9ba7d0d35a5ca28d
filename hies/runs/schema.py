"""What a row must hold: its keys, their types and ranges, and the digest that shows a change made by hand.

A row is what is known of one evaluated ratio. Its keys: run_id, experiment, model, task, split, criterion and its knobs
(alpha, ...), criterion_seed (of a ranking or a placebo that is drawn; only where it is not the job's seed), scope,
schedule, min_heads_per_layer, step, seed, calibration_size, ratio, heads_total, heads_removed,
mask (site -> removed heads), metric, value (raw), quality and stability (percent), examples, score_seconds (of the
calibration pass, which several criteria share), eval_seconds (of this mask's evaluation, when it was computed),
parameters, flops (one example of the model's full length), checkpoint and data (digests of the weights and of all
examples), label_order, precision (of matrix products; older rows lack it), chance (which share of the answers a guess
among the options gets right; only where there are options, and not in older rows), versions (installed ones, the
processor's instructions and threads, and those that a checkpoint was trained on), revision, command, rows (how many the
file has), digest (of the text of the line before it); for HIES also alpha_used (what made the mask, where alpha names a
protocol).

The third measure is loss: the mean over the examples of the cross-entropy of the right class or option, in nats, or of
the squared error of a score; for multiple choice also token_loss, the right option's mean negative log-likelihood a
token, in nats. Both are null where a task has none (texts are generated), where it is not finite, and where the answers
were cached before it was measured; older rows lack them. Rows of tasks with options also have the TOKEN_KEYS, but where
their answers were cached before tokens were counted.
"""

import hashlib
import json
from array import array
from functools import lru_cache
from itertools import chain
from math import inf
from operator import itemgetter
from types import NoneType
from typing import Any

import orjson

SCHEMA = 1
MEASURES = ("value", "quality", "stability")  # the first two are null where the metric is undefined
# Losses of single examples, as answers and arrays of runs name them -> their means, as rows do.
LOSSES = {"losses": "loss", "token_losses": "token_loss"}
# What figures, tables and messages show as it is.
SHOWN_KEYS = ("run_id", "experiment", "model", "task", "split", "criterion", "scope", "schedule", "metric")
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*SHOWN_KEYS, "command"), (str,)),
    **dict.fromkeys(("seed", "calibration_size", "heads_total", "heads_removed", "examples"), (int,)),
    "min_heads_per_layer": (int,),
    **dict.fromkeys(("ratio", "stability", "score_seconds", "eval_seconds"), (int, float)),
    **dict.fromkeys(("value", "quality", "parameters", "flops"), (int, float, NoneType)),
    **dict.fromkeys(("checkpoint", "data", "revision"), (str, NoneType)),
    **dict.fromkeys(("mask", "versions"), (dict,)),
}
REQUIRED = (*TYPES, "schema")
# Tokens that the log-likelihoods of options took when they were computed, and that lm-eval computes for them.
TOKEN_KEYS = ("tokens_computed", "tokens_plain")
# What differs from row to row of a run; the last seven are in some rows alone.
PER_RATIO = ("ratio", "heads_removed", "mask", *MEASURES, "score_seconds", "eval_seconds", "parameters", "flops",
             *LOSSES.values(), "alpha_used", "quality_norm", "quality_strict", *TOKEN_KEYS)  # fmt: skip
ROUNDING_ERROR = 1e-6
HIGHEST = {"ratio": 1, "chance": 1, "quality": 100, "stability": 100, **dict.fromkeys(LOSSES.values(), inf)}
RANGES = tuple((key, -ROUNDING_ERROR, high + ROUNDING_ERROR) for key, high in HIGHEST.items())
OPTIONAL_NUMBERS = (*LOSSES.values(), "alpha_used", "quality_norm", "quality_strict", "chance", *TOKEN_KEYS)
CRITERION_SEED = "criterion_seed"
SEAL = ("rows", "digest")  # how many rows the file has, and a digest of the line before it; old rows have neither
# What a job came to or started from, which is no knob of it; a row may lack these.
NOTES = ("label_order", "precision", "calibration_source", "source", "chance")
# Settings of a job that name its curve, where they are set; the rules of `hies.pruning.selection.Selection`, and the
# fields of `hies.evaluation.calibration.CalibrationSource` as calibration_*, are such settings, too.
CURVE_SETTINGS = ("sites", "judge", CRITERION_SEED)
# What analysis adds to the rows that it reads.
ADDED = ("path", "curve", "jobs_finished", "jobs_declared", "tasks_without_rows")
ROW_KEYS = frozenset({*REQUIRED, *PER_RATIO, *SEAL, *NOTES, *CURVE_SETTINGS, *ADDED, "run"})  # run: while reading

Row = dict[str, Any]

_required = itemgetter(*REQUIRED)
_shown = itemgetter(*SHOWN_KEYS)


class BadRows(Exception):
    """A row file that cannot be trusted; the message says why, in words that follow the file's name."""


def read_row(line: str, number: int) -> Row:
    """Returns the row in a line of a row file.

    Args:
        line: the text.
        number: of the line, for messages.

    Raises:
        BadRows: a line that is garbled or was changed, a missing key, a wrong type, or a value outside its range.
    """
    try:
        row: Row = orjson.loads(line)
        types = tuple(map(type, _required(row)))
    except ValueError:  # NaN and Infinity too, which are no JSON
        raise BadRows(f"has a garbled line ({number})") from None
    except (KeyError, TypeError, IndexError):
        missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
        raise BadRows(f"lacks {', '.join(missing)} in line {number}") from None
    if row["schema"] != SCHEMA:
        raise BadRows(f"has schema {str(row['schema'])[:20]} where {SCHEMA} is read")
    if ("rows" in row or "digest" in row) and not _fits_its_digest(line):
        raise BadRows(f"was changed after it was written (line {number})")
    if wrong := _wrong_types(types) or _wrong_values(row) or _hidden(line, row):
        raise BadRows(f"has {wrong} in line {number}")
    return row


def sealed(row: Row) -> str:
    """Returns a row as a line; one that carries a digest gets that of its new text."""
    text = json.dumps({key: value for key, value in row.items() if key != "digest"}, allow_nan=False)
    return f"{text[:-1]}{_ending(text)}" if "digest" in row else text


def _ending(text: str) -> str:
    """The end of the sealed line of a row, whose text without the digest this is."""
    return f', "digest": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}'


def _fits_its_digest(line: str) -> bool:
    length = len(_ending(""))
    return line[-length:] == _ending(f"{line[:-length]}}}")


@lru_cache
def _wrong_types(types: tuple[type, ...]) -> str:
    """What is wrong with the types of a row's REQUIRED, in words; few sets of types occur, and there are many rows."""
    wrong = [key for key, kind in zip(REQUIRED, types, strict=True) if kind not in TYPES.get(key, (kind,))]
    return f"a value of the wrong type for {', '.join(wrong)}" if wrong else ""


def _wrong_values(row: Row) -> str:
    """What is wrong with the values of a row whose types are right, in words."""
    for key in OPTIONAL_NUMBERS:
        if type(row.get(key)) not in (float, int, NoneType):
            return f"{key} that is no number"
    for key, low, high in RANGES:
        value = row.get(key)
        if value is not None and not low <= value <= high:
            return f"{key} {value:g}, which is not between 0 and {high:.0f},"
    if not 0 <= row["heads_removed"] <= row["heads_total"]:
        return f"{row['heads_removed']} removed heads of {row['heads_total']}"
    return "" if _is_mask(row["mask"]) else "a mask that is no list of heads for each site"


def _hidden(line: str, row: Row) -> str:
    """Whether a text that is shown holds what steers a terminal; JSON in ASCII writes that with a backslash."""
    suspect = "\\" in line or not line.isascii() or "\x7f" in line
    return "characters that cannot be shown" if suspect and not "".join(_shown(row)).isprintable() else ""


def _is_mask(mask: dict[str, Any]) -> bool:
    try:
        array("I", chain.from_iterable(mask.values()))  # refuses whatever is no whole number from 0 on
    except (TypeError, OverflowError):
        return False
    return {*map(type, mask.values())} <= {list}

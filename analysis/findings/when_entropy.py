"""Findings on when entropy helps (docs/when-entropy.md): named before any row of theirs was there, or as it says."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Literal

from analysis.findings.forms import AD, AE, AUTO, FIXED, HIS, PER_RATIO, Difference, Finding, hies_curve
from analysis.text.labels import GLUE_NAMES, label
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, REFIT, TEMPERED

# Stability of STS-B counts a mere change of scale: named when the rows of five tasks had been seen.
WITH_REFIT = ("quality", "stability", REFIT, "loss")


def _in_measures(
    key: str,
    words: str,
    experiment: str,
    pair: tuple[str, str],
    ratios: tuple[float, ...],
    table: str,
    tasks: tuple[str, ...] = (),
    measures: tuple[str, ...] = ALL_MEASURES,
    over: Literal["draws", "checkpoints"] = "draws",
) -> list[Finding]:
    """One pair of curves in each of these measures, mean over these ratios."""
    *first, last = (f"{100 * ratio:.0f}" for ratio in ratios)
    where = f"{', '.join(first)} and {last} %" if first else f"{last} %"
    return [
        Difference(f"{key}-{measure}", f"{words}, {MEASURE_OF[measure].words} at {where}", experiment, *pair, measure,
                   ratios, table, tasks, over)
        for measure in measures
    ]  # fmt: skip


def _few_examples() -> Iterator[Finding]:
    experiments = (
        # After a temperature: named when CoLA's rows had been seen, where a model that is less sure had the lower loss.
        # 16 and 128 examples, and a refit: named when all rows had been seen, where the table of sizes had them.
        ("few", "HIES minus HIS", "few_examples", (0.5,), (1, 4, 16, 32, 128), (*WITH_REFIT, TEMPERED)),
        ("smollm2-few", "SmolLM2, HIES minus HIS", "smollm2_few", (0.4,), (1,), ALL_MEASURES),
    )
    curves = (("shrink", "alpha = n / (n + 1)", hies_curve("shrink")), ("fixed", "alpha = 0.9", FIXED))
    for (key, words, experiment, ratios, sizes, measures), (kind, how, curve) in product(experiments, curves):
        for size in sizes:
            said = f"{words} from {size} calibration example{'s' * (size > 1)}, {how}"
            pair = f"{curve}, calibration size {size}", f"{HIS}, calibration size {size}"
            yield from _in_measures(f"{key}-{kind}-{size}", said, experiment, pair, ratios, "sizes", measures=measures)


def _placebos() -> Iterator[Finding]:
    """The search for alpha with AE against that with something else in its place."""
    for key, how, experiment, alpha, ratios in (
        ("placebo", "alpha by calibration loss", "placebo", "auto", (0.3, 0.5)),
        ("search", "alpha searched", "placebo_search", "per_ratio", (0.5,)),
    ):
        hies = partial(hies_curve, alpha)
        for name, what, other in (
            ("his", "HIS", HIS),
            ("heads", "HIES with AE of other heads", hies(placebo="permuted")),
            ("numbers", "HIES with random numbers for AE", hies(placebo="random")),
            ("turned", "HIES with its sign turned", hies(combination="printed")),
        ):
            said, pair = f"HIES minus {what}, {how}", (hies(), other)
            yield from _in_measures(f"{key}-{name}", said, experiment, pair, ratios, "variants", measures=WITH_REFIT)


def _signs() -> Iterator[Finding]:
    auto, turned = partial(hies_curve, "auto"), {"combination": "printed"}
    glue, others = tuple(GLUE_NAMES), ("apidocs", "docs", "digits", "cifar10", "arc_easy")  # each of its own model
    inside, alone, in_layer = (AUTO, auto(**turned)), (AE, AD), (auto(normalize="layer_entropy"), HIS)
    both = "HIES with the paper's sign minus the turned one"
    for key, words, pair, ratio, table, tasks in (
        ("sign", f"GLUE, {both}", inside, 0.5, "signs", glue),
        ("sign-alone", "GLUE, AE minus AD", alone, 0.5, "signs", glue),
        ("sign-95", f"GLUE, {both}", inside, 0.95, "signs", glue),
        ("in-layer", "GLUE, HIES with AE on its layer's scale minus HIS", in_layer, 0.5, "variants", glue),
        # Beyond GLUE: named when the rows of digits had been seen.
        ("sign-beyond", f"beyond GLUE, {both}", inside, 0.5, "signs", others),
        ("sign-alone-beyond", "beyond GLUE, AE minus AD", alone, 0.5, "signs", others),
    ):
        measures = WITH_REFIT if tasks == glue else ALL_MEASURES
        yield from _in_measures(key, words, "signs", pair, (ratio,), table, tasks, measures)
    later = {"sites": r"\.[1-9]\d*\."}  # every layer but the first, as conf/experiment/first_layer.yaml has it
    for key, words, other in (
        ("first-his", "HIES minus HIS", label("his", later)),
        ("first-sign", "the paper's sign minus the turned one", auto(**turned, **later)),
    ):
        said, pair = f"first layer whole, half of all heads gone, {words}", (auto(**later), other)
        yield from _in_measures(key, said, "first_layer", pair, (0.6,), "variants", measures=WITH_REFIT)


def _label_free() -> Iterator[Finding]:
    own = {"calibration_labels": "model"}
    words, texts = ({"calibration_examples": name, **own} for name in ("words", "apidocs"))
    unseen, his_own = label("his", {"calibration_examples": "selection"}), label("his", own)
    his_words, his_texts = (label("his", knobs) for knobs in (words, texts))
    for key, said, curve, against in (
        ("model-labels", "HIS with the model's labels minus the data's", his_own, HIS),
        ("unseen", "HIS of unseen minus memorised examples", unseen, HIS),
        ("words", "HIS of random words minus examples, the model's labels", his_words, his_own),
        ("docstrings", "HIS of docstrings minus examples, the model's labels", his_texts, his_own),
        ("words-hies", "HIES (alpha = 0.9) minus HIS, both of random words", hies_curve(0.9, **words), his_words),
        ("docstrings-hies", "HIES (alpha = 0.9) minus HIS, both of docstrings", hies_curve(0.9, **texts), his_texts),
    ):
        table = "leaderboard" if against == his_own else "variants"  # which sets forms beside the paper's HIS
        yield from _in_measures(key, said, "label_free", (curve, against), (0.5,), table)


def _checkpoints() -> Iterator[Finding]:
    """The lead of RTE over fine-tuning seeds, and the mean over the tasks that have several.

    RTE: named when HIES and HIS of two seeds had been seen, the placebo's of one. The mean: named when the rows of RTE
    were there, before any of another task.
    """
    for (name, which, tasks, measures), (key, words, against, ratio, table) in product(
        (("rte-", "RTE, ", ("rte",), ALL_MEASURES), ("", "", (), WITH_REFIT)),
        (
            ("30", "HIES minus HIS", HIS, 0.3, "checkpoints"),
            ("50", "HIES minus HIS", HIS, 0.5, "checkpoints"),
            ("heads", "HIES minus HIES with AE of other heads", hies_curve("auto", placebo="permuted"), 0.5,
             "variants"),
        ),
    ):  # fmt: skip
        said, pair = f"{which}{words}, alpha by calibration loss, over fine-tuning seeds", (AUTO, against)
        key = f"checkpoints-{name}{key}"
        yield from _in_measures(key, said, "checkpoints", pair, (ratio,), table, tasks, measures, over="checkpoints")


def _mpnet() -> Iterator[Finding]:
    auto, one_left = partial(hies_curve, "auto"), label("his", {"min_heads_per_layer": 1})
    for key, words, curve, against, table in (
        ("mpnet", "HIES minus HIS, alpha searched", PER_RATIO, HIS, "claims"),
        ("mpnet-auto", "HIES minus HIS, alpha by calibration loss", AUTO, HIS, "claims"),
        # What averts the cliff: named when the rows of HIS and of this HIES had been seen.
        ("mpnet-heads", "HIES minus HIES with AE of other heads", AUTO, auto(placebo="permuted"), "variants"),
        ("mpnet-numbers", "HIES minus HIES with random numbers for AE", AUTO, auto(placebo="random"), "variants"),
        ("mpnet-left", "HIES minus HIS that leaves one head in each layer", AUTO, one_left, "curves"),
    ):
        words = f"MPNet-base on CoLA, {words}"
        yield from _in_measures(key, words, "mpnet", (curve, against), (0.3, 0.5, 0.7), table, ("cola",))


ON_WHEN_ENTROPY_HELPS: tuple[Finding, ...] = (
    *_few_examples(), *_placebos(), *_signs(), *_label_free(), *_checkpoints(), *_mpnet(),
)  # fmt: skip

"""What the reports say, declared once: which curves, which measure, which ratios. The numbers come from rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from analysis.text.labels import GLUE_NAMES, label
from analysis.text.measures import ALL_MEASURES, CORRELATION, MEASURE_OF, REFIT, TEMPERED

HIS, AE, AD, NORM = (label(name, {}) for name in ("his", "ae", "ad", "output_norm"))
PER_RATIO, PER_TASK, AUTO, OPTIMISTIC = (
    label("hies", {"alpha": word}) for word in ("per_ratio", "per_task", "auto", "per_ratio_on_report")
)
HIS_BATCH = label("his", {"reduction": "batch"})
HIES_BATCH = label("hies", {"alpha": "per_ratio", "reduction": "batch"})
HIES_RANK = label("hies", {"alpha": "per_ratio", "normalize": "rank"})
HIES_NORM = label("hies", {"alpha": "per_ratio", "importance": "output_norm"})
HIES_SUPPORT = label("hies", {"alpha": 0.9, "entropy": "support"})
FIXED = label("hies", {"alpha": 0.9})
OF_GROUPS = label("hies", {"alpha": "auto", "unit": "kv_group"}), label("his", {"unit": "kv_group"})
SLICED, TUNED = (label("slicegpt", {"tune": tune}) for tune in (False, True))
FROM_30, AT_10 = (0.3, 0.4, 0.5, 0.6, 0.7), (0.1,)


@dataclass(frozen=True)
class Difference:
    """One curve minus another, mean over ratios and tasks.

    Attributes:
        key: by which pages name it.
        words: what it asks, for readers.
        experiment: whose rows.
        curve: the curve.
        against: the other.
        measure: see `analysis.text.measures`, or evenness.
        ratios: over which the mean is.
        table: which has it with everything around it.
        tasks: all where none is named.
    """

    key: str
    words: str
    experiment: str
    curve: str
    against: str
    measure: str
    ratios: tuple[float, ...]
    table: str
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperGain:
    """HIES minus HIS as the paper prints it for BERT-base, mean over its tasks.

    Attributes:
        key: by which pages name it.
        words: for readers.
        file: of the paper's numbers.
        measure: quality or stability.
        ratio: the ratio.
    """

    key: str
    words: str
    file: str
    measure: str
    ratio: float


@dataclass(frozen=True)
class RankOfGains:
    """Spearman's correlation over tasks of a difference with the paper's gain.

    Attributes:
        gain: ours, by its key.
        paper: the paper's, by its key.
    """

    key: str
    words: str
    gain: str
    paper: str


@dataclass(frozen=True)
class SameHeads:
    """How many heads two curves both remove, of those that either does, and on how many tasks nearly all."""

    key: str
    words: str
    experiment: str
    curve: str
    against: str
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class ChosenAgain:
    """HIES minus HIS in quality where the choice of alpha is drawn as well (`analysis.stats.chosen`)."""

    key: str
    words: str
    experiment: str
    against: str
    ratios: tuple[float, ...]


Finding = Difference | PaperGain | RankOfGains | SameHeads | ChosenAgain


def _claims() -> list[Finding]:
    """The paper's four claims in its own protocol, which is the primary one, and in two others."""
    protocols = {
        "": ("primary: alpha searched for each ratio", PER_RATIO),
        "-task": ("one alpha* for each task", PER_TASK),
        "-auto": ("alpha by calibration loss", AUTO),
    }
    claims = {
        "claim1": ("claim 1, quality at 30 to 70 %", "quality", FROM_30),
        "claim2": ("claim 2, stability at 30 to 70 %", "stability", FROM_30),
        "claim3": ("claim 3, HIS ahead in quality at 10 %", "quality", AT_10),
        "claim3-stability": ("claim 3 in stability at 10 %", "stability", AT_10),
        "claim4": ("claim 4, evenness over layers at 30 to 70 % (the paper: below 0)", "evenness", FROM_30),
    }
    return [
        Difference(f"{key}{suffix}", f"{words} ({how})", "glue", curve, HIS, measure, ratios, "claims")
        for suffix, (how, curve) in protocols.items()
        for key, (words, measure, ratios) in claims.items()
    ]


def _at(
    key: str, words: str, experiment: str, pair: tuple[str, str], table: str, ratios: tuple[float, ...]
) -> list[Finding]:
    """One pair of curves in quality and stability at each of these ratios."""
    return [
        Difference(
            f"{key}-{measure}-{100 * ratio:.0f}",
            f"{words}, {measure} at {100 * ratio:.0f} %",
            experiment, *pair, measure, (ratio,), table,
        )
        for measure in ("quality", "stability")
        for ratio in ratios
    ]  # fmt: skip


def _over(key: str, words: str, experiment: str, pair: tuple[str, str], table: str) -> list[Finding]:
    """One pair of curves in quality and stability, mean over 30 to 70 %."""
    return [
        Difference(f"{key}-{measure}", f"{words}, {measure} at 30 to 70 %", experiment, *pair, measure, FROM_30, table)
        for measure in ("quality", "stability")
    ]


def _smollm2() -> list[Finding]:
    """SmolLM2 at few heads and at many; named when the rows of ARC-e alone were there."""
    pairs = {
        "smollm2": ("SmolLM2, HIES minus HIS (alpha searched for each ratio)", "smollm2", PER_RATIO, HIS),
        "smollm2-auto": ("the same, alpha by calibration loss", "smollm2", AUTO, HIS),
        "smollm2-norm": ("SmolLM2, entropy added to the output norm", "smollm2", HIES_NORM, NORM),
        "smollm2-groups": ("SmolLM2, whole groups, alpha by calibration loss", "smollm2_groups", *OF_GROUPS),
    }
    return [
        Difference(f"{key}-{measure}-{where}", f"{words}, {measure} at {where.replace('-', ' to ')} %",
                   experiment, curve, against, measure, ratios, "summary")
        for key, (words, experiment, curve, against) in pairs.items()
        for measure in ALL_MEASURES
        for where, ratios in (("20", (0.2,)), ("40-60", (0.4, 0.6)))
    ]  # fmt: skip


def _in_three(
    key: str,
    words: str,
    experiment: str,
    pair: tuple[str, str],
    ratios: tuple[float, ...],
    table: str,
    tasks: tuple[str, ...] = (),
    measures: tuple[str, ...] = ALL_MEASURES,
) -> list[Finding]:
    """One pair of curves in each of these measures, mean over these ratios."""
    *first, last = (f"{100 * ratio:.0f}" for ratio in ratios)
    where = f"{', '.join(first)} and {last} %" if first else f"{last} %"
    return [
        Difference(f"{key}-{measure}", f"{words}, {MEASURE_OF[measure].words} at {where}", experiment, *pair, measure,
                   ratios, table, tasks)
        for measure in measures
    ]  # fmt: skip


def _few_examples() -> Iterator[Finding]:
    experiments = (
        # After a temperature: named when CoLA's rows had been seen, where a model that is less sure had the lower loss.
        ("few", "HIES minus HIS", "few_examples", (0.5,), (1, 4, 32), (*ALL_MEASURES, TEMPERED)),
        ("smollm2-few", "SmolLM2, HIES minus HIS", "smollm2_few", (0.4,), (1,), ALL_MEASURES),
    )
    curves = (("shrink", "alpha = n / (n + 1)", label("hies", {"alpha": "shrink"})), ("fixed", "alpha = 0.9", FIXED))
    for (key, words, experiment, ratios, sizes, measures), (kind, how, curve) in product(experiments, curves):
        for size in sizes:
            said = f"{words} from {size} calibration example{'s' * (size > 1)}, {how}"
            pair = f"{curve}, calibration size {size}", f"{HIS}, calibration size {size}"
            yield from _in_three(f"{key}-{kind}-{size}", said, experiment, pair, ratios, "sizes", measures=measures)


def _placebos() -> Iterator[Finding]:
    """The search for alpha with AE against that with something else in its place."""
    for key, how, experiment, alpha, ratios in (
        ("placebo", "alpha by calibration loss", "placebo", "auto", (0.3, 0.5)),
        ("search", "alpha searched", "placebo_search", "per_ratio", (0.5,)),
    ):
        hies = partial(_hies, alpha)
        for name, what, other in (
            ("his", "HIS", HIS),
            ("heads", "HIES with AE of other heads", hies(placebo="permuted")),
            ("numbers", "HIES with random numbers for AE", hies(placebo="random")),
            ("turned", "HIES with its sign turned", hies(combination="printed")),
        ):
            yield from _in_three(
                f"{key}-{name}", f"HIES minus {what}, {how}", experiment, (hies(), other), ratios, "variants"
            )


def _signs() -> Iterator[Finding]:
    auto, turned = partial(_hies, "auto"), {"combination": "printed"}
    glue = tuple(GLUE_NAMES)  # the experiment may hold other models, too
    both = "GLUE, HIES with the paper's sign minus the turned one"
    yield from _in_three("sign", both, "signs", (AUTO, auto(**turned)), (0.5,), "signs", glue)
    yield from _in_three("sign-alone", "GLUE, AE minus AD", "signs", (AE, AD), (0.5,), "signs", glue)
    yield from _in_three("sign-95", both, "signs", (AUTO, auto(**turned)), (0.95,), "signs", glue)
    in_layer = auto(normalize="layer_entropy"), HIS
    yield from _in_three(
        "in-layer", "GLUE, HIES with AE on its layer's scale minus HIS", "signs", in_layer, (0.5,), "variants", glue
    )
    later = {"sites": r"\.[1-9]\d*\."}  # every layer but the first, as conf/experiment/first_layer.yaml has it
    for key, words, other in (
        ("first-his", "HIES minus HIS", label("his", later)),
        ("first-sign", "the paper's sign minus the turned one", auto(**turned, **later)),
    ):
        yield from _in_three(
            key,
            f"first layer whole, half of all heads gone, {words}",
            "first_layer",
            (auto(**later), other),
            (0.6,),
            "variants",
        )


def _label_free() -> Iterator[Finding]:
    own = {"calibration_labels": "model"}
    words, docstrings = ({"calibration_examples": name, **own} for name in ("words", "apidocs"))
    unseen, his_own = label("his", {"calibration_examples": "selection"}), label("his", own)
    his_words, his_docstrings = (label("his", knobs) for knobs in (words, docstrings))
    for key, said, curve, against in (
        ("model-labels", "HIS with the model's labels minus the data's", his_own, HIS),
        ("unseen", "HIS of unseen minus memorised examples", unseen, HIS),
        ("words", "HIS of random words minus examples, the model's labels", his_words, his_own),
        ("docstrings", "HIS of docstrings minus examples, the model's labels", his_docstrings, his_own),
        ("words-hies", "HIES (alpha = 0.9) minus HIS, both of random words", _hies(0.9, **words), his_words),
        (
            "docstrings-hies",
            "HIES (alpha = 0.9) minus HIS, both of docstrings",
            _hies(0.9, **docstrings),
            his_docstrings,
        ),
    ):
        table = "leaderboard" if against == his_own else "variants"  # which sets forms beside the paper's HIS
        yield from _in_three(key, said, "label_free", (curve, against), (0.5,), table)


def _mpnet() -> Iterator[Finding]:
    for key, how, curve in (("mpnet", "alpha searched", PER_RATIO), ("mpnet-auto", "alpha by calibration loss", AUTO)):
        words = f"MPNet-base on CoLA, HIES minus HIS, {how}"
        yield from _in_three(key, words, "mpnet", (curve, HIS), (0.3, 0.5, 0.7), "claims", ("cola",))


def _hies(alpha: float | str, **knobs: str) -> str:
    return label("hies", {"alpha": alpha, **knobs})


THREE = (0.1, 0.3, 0.5)
FINDINGS: tuple[Finding, ...] = (
    *_claims(),
    *(
        Difference(f"stsb-{measure}", f"STS-B alone, {words} (alpha by calibration loss)", "glue", AUTO, HIS, measure,
                   FROM_30, f"significance --measure {measure}", ("stsb",))
        for measure, words in (("stability", "stability"), (REFIT, "stability after a refit"),
                               (CORRELATION, "correlation with the unpruned scores"))
    ),
    Difference("claim2-auto-refit", "claim 2 with scores of STS-B after a refit (alpha by calibration loss)", "glue",
               AUTO, HIS, REFIT, FROM_30, f"significance --measure {REFIT}"),
    Difference("optimistic", "alpha chosen on the report split itself, quality at 30 to 70 %", "glue", OPTIMISTIC, HIS,
               "quality", FROM_30, "tasks"),
    SameHeads("same-heads-task", "heads that HIES with one alpha* and HIS both remove (Jaccard) at 30 to 70 %; ahead: "
              "0.9 and more", "glue", PER_TASK, HIS, FROM_30),
    SameHeads("same-heads", "the same with alpha searched for each ratio", "glue", PER_RATIO, HIS, FROM_30),
    ChosenAgain("chosen-again", "alpha searched again on half of the examples in every draw, quality at 30 to 50 % of "
                "the other half", "alpha", "glue", (0.3, 0.4, 0.5)),
    *_over("like", "like pair: HIES minus HIS, both per batch", "reduction", (HIES_BATCH, HIS_BATCH), "variants"),
    *_over("unlike", "unlike pair: HIES minus HIS per batch", "reduction", (PER_RATIO, HIS_BATCH), "variants"),
    *_over("batch", "HIS per batch minus HIS", "reduction", (HIS_BATCH, HIS), "variants"),
    *_at("unlike", "unlike pair", "reduction", (PER_RATIO, HIS_BATCH), "variants", (0.3, 0.5)),
    *(
        PaperGain(f"paper-{measure}-{100 * ratio:.0f}", f"the paper's own gain, {measure} at {100 * ratio:.0f} %", file,
                  measure, ratio)
        for measure, file in (("quality", "table1_bert_glue_quality"), ("stability", "table2_bert_glue_stability"))
        for ratio in (0.3, 0.5)
    ),
    *(
        RankOfGains(f"rank-{measure}-{percent}", f"rank correlation of the unlike pair's gains with the paper's, "
                    f"{measure} at {percent} %", f"unlike-{measure}-{percent}", f"paper-{measure}-{percent}")
        for measure in ("quality", "stability")
        for percent in (30, 50)
    ),
    *_at("norm", "entropy added to the output norm", "methods", (HIES_NORM, NORM), "against", THREE),
    *_at("his", "entropy added to HIS", "methods", (PER_RATIO, HIS), "against", THREE),
    *_at("slicegpt", "SliceGPT minus HIES", "methods", (SLICED, PER_RATIO), "against", THREE),
    *_at("tuned", "tuned SliceGPT minus HIES", "methods", (TUNED, PER_RATIO), "against", (0.5,)),
    *_at("greedy", "greedy search minus HIES", "methods", (label("greedy", {}), PER_RATIO), "against", THREE),
    *(
        Difference(f"{key}-{measure}", f"{words} in place of HIES's, {measure} at 30 and 50 %", "combination",
                   label("hies", {"alpha": "per_ratio", **knobs}), PER_RATIO, measure, (0.3, 0.5), "variants")
        for key, words, knobs in (
            ("ranks", "ranks", {"normalize": "rank"}), ("layer", "min-max within layers", {"normalize": "layer"}),
            ("product", "the product", {"combination": "product"}),
            ("printed", "the sign that D.8 prints", {"combination": "printed"}),
        )
        for measure in ("quality", "stability")
    ),
    Difference("ranks-10", "ranks in place of HIES's min-max, stability at 10 %", "combination", HIES_RANK, PER_RATIO,
               "stability", (0.1,), "variants"),
    Difference("support", "effective support in place of Shannon's entropy, stability at 30 and 50 %", "entropy",
               HIES_SUPPORT, FIXED, "stability", (0.3, 0.5), "variants"),
    Difference("support-his", "HIES of effective support minus HIS, stability at 30 and 50 %", "entropy",
               HIES_SUPPORT, HIS, "stability", (0.3, 0.5), "variants"),
    *_at("ad-glue", "AD, which knows no labels, minus HIS on GLUE", "glue", (AD, HIS), "tasks", (0.5,)),
    *_at("ad-docs", "AD minus HIS, a LLaMA on docs", "language", (AD, HIS), "summary", (0.3, 0.6)),
    *_at("norm-docs", "entropy added to the output norm, a LLaMA on docs", "language", (HIES_NORM, NORM), "summary",
         (0.5,)),
    *_at("cifar10", "HIES minus HIS, a ViT on CIFAR-10", "cifar10", (FIXED, HIS), "summary", (0.3,)),
    *_smollm2(),
    # When entropy helps (docs/when-entropy.md); named before any of these experiments had a row, but for TEMPERED.
    *_few_examples(), *_placebos(), *_signs(), *_label_free(), *_mpnet(),
)  # fmt: skip

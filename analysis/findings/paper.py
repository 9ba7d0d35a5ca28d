"""Findings on the paper's claims, its methods and its forms: of GLUE, small models and SmolLM2."""

from collections.abc import Iterator

from analysis.findings.forms import (
    AD,
    AT_10,
    AUTO,
    FIXED,
    FROM_30,
    HIES_BATCH,
    HIES_NORM,
    HIES_RANK,
    HIS,
    HIS_BATCH,
    NORM,
    OF_GROUPS,
    OPTIMISTIC,
    PER_RATIO,
    PER_TASK,
    SLICED,
    TUNED,
    ChosenAgain,
    Difference,
    Finding,
    PaperGain,
    RankOfGains,
    SameHeads,
    hies_curve,
)  # fmt: skip
from analysis.text.labels import label
from analysis.text.measures import ALL_MEASURES, CORRELATION, REFIT


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
        "smollm2": ("SmolLM2, HIES minus HIS (alpha searched for each ratio)", "smollm2", PER_RATIO, HIS, "against"),
        "smollm2-auto": ("the same, alpha by calibration loss", "smollm2", AUTO, HIS, "significance"),
        "smollm2-norm": ("SmolLM2, entropy added to the output norm", "smollm2", HIES_NORM, NORM, "against"),
        "smollm2-groups": ("SmolLM2, whole groups, alpha by calibration loss", "smollm2_groups", *OF_GROUPS, "against"),
    }
    return [
        Difference(f"{key}-{measure}-{where}", f"{words}, {measure} at {where.replace('-', ' to ')} %",
                   experiment, curve, against, measure, ratios, table)
        for key, (words, experiment, curve, against, table) in pairs.items()
        for measure in ALL_MEASURES
        for where, ratios in (("20", (0.2,)), ("40-60", (0.4, 0.6)))
    ]  # fmt: skip


def _entropies() -> Iterator[Finding]:
    """Every entropy, so that the best of them is tested as one of six."""
    forms: dict[str, tuple[str, dict[str, str | float]]] = {
        "fixed": ("Shannon's entropy", {}), "renyi": ("Renyi's entropy", {"entropy": "renyi", "order": 2.0}),
        "tsallis": ("Tsallis's entropy", {"entropy": "tsallis", "order": 0.5}),
        "gini": ("Gini and Simpson's index", {"entropy": "gini"}), "min": ("min-entropy", {"entropy": "min"}),
        "support": ("effective support", {"entropy": "support"}),
    }  # fmt: skip
    for ratios, suffix, where in (((0.3, 0.5), "", "30 and 50 %"), (AT_10, "-10", "10 %")):
        for key, (words, knobs) in forms.items():
            curve = hies_curve(0.9, **knobs)
            if curve != FIXED:
                said = f"{words} in place of Shannon's entropy, stability at {where}"
                yield Difference(f"{key}{suffix}", said, "entropy", curve, FIXED, "stability", ratios, "variants")
            said = f"HIES of {words} minus HIS, stability at {where}"
            yield Difference(f"{key}-his{suffix}", said, "entropy", curve, HIS, "stability", ratios, "variants")


THREE = (0.1, 0.3, 0.5)
OF_THE_PAPER: tuple[Finding, ...] = (
    *_claims(),
    *(
        Difference(f"stsb-{measure}", f"STS-B alone, {words} (alpha by calibration loss)", "glue", AUTO, HIS, measure,
                   FROM_30, "significance", ("stsb",))
        for measure, words in (("stability", "stability"), (REFIT, "stability after a refit"),
                               (CORRELATION, "correlation with the unpruned scores"))
    ),
    Difference("claim2-auto-refit", "claim 2 with scores of STS-B after a refit (alpha by calibration loss)", "glue",
               AUTO, HIS, REFIT, FROM_30, "significance"),
    Difference("optimistic", "alpha chosen on the report split itself, quality at 30 to 70 %", "glue", OPTIMISTIC, HIS,
               "quality", FROM_30, "summary"),
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
        for ratio in THREE
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
                   hies_curve("per_ratio", **knobs), PER_RATIO, measure, (0.3, 0.5), "variants")
        for key, words, knobs in (
            ("ranks", "ranks", {"normalize": "rank"}), ("layer", "min-max within layers", {"normalize": "layer"}),
            ("product", "the product", {"combination": "product"}),
            ("printed", "the sign that D.8 prints", {"combination": "printed"}),
        )
        for measure in ("quality", "stability")
    ),
    Difference("ranks-10", "ranks in place of HIES's min-max, stability at 10 %", "combination", HIES_RANK, PER_RATIO,
               "stability", (0.1,), "variants"),
    *_entropies(),
    *_at("ad-glue", "AD, which knows no labels, minus HIS on GLUE", "glue", (AD, HIS), "tasks", (0.5,)),
    *_at("ad-docs", "AD minus HIS, a LLaMA on docs", "language", (AD, HIS), "leaderboard", (0.3, 0.6)),
    *_at("norm-docs", "entropy added to the output norm, a LLaMA on docs", "language", (HIES_NORM, NORM), "against",
         (0.5,)),
    *_at("cifar10", "HIES minus HIS, a ViT on CIFAR-10", "cifar10", (FIXED, HIS), "summary", (0.3,)),
    *_smollm2(),
)  # fmt: skip

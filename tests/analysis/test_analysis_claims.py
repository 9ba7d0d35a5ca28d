import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_runs import answers_right_in, write_run
from scipy import stats
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from analysis import load
from analysis.errors import Unavailable
from analysis.stats.resampling import example_counts, unevenness, weighted_quality, weighted_stability
from analysis.stats.significance import gains_over_his
from analysis.tables.differences import CLAIMS, Claim, claims_table, significance_table
from analysis.text.labels import label

RATIOS = (0.0, 0.1, 0.3, 0.5)
PER_RATIO, AUTO = (label("hies", {"alpha": word}) for word in ("per_ratio", "auto"))
SITES = {"a": 10, "b": 10}
MASKS = tuple({} if not ratio else {"a": list(range(round(20 * ratio)))} for ratio in RATIOS)
EVEN = tuple({site: list(range(round(10 * ratio))) for site in SITES} for ratio in RATIOS)

INDEPENDENT: dict[str, Any] = {
    "accuracy": lambda labels, answers: 100 * accuracy_score(labels, answers),
    "f1": lambda labels, answers: 100 * f1_score(labels, answers),
    "f1_macro": lambda labels, answers: 100 * f1_score(labels, answers, average="macro", zero_division=np.nan),
    "f1_weighted": lambda labels, answers: 100 * f1_score(labels, answers, average="weighted", zero_division=np.nan),
    "matthews": lambda labels, answers: 100 * (matthews_corrcoef(labels, answers) + 1) / 2,
    "pearson": lambda labels, answers: 100 * (pearsonr(labels, answers).statistic + 1) / 2,
}


def answers_of(metric: str, models: int, examples: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels [examples] and predictions [models, examples] that are right about half of the time."""
    draw = np.random.default_rng(3)
    if metric == "pearson":
        labels = draw.integers(0, 26, examples) / 5
        return labels, (labels + draw.normal(0, 2, (models, examples))).astype(np.float32)
    labels, other = draw.integers(0, classes, examples), draw.integers(0, classes, (models, examples))
    return labels, np.where(draw.random((models, examples)) < 0.5, labels, other)


def independent_stability(answers: np.ndarray, unpruned: np.ndarray) -> float:
    rounded = [np.rint(np.clip(one, 0, 5)) if one.dtype.kind == "f" else one for one in (answers, unpruned)]
    return 100 * float(np.mean(rounded[0] == rounded[1]))


@pytest.mark.parametrize(
    ("metric", "classes"),
    [
        *(("accuracy", 3), ("f1", 2), ("f1_macro", 23), ("f1_weighted", 3)),  # of 23 classes a resample lacks some
        *(("matthews", 2), ("matthews", 3), ("pearson", 0)),
    ],
)
def test_metrics_of_resamples_are_those_of_the_repeated_examples(metric: str, classes: int) -> None:
    labels, answers = answers_of(metric, models=3, examples=53, classes=classes)
    answers[2] = labels
    counts = np.concatenate(list(example_counts("toy", 53, 11)))
    found = weighted_quality(metric, labels, answers, counts)
    agreed = weighted_stability(answers[:2], answers[1:], counts)
    assert found.shape == (11, 3) and (counts.sum(axis=1) == 53).all() and counts.max() > 1
    for draw, count in enumerate(counts):
        chosen = np.repeat(np.arange(53), count)
        expected = [INDEPENDENT[metric](labels[chosen], one[chosen]) for one in answers]
        np.testing.assert_allclose(found[draw], expected, rtol=1e-9)
        pairs = pairwise(answers)
        np.testing.assert_allclose(agreed[draw], [independent_stability(x[chosen], y[chosen]) for x, y in pairs])


def test_several_labels_and_next_tokens_are_resampled_as_they_are_measured() -> None:
    draw = np.random.default_rng(1)
    bits = draw.integers(0, 2, (3, 29, 4))  # [labels and two models, examples, labels of an example]
    texts = np.array([["".join(map(str, row)) for row in one] for one in bits])
    for count in example_counts("toy", 29, 5):
        for average in ("macro", "weighted"):
            found = weighted_quality(f"f1_{average}", texts[0], texts[1:], count)
            for place, repeats in enumerate(count):
                chosen = np.repeat(np.arange(29), repeats)
                expected = [100 * f1_score(bits[0][chosen], one[chosen], average=average) for one in bits[1:]]
                np.testing.assert_allclose(found[place], expected)
    found = weighted_quality("next_token", np.array(["the end", "so"]), np.array([["th", ""]]), np.array([[3, 1]]))
    assert found == 75


def test_a_constant_prediction_is_50_for_matthews_and_undefined_for_pearson() -> None:
    labels, whole = np.array([0, 1, 1, 0, 1]), np.ones((1, 5))
    assert weighted_quality("matthews", labels, np.ones((1, 5), int), whole) == 50
    scores = np.array([[3, 3, 3, 3, 3], [1, 1, 1, 1, 5]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = weighted_quality("pearson", labels.astype(float), scores, np.array([[1, 1, 1, 1, 1], [2, 2, 1, 0, 0]]))
    assert np.isnan(found).tolist() == [[True, False], [True, True]]  # the last: only equal scores were drawn


def test_f1_is_zero_where_no_positive_is_found_and_undefined_where_there_is_none() -> None:
    labels, none = np.array([1, 0, 0]), np.zeros((1, 3), dtype=int)
    found = weighted_quality("f1", labels, none, np.array([[1, 1, 1], [0, 2, 1]]))
    assert found[0, 0] == 0 and np.isnan(found[1, 0])


def write(
    folder: Path,
    criterion: str,
    seed: int,
    answers: np.ndarray,
    labels: np.ndarray,
    metric: str = "accuracy",
    task: str = "toy",
    masks: tuple[dict[str, list[int]], ...] = MASKS,
    **keys: Any,
) -> Path:
    """A run whose predictions [ratios, examples] are given; its measures are those of the predictions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a constant prediction
        found = [INDEPENDENT[metric](labels, one) for one in answers]
    return write_run(
        folder / "exp", criterion, seed, ratios=RATIOS[: len(answers)], heads=SITES, masks=masks[: len(answers)],
        quality=tuple(None if np.isnan(one) else float(one) for one in found), metric=metric, task=task,
        stability=tuple(independent_stability(one, answers[0]) for one in answers),
        arrays={"predictions": answers, "labels": labels},
        name=f"{task}-{criterion}-{seed}-{keys.get('alpha')}-{keys.get('calibration_size')}", **keys,
    )  # fmt: skip


def write_pair(folder: Path, his: tuple[float, ...], hies: tuple[float, ...], seeds: int = 5, **keys: Any) -> None:
    for seed in range(seeds):
        labels, answers = answers_right_in(his, seed=seed)
        write(folder, "his", seed, answers, labels, **keys)
        labels, answers = answers_right_in(hies, seed=seed)
        write(folder, "hies", seed, answers, labels, masks=EVEN, alpha="per_ratio", **keys)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson"])
def test_an_interval_adds_the_variance_over_seeds_and_over_the_same_examples_on_both_sides(
    tmp_path: Path, metric: str
) -> None:
    labels, answers = answers_of(metric, models=5 * 2 * len(RATIOS), examples=31)
    answers = answers.reshape(5, 2, len(RATIOS), 31)
    for seed in range(5):
        for side, (criterion, keys) in enumerate((("his", {}), ("hies", {"alpha": "auto"}))):
            write(tmp_path, criterion, seed, answers[seed, side], labels, metric, "toy", **keys)
    found = {gain.measure: gain for gain in gains_over_his(load(tmp_path), draws=7)}
    examples = np.concatenate(list(example_counts("toy", 31, 7)))
    rows = load(tmp_path).set_index(["criterion", "seed", "ratio"])
    measures = {"quality": INDEPENDENT[metric], "stability": None}
    for name, measure in measures.items():
        sample = found[name].over(np.array([False, True, True]))  # the ratios 0.3 and 0.5
        draws = []
        for count in examples:
            chosen = np.repeat(np.arange(31), count)
            gained = []
            for seed in range(5):
                for place in (2, 3):
                    values = [
                        measure(labels[chosen], side[place][chosen])
                        if measure
                        else independent_stability(side[place][chosen], side[0][chosen])
                        for side in answers[seed]
                    ]
                    gained.append(values[1] - values[0])
            draws.append(np.mean(gained))
        gains = rows.loc["hies", name].unstack() - rows.loc["his", name].unstack()
        by_seed = gains[[0.3, 0.5]].mean(axis=1).to_numpy()
        of_seeds, of_examples = by_seed.var(ddof=1) / 5, np.var(draws)
        assert sample.mean == pytest.approx(by_seed.mean())
        assert sample.variance == pytest.approx(of_seeds + of_examples, rel=1e-4)
        t = stats.t(4 * ((of_seeds + of_examples) / of_seeds) ** 2)
        error = (of_seeds + of_examples) ** 0.5
        estimate = sample.estimate()
        assert estimate["high"] - by_seed.mean() == pytest.approx(t.ppf(0.975) * error, rel=1e-4)
        assert estimate["p"] == pytest.approx(2 * t.sf(abs(by_seed.mean()) / error), rel=1e-3)
        assert estimate["within"] == pytest.approx(abs(by_seed.mean()) + t.ppf(0.95) * error, rel=1e-4)


def test_intervals_are_the_same_on_every_call_and_wider_than_those_over_seeds_alone(tmp_path: Path) -> None:
    # All seeds alike: over seeds alone the interval would be a point.
    for seed in range(5):
        labels, answers = answers_right_in((0.9, 0.6, 0.6, 0.6))
        write(tmp_path, "his", seed, answers, labels)
        labels, answers = answers_right_in((0.9, 0.65, 0.65, 0.65), seed=1)
        write(tmp_path, "hies", seed, answers, labels, alpha="auto")
    rows = load(tmp_path)
    line = claims_table(rows).data.query("claim.str.startswith('1')").iloc[0]
    assert line["mean"] == pytest.approx(5) and line["low"] < 0 < line["high"] and line["verdict"] == "undecided"
    pd.testing.assert_frame_equal(claims_table(rows).data, claims_table(rows.sample(frac=1, random_state=0)).data)


def cells(table) -> dict[str, list[str]]:
    return {line["task"]: [line[claim.words] for claim in CLAIMS] for line in table.shown.to_dict("records")}


def test_claims_that_hold(tmp_path: Path) -> None:
    write_pair(tmp_path, his=(0.9, 0.9, 0.6, 0.5), hies=(0.9, 0.7, 0.9, 0.8))
    table = claims_table(load(tmp_path))
    quality, stability, redundant, even = cells(table)["toy"]
    assert quality.startswith("holds: +30.00 [+") and stability.startswith("holds: +30.00 [+")
    assert redundant.startswith("holds: -20.00 [-")
    # HIS takes all from one of two sites: at 0.3, 6 and 0 of 10, a deviation of 30; at 0.5, 10 and 0: 50.
    assert even == "holds: -40.00 [-40.00, -40.00]"
    assert "Holm's correction for the comparisons here (4 of single tasks)" in table.caption
    assert table.data.query("claim.str.startswith('3')")["ratios"].tolist() == ["0.1"]
    assert table.data.query("claim.str.startswith('1')")["ratios"].tolist() == ["0.3 0.5"]
    assert "10 %, 30 %, 50 %" in table.caption and "No draw was undefined" in table.caption


def test_claims_that_do_not_hold(tmp_path: Path) -> None:
    write_pair(tmp_path, his=(0.9, 0.6, 0.9, 0.8), hies=(0.9, 0.9, 0.6, 0.5))
    quality, stability, redundant, _ = cells(claims_table(load(tmp_path)))["toy"]
    assert quality.startswith("does not hold: -30.00") and stability.startswith("does not hold: -30.00")
    assert redundant.startswith("does not hold: +30.00")


def test_no_difference_is_equality_and_four_seeds_decide_nothing(tmp_path: Path) -> None:
    write_pair(tmp_path / "same", his=(0.9, 0.7, 0.7, 0.7), hies=(0.9, 0.7, 0.7, 0.7))
    assert cells(claims_table(load(tmp_path / "same")))["toy"][0] == "the same: 0.00 [0.00, 0.00]"
    few = {"his": (0.9, 0.7, 0.2, 0.2), "hies": (0.9, 0.7, 0.9, 0.9)}
    write_pair(tmp_path / "four", **few, seeds=4)
    table = claims_table(load(tmp_path / "four"))
    assert cells(table)["toy"][0] == "too few draws: +70.00 [+70.00, +70.00]"
    assert "fewer than 5 draws their range" in table.caption and "Too few draws for a verdict" in table.caption
    write_pair(tmp_path / "one", **few, seeds=1)
    assert cells(claims_table(load(tmp_path / "one")))["toy"][0] == "too few draws: +70.00"


def test_the_mean_over_tasks_weighs_tasks_alike_and_curves_stand_apart(tmp_path: Path) -> None:
    write_pair(tmp_path, his=(0.9, 0.9, 0.6, 0.6), hies=(0.9, 0.7, 0.9, 0.9), task="sst2")
    write_pair(tmp_path, his=(0.9, 0.9, 0.6, 0.6), hies=(0.9, 0.7, 0.7, 0.7), task="rte")
    for seed in range(3):
        labels, answers = answers_right_in((0.9, 0.9, 0.1, 0.1), seed=seed)
        write(tmp_path, "his", seed, answers, labels, task="cola")
        write(tmp_path, "hies", seed, answers, labels, task="cola", alpha="auto")
        write(tmp_path, "hies", seed, answers, labels, task="rte", alpha="auto")
        write(tmp_path, "hies", seed, answers, labels, task="rte", alpha="per_ratio_on_report")
        write(tmp_path, "hies", seed, answers, labels, task="rte", alpha=0.5)
    table = claims_table(load(tmp_path))
    assert table.shown[["criterion", "task"]].to_numpy().tolist() == [
        [PER_RATIO, "SST-2"], [PER_RATIO, "RTE"], [PER_RATIO, "mean of 2 tasks"],
        [AUTO, "CoLA"], [AUTO, "RTE"], [AUTO, "mean of 2 tasks"],
    ]  # fmt: skip
    mean = table.data.query(f"criterion == '{PER_RATIO}' and task == 'mean' and claim.str.startswith('1')").iloc[0]
    assert mean["mean"] == pytest.approx((30 + 10) / 2)
    single = table.data.query(f"criterion == '{PER_RATIO}' and task != 'mean' and claim.str.startswith('1')")
    assert mean["high"] - mean["low"] < (single["high"] - single["low"]).max()  # independent tasks average out


def test_undefined_seeds_are_left_out_and_counted_and_never_zero(tmp_path: Path) -> None:
    labels = np.linspace(0, 5, 40).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1, (6, 2, len(RATIOS), 40))
    answers = (labels + noise).astype(np.float32)
    answers[2, 0, 3] = 2.5  # seed 2 of HIS is constant at 50 %
    answers[4, 0, 3, 2:] = 2.5  # seed 4 in some of the draws
    answers[4, 0, 3, :2] = 0, 5
    for seed in range(6):
        write(tmp_path, "his", seed, answers[seed, 0], labels, "pearson", "stsb")
        write(tmp_path, "hies", seed, answers[seed, 1], labels, "pearson", "stsb", alpha="per_ratio")
    rows = load(tmp_path)
    table = significance_table(rows, draws=200)
    line = table.data.query("ratio == 0.5 and measure == 'quality'").iloc[0]
    gained = [
        50 * (pearsonr(labels, answers[seed, 1, 3])[0] - pearsonr(labels, answers[seed, 0, 3])[0])
        for seed in (0, 1, 3, 4, 5)
    ]
    assert line["mean"] == pytest.approx(np.mean(gained), rel=1e-5) and line["undefined_seeds"] == 1
    lost = int((np.concatenate(list(example_counts("stsb", 40, 200)))[:, :2].sum(axis=1) == 0).sum())
    assert line["undefined_draws"] == lost > 10 and line["draws"] == 200
    assert min(gained) - 30 < line["low"] <= line["mean"] <= line["high"] < max(gained) + 30
    assert (
        f"Draws left out because the metric is undefined (constant predictions): STS-B up to {lost}." in table.caption
    )
    others = table.data.query("not (ratio == 0.5 and measure == 'quality')")
    assert (others["undefined_draws"] == 0).all()
    assert f"STS-B up to {lost}" in claims_table(rows, draws=200).caption


def test_what_is_undefined_for_all_seeds_is_blank(tmp_path: Path) -> None:
    labels = np.linspace(0, 5, 40).astype(np.float32)
    for seed in range(5):
        answers = np.tile(labels, (len(RATIOS), 1))
        answers[3] = 1.0
        write(tmp_path, "his", seed, answers, labels, "pearson", "stsb")
        write(tmp_path, "hies", seed, answers, labels, "pearson", "stsb", alpha="per_ratio")
    rows = load(tmp_path)
    line = significance_table(rows, draws=50).shown.query("removed == '50 %'").iloc[0]
    assert line[["quality: HIS", "quality: difference", "quality: HIES is"]].tolist() == ["", "", ""]
    assert line["stability: difference"] == "0.00 [0.00, 0.00]"
    assert cells(claims_table(rows, draws=50))["STS-B"][0] == ""


def test_unevenness_by_hand() -> None:
    assert unevenness([4, 4], [2, 2]) == 0
    assert unevenness([4, 4], [4, 0]) == 50
    assert unevenness([2, 8], [1, 0]) == 25  # shares 0.5 and 0


@pytest.mark.parametrize(
    ("verdict", "mean", "sign", "words"),
    [("ahead", 1, 1, "holds"), ("behind", -1, 1, "does not hold"), ("undecided", 1, 1, "undecided"),
     ("ahead", 1, -1, "does not hold"), ("behind", -1, -1, "holds"), ("behind", 1, 1, "holds"), ("", np.nan, 1, "")],
)  # fmt: skip
def test_verdict(verdict: str, mean: float, sign: int, words: str) -> None:
    assert Claim("", "loss", sign, np.isfinite).decided({"mean": mean, "verdict": verdict}) == words


def no_predictions(folder: Path) -> None:
    write_run(folder / "exp", "his")
    write_run(folder / "exp", "hies", alpha="auto")


def no_chosen_alpha(folder: Path) -> None:
    labels, answers = answers_right_in((0.9, 0.9))
    write(folder, "his", 0, answers, labels)
    write(folder, "hies", 0, answers, labels, alpha=0.5)


def several_sizes(folder: Path) -> None:
    write_pair(folder, (0.9, 0.9), (0.9, 0.9), seeds=1)
    write_pair(folder, (0.9, 0.9), (0.9, 0.9), seeds=1, calibration_size=64)


def other_examples(folder: Path) -> None:
    labels, answers = answers_right_in((0.9, 0.9))
    write(folder, "his", 0, answers, labels)
    write(folder, "hies", 0, answers, 1 - labels, alpha="auto")


def unknown_metric(folder: Path) -> None:
    for criterion, keys in (("his", {}), ("hies", {"alpha": "auto"})):
        write_run(folder / "exp", criterion, metric="bleu", **keys)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [(no_predictions, "has no predictions and no labels"), (no_chosen_alpha, "alpha per_ratio, per_task or auto"),
     (several_sizes, "one calibration size"), (other_examples, "other examples"),
     (unknown_metric, "metric bleu of toy")],
)  # fmt: skip
@pytest.mark.parametrize("make", [claims_table, significance_table])
def test_what_the_rows_do_not_allow(tmp_path: Path, make, prepare, reason: str) -> None:
    prepare(tmp_path)
    with pytest.raises(Unavailable, match=reason):
        make(load(tmp_path))

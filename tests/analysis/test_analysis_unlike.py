"""What is unlike is not averaged: other forms, ratios, draws, units, tasks, models, examples are refused or named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import ALPHA, HIES, RATIOS, TUNED, answers_right_in, hies, right_in, write_run
from shown import caption_of

from analysis import load
from analysis.errors import Unavailable
from analysis.figures.alphas import draw_figure12
from analysis.figures.by_size import draw_by_size
from analysis.figures.forest import draw_forest
from analysis.figures.methods import draw_methods
from analysis.findings.forms import HIS, PER_RATIO, ChosenAgain, Difference, SameHeads
from analysis.stats.chosen import chosen_again
from analysis.stats.pairing import against_hies
from analysis.stats.significance import Gain, curve_differences
from analysis.stats.signs import PREDICTORS, SETTINGS, layer_statistics, rank_correlations
from analysis.stats.sizes import chosen_on_other_tasks
from analysis.stats.variants import compare
from analysis.tables.differences import against_table, claims_table, variants_table
from analysis.tables.findings import findings
from analysis.tables.sizes import sizes_table
from analysis.text.captions import interval_words
from hies.errors import RowsWarning

CHOSEN = {**TUNED, "alpha_used": 0.9}


def test_forms_of_his_are_no_draws_of_one_line(tmp_path: Path) -> None:
    for size in (8, 32):
        for form in ({}, {"reduction": "batch"}):
            write_run(tmp_path / "exp", "his", calibration_size=size, **form)
        write_run(tmp_path / "exp", "hies", calibration_size=size, alpha=0.5)
    with pytest.raises(Unavailable, match="cannot choose between several curves"):
        draw_by_size(load(tmp_path))


def test_rows_without_the_normalized_quality_of_their_task_have_none(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", 0, task="hellaswag", quality_norm=50)
    write_run(tmp_path / "exp", "his", 1, task="hellaswag")
    write_run(tmp_path / "exp", "his", 0, task="winogrande")  # which knows no other quality
    found = load(tmp_path).groupby(["task", "seed"])["quality_norm"].agg(list).to_dict()
    assert found["hellaswag", 0] == [50, 50] and found["winogrande", 0] == [90, 80]
    assert np.isnan(found["hellaswag", 1]).all()


def test_alpha_is_chosen_again_on_the_same_ratios_draws_and_examples_alone(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, task="rte")
    right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, task="rte", alpha=0.9)
    right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, task="rte", alpha=0.5, seeds=2)
    rows = load(tmp_path)
    of_hies, of_his = rows[rows["criterion"] == "hies"], rows[rows["criterion"] == "his"]
    assert set(chosen_again(of_hies, of_his, (0.3,), 5)) == {"rte"}  # on two seeds
    assert chosen_again(of_hies, of_his.assign(checkpoint="other"), (0.3,), 5) == {}
    with pytest.raises(Unavailable, match=r"no predictions at the ratio 0\.4"):
        chosen_again(of_hies, of_his, (0.3, 0.4), 5)
    with pytest.raises(Unavailable, match="no seed in common"):
        chosen_again(of_hies[(of_hies["alpha"] == 0.5) | (of_hies["seed"] > 1)], of_his, (0.3,), 5)
    for path in set(of_his["path"]):
        arrays = dict(np.load(Path(path).with_suffix(".npz")))
        np.savez(Path(path).with_suffix(".npz"), **{**arrays, "labels": 1 - arrays["labels"]})
    with pytest.raises(Unavailable, match="other examples"):
        chosen_again(of_hies, of_his, (0.3,), 5)


def test_findings_are_of_one_model_and_of_all_their_ratios(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6)
    right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, **CHOSEN)
    gain, other = (
        Difference(f"{ratios}", "", "exp", PER_RATIO, HIS, "quality", ratios, "claims")
        for ratios in ((0.3, 0.5), (0.3, 0.4))
    )
    same = SameHeads("same", "", "exp", PER_RATIO, HIS, (0.3, 0.4))
    assert findings(load(tmp_path), 5, (gain, other, same))["key"].tolist() == [gain.key]
    for seed in range(5):
        labels, answers = answers_right_in((0.9, 0.8, 0.7, 0.6), seed=seed)
        for criterion, knobs in (("his", {}), ("hies", CHOSEN)):
            options = {"ratios": RATIOS, "arrays": {"predictions": answers, "labels": labels}, "checkpoint": "other"}
            write_run(tmp_path / "exp", criterion, seed, (50.0,) * 4, model="large", **options, **knobs)
    # The second model's runs would be further draws, had they seeds of their own.
    for rows in (
        load(tmp_path),
        load(tmp_path).assign(seed=lambda rows: rows["seed"] + 9 * (rows["model"] == "large")),
    ):
        warned = pytest.warns(RowsWarning, match="the findings of exp .* over several models, large and tiny")
        with warned, pytest.raises(Unavailable, match="no rows of the curves"):
            findings(rows, 5, (gain,))
    rows = load(tmp_path)
    other = rows[rows["model"] == "tiny"].assign(experiment="other")
    with pytest.warns(RowsWarning, match="the findings of exp"):  # the others are built
        lines = findings(pd.concat([rows, other]), 5, (gain, same, replace(gain, key="of other", experiment="other")))
    assert lines["key"].tolist() == ["of other"]


def test_models_on_tasks_of_their_own_are_in_one_finding_only_where_it_names_them(tmp_path: Path) -> None:
    for task, model in (("cola", "tiny"), ("rte", "large")):
        right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, task=task, model=model)
        right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, task=task, model=model, **CHOSEN)
    gain = Difference("gain", "", "exp", PER_RATIO, HIS, "quality", (0.3, 0.5), "claims")
    assert findings(load(tmp_path), 5, (replace(gain, tasks=("cola", "rte")),))["tasks"].tolist() == [2]
    with pytest.warns(RowsWarning, match="large and tiny"), pytest.raises(Unavailable, match="no rows of the curves"):
        findings(load(tmp_path), 5, (gain,))


@pytest.mark.parametrize("unusable", ["no arrays", "metric"])
def test_an_unusable_run_takes_the_findings_of_its_experiment_alone(tmp_path: Path, unusable: str) -> None:
    for task in ("cola", "rte"):
        right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, task=task)
        right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, task=task, **CHOSEN)
        right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, task=task, alpha=0.9)
    whole = load(tmp_path)
    bad = whole.assign(experiment="bad")
    if unusable == "metric":
        bad.loc[bad["task"] == "rte", "metric"] = "bleu"
    else:
        first = bad["path"] == bad.loc[bad["curve"] == HIES, "path"].iloc[0]
        bad.loc[first | (bad["alpha"] == 0.9), "path"] += ".gone"
    gain = Difference("gain", "", "exp", PER_RATIO, HIS, "quality", (0.3, 0.5), "claims")
    declared = (gain, replace(gain, key="of bad", experiment="bad"))
    with pytest.warns(RowsWarning, match="the differences of bad are left out of the findings: "):
        assert findings(pd.concat([whole, bad]), 5, declared)["key"].tolist() == ["gain"]
    if unusable == "no arrays":
        again = ChosenAgain("again", "", "bad", "exp", (0.3, 0.5))
        with pytest.warns(RowsWarning, match="again of bad is left out of the findings: "):
            assert findings(pd.concat([whole, bad]), 5, (gain, again))["key"].tolist() == ["gain"]


def test_a_mean_over_tasks_is_over_the_ratios_that_all_have(tmp_path: Path) -> None:
    for task, ratios in (("cola", 3), ("sst2", 4)):
        right_in(tmp_path, "his", *(0.9, 0.8, 0.7, 0.3)[:ratios], task=task)
        right_in(tmp_path, "hies", *(0.9, 0.8, 0.8, 0.6)[:ratios], task=task, **CHOSEN)
    lines = claims_table(load(tmp_path), draws=5).data.query("claim.str.startswith('1')").set_index("task")
    assert lines["ratios"].to_dict() == {"sst2": "0.3 0.5", "cola": "0.3", "mean": "0.3"}
    assert lines["mean"].to_dict() == pytest.approx({"sst2": 20, "cola": 10, "mean": 10})


def test_a_mean_of_a_claim_says_of_how_many_tasks_it_is(tmp_path: Path) -> None:
    for task in ("piqa", "other", "toy"):  # rows say 50 % of 50 examples, which only for piqa is chance
        right_in(tmp_path, "his", 0.9, 0.8, 0.7, task=task)
        right_in(tmp_path, "hies", 0.9, 0.8, 0.7, task=task, **CHOSEN)
    table = claims_table(load(tmp_path), draws=5)
    assert "holds 0, or there is none (fewer than five tasks);" in table.caption
    shown = table.shown.set_index("task")
    claims = [column[0] for column in shown if column != "criterion"]
    of_two, of_three = (shown.loc[f"mean of {count} tasks"].drop("criterion") != "" for count in (2, 3))
    assert [claim for claim, there in zip(claims, of_two, strict=True) if there] == ["1", "3"]
    assert [claim for claim, there in zip(claims, of_three, strict=True) if there] == ["2", "4"]


def test_a_calibration_draw_without_a_number_is_told(tmp_path: Path) -> None:
    for seed in range(6):
        labels, answers = answers_right_in((0.9, 0.8, 0.7, 0.6), seed=seed)
        for criterion, knobs in (("his", {}), ("hies", CHOSEN)):
            scores = np.where([[seed > 0 or criterion == "his"]], answers, 1.0)
            arrays = {"predictions": scores.astype(float), "labels": labels.astype(float)}
            options = {"ratios": RATIOS, "task": "stsb", "metric": "pearson", "arrays": arrays}
            write_run(tmp_path / "exp", criterion, seed, (50.0,) * 4, **options, **knobs)
    text = claims_table(load(tmp_path), draws=5).caption
    assert "Calibration draws left out because the metric is undefined (constant predictions): STS-B up to 1." in text
    assert "up to 0" not in text


def test_forms_are_compared_with_those_of_the_same_importance(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.8, seeds=1)
    labels, answers = answers_right_in((0.9, 0.8))
    for form in ({}, {"importance": "output_norm"}, {"normalize": "rank"}):
        arrays = {"predictions": answers, "labels": labels}
        write_run(tmp_path / "exp", "hies", ratios=RATIOS[:2], arrays=arrays, **{**CHOSEN, **form})
    data = compare(load(tmp_path), 5, ["quality"])
    assert set(data[data["criterion"].str.contains("rank")]["against"]) == {"HIS", HIES}


def test_losses_of_other_units_have_no_part_in_a_choice(tmp_path: Path) -> None:
    def gain(task: str, curve: str, unit: str) -> Gain:
        none = np.zeros((5, 1))
        return Gain(task, curve, "HIS", "loss", unit, np.array([0.5]), none, none - 9, np.full((3, 5, 1), -9.0))

    of_stsb = [gain("stsb", curve, "squared error") for curve in "AB"]
    of_cola = [gain("cola", curve, "nats") for curve in "AB"]
    with pytest.raises(Unavailable, match="the same two tasks"):
        chosen_on_other_tasks({8: of_cola + of_stsb, 32: of_stsb}, ["A", "B"], ["loss"])


def test_a_curve_of_one_draw_does_not_end_the_table_of_sizes(tmp_path: Path) -> None:
    for size in (8, 32):
        for seed in range(3):
            labels, answers = answers_right_in((0.9, 0.8, 0.7, 0.6), seed=seed)
            runs = (("his", {}), ("hies", {"alpha": 0.9}), *([("random", {})] if not seed else []))
            for criterion, knobs in runs:
                options = {"ratios": RATIOS, "arrays": {"predictions": answers, "labels": labels}}
                write_run(tmp_path / "exp", criterion, seed, (50.0,) * 4, calibration_size=size, **options, **knobs)
    shown = sizes_table(load(tmp_path), draws=5).shown
    assert shown["criterion"].tolist() == [f"HIES ({ALPHA} = 0.9)"] * 2 + ["HIS"] * 2 + ["Random"] * 2


def test_statistics_of_heads_are_of_the_usual_his(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    one = layer_statistics(load(tmp_path))
    write_run(tmp_path / "exp", "his", reduction="batch", arrays={"ae": np.array([5.0, 4, 3, 2, 9])})
    pd.testing.assert_frame_equal(layer_statistics(load(tmp_path)), one)


def test_a_rank_correlation_says_over_how_many_settings_it_is() -> None:
    units = ["squared error"] + ["nats"] * 7
    gains = pd.DataFrame({"model": "m", "measure": "loss", "task": [*"abcdefgh"], "unit": units})
    gains = gains.assign(mean=[*range(7), np.nan], low=-1.0, high=9.0)
    known = pd.DataFrame({**gains[SETTINGS], **{name: range(8) for name in PREDICTORS}})
    assert rank_correlations(gains, known)["settings"] == 6


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ({"his": range(5), "ae": range(1)}, "95 % t interval over draws"),
        ({"his": range(5), "ae": range(3)}, "95 % t interval over draws, of fewer than five draws their range"),
        ({"his": range(3), "ae": range(3, 5)}, "range of 3 draws"),
    ],
)
def test_a_band_is_what_the_caption_says_of_every_curve(tmp_path: Path, seeds: dict, words: str) -> None:
    for criterion, several in seeds.items():
        for seed in several:
            write_run(tmp_path / "exp", criterion, seed)
    assert interval_words(load(tmp_path)) == words


def test_alphas_without_a_ratio_in_common_are_not_ranked(tmp_path: Path) -> None:
    for alpha in (0.2, 0.4, 0.6):
        hies(tmp_path / "exp", alpha, ratios=(0.0, alpha))
    with pytest.raises(Unavailable, match="no ratio in common"):
        draw_figure12(load(tmp_path))


def test_quality_and_flops_are_means_over_the_same_tasks(tmp_path: Path) -> None:
    for task, quality, flops in (("hellaswag", 26, 10), ("arc_easy", 60, 20)):  # HellaSwag is at chance
        for criterion in ("his", "ae"):
            path = write_run(tmp_path / "exp", criterion, 0, (quality, 20), task=task, examples=100, flops=20)
            first, second = path.read_text().splitlines()
            pruned = second.replace('"flops": 20', f'"flops": {flops}')
            path.write_text(f"{first}\n{pruned}\n")
    panels = draw_methods(load(tmp_path))
    assert panels[1].get_lines()[0].get_xdata().tolist() == [100, 100]  # of ARC-e
    assert panels[3].get_lines()[0].get_xdata().tolist() == [100, 75]  # of both


def with_a_run_that_lacks_50(folder: Path) -> pd.DataFrame:
    """HIES is ahead of HIS by 10 points at 30 % and 30 at 50 %; AE is level with HIS, on CoLA up to 30 %."""
    for task in ("cola", "sst2"):
        right_in(folder, "his", 0.9, 0.8, 0.7, 0.4, task=task)
        right_in(folder, "hies", 0.9, 0.8, 0.8, 0.7, task=task, **CHOSEN)
        right_in(folder, "ae", *(0.9, 0.8, 0.7, 0.4)[: 3 if task == "cola" else 4], task=task)
    return load(folder)


def test_a_run_that_lacks_a_ratio_takes_it_from_no_other_comparison(tmp_path: Path) -> None:
    rows = with_a_run_that_lacks_50(tmp_path)
    data = against_table(rows, draws=5, measures=["quality"]).data.set_index(["criterion", "ratio"])
    assert data.loc[("HIS", 0.5), ["mean", "tasks"]].tolist() == pytest.approx([-30, 2])
    assert data.loc[("AE", 0.3), ["mean", "tasks"]].tolist() == pytest.approx([-10, 2])
    assert data.loc[("AE", 0.5), ["mean", "tasks"]].tolist() == pytest.approx([-30, 1])  # of SST-2
    shown = against_table(rows, draws=5, measures=["quality"]).shown.set_index("criterion")
    assert shown["tasks"].to_dict() == {"HIS": "2", "AE": "1 to 2"}


def test_a_value_at_a_ratio_does_not_hang_on_those_that_others_have(tmp_path: Path) -> None:
    rows = with_a_run_that_lacks_50(tmp_path)
    pairs = against_hies(rows)
    alone = pairs[pairs["curve"] == "HIS"]
    beside = [gain for gain in curve_differences(rows, pairs, 5) if gain.curve == "HIS"]
    for one, other in zip(curve_differences(rows, alone, 5), beside, strict=True):
        np.testing.assert_array_equal(one.ratios, other.ratios)
        np.testing.assert_array_equal(one.gains, other.gains)
        np.testing.assert_allclose(one.resampled, other.resampled)


def test_captions_name_the_ratios_that_means_are_over(tmp_path: Path) -> None:
    for task, ratios in (("cola", 3), ("sst2", 4)):
        right_in(tmp_path, "his", *(0.9, 0.8, 0.7, 0.3), task=task)
        right_in(tmp_path, "his", *(0.9, 0.8, 0.8, 0.6)[:ratios], task=task, reduction="batch")
        right_in(tmp_path, "his", *(0.9, 0.8, 0.8, 0.6), task=task, reduction="token")
    rows = load(tmp_path)
    text = variants_table(rows, draws=5).caption
    said = "HIS (per batch) minus HIS, 30 to 90 %, CoLA and mean over tasks (30 %)"
    assert f" Over fewer ratios, since runs lack the others: {said}." in text and "(of 10 %, 30 %, 50 %)" in text
    assert said in caption_of(draw_forest(rows, draws=5)[0])
    short = rows[(rows["ratio"] < 0.5) | (rows["curve"] == "HIS (per token)")]
    text = variants_table(short, draws=5).caption  # no mean is over 50 %, though there are rows of it
    assert "(of 10 %, 30 %)" in text and "Over fewer" not in text
    whole = claims_table(with_a_run_that_lacks_50(tmp_path / "more"), draws=5)
    assert "Over fewer" not in whole.caption and "(of 10 %, 30 %, 50 %)" in whole.caption


def test_curves_without_a_ratio_in_common_are_left_out_alone(tmp_path: Path) -> None:
    rows = with_a_run_that_lacks_50(tmp_path)
    kept = rows[(rows["curve"] != "AE") | ~rows["ratio"].isin([0.1, 0.3])]  # on CoLA no pruned ratio is left
    apart = kept[(kept["curve"] != HIES) | (kept["ratio"] != 0.5) | (kept["task"] != "sst2")]
    with pytest.warns(RowsWarning, match=r"AE and HIES .* have no ratio in common on sst2"):
        assert set(against_table(apart, draws=5).data["criterion"]) == {"HIS"}
    with pytest.warns(RowsWarning), pytest.raises(Unavailable, match="have a ratio in common"):
        against_table(apart[apart["curve"] != "HIS"], draws=5)

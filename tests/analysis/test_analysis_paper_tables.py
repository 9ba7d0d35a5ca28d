from pathlib import Path

import numpy as np
import pytest
from analysis_runs import write_run
from shown import line

from analysis import load, paper
from analysis.errors import Unavailable
from analysis.tables.paper import orthogonality, table1, table2, table7
from analysis.tables.spread import table9, table11
from analysis.text.labels import GLUE_NAMES

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
PER_RATIO = f"HIES ({ALPHA} per ratio)"
METRICS = {"cola": "matthews", "mrpc": "f1", "stsb": "pearson"}


def write(folder: Path, criterion: str, task: str, quality: tuple[float | None, ...], seed: int = 0, **keys) -> None:
    keys = {"ratios": (0.0, 0.1, 0.3), "metric": METRICS.get(task, "accuracy"), **keys}
    name = f"{task}-{criterion}-{seed}-{keys.get('alpha')}-{keys.get('calibration_size')}"
    write_run(folder / "glue", criterion, seed, quality, task=task, name=name, **keys)


def test_the_printed_averages_are_those_of_the_printed_numbers() -> None:
    for name, column in (("table1_bert_glue_quality", "quality"), ("table2_bert_glue_stability", "stability")):
        wide = paper.read_paper(name).pivot(index=["ratio", "method"], columns="task", values=f"{column}_percent")
        np.testing.assert_allclose(wide[list(GLUE_NAMES)].mean(axis=1), wide["average"], atol=0.006)
    assert list(dict.fromkeys(paper.read_paper("table1_bert_glue_quality")["task"])) == [*GLUE_NAMES, "average"]


def test_a_table_of_the_paper_is_a_copy_and_an_unknown_one_is_told() -> None:
    frame = paper.read_paper("table9_bert_seeds")
    frame.loc[0, "task"] = "changed"
    assert paper.read_paper("table9_bert_seeds").loc[0, "task"] == "cola"
    with pytest.raises(ValueError, match=r"no table 'table99'; there are .*table1_bert_glue_quality"):
        paper.read_paper("table99")


def test_table1_has_the_mean_over_seeds_below_the_papers_number_and_blanks_where_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, "his", "sst2", (90, 80, 60), seed=0)
    write(tmp_path, "his", "sst2", (90, 81, None), seed=1)
    write(tmp_path, "his", "rte", (70, 65.5, None))
    write(tmp_path, "hies", "sst2", (90, 85, 75), alpha="per_ratio")
    write(tmp_path, "ae", "sst2", (90, 45, 35))
    write(tmp_path, "hies", "sst2", (90, 1, 2), alpha=0.5)  # a single number beside a chosen alpha is not shown
    table = table1(load(tmp_path))
    shown = table.shown
    assert shown.columns.tolist() == [
        "removed", "criterion", "numbers", "SST-2", "CoLA", "MRPC", "QQP", "STS-B", "QNLI", "MNLI", "RTE", "average",
    ]  # fmt: skip
    assert line(shown, removed="0 %", criterion="unpruned", numbers="paper")[0] == "92.43"
    assert line(shown, removed="0 %", criterion="unpruned", numbers="ours") == ["90.00", *[""] * 6, "70.00", ""]
    told = ["91.74", "77.21", "90.65", "91.23", "94.04", "90.63", "84.04", "71.84", "86.42"]
    assert line(shown, removed="10 %", criterion="HIS", numbers="paper") == told
    assert line(shown, removed="10 %", criterion="HIS", numbers="ours") == ["80.50", *[""] * 6, "65.50", ""]
    assert line(shown, removed="30 %", criterion="HIS", numbers="ours")[0] == "60.00 (n = 1)"
    assert line(shown, removed="10 %", criterion="Random", numbers="ours") == [""] * 9
    assert line(shown, removed="10 %", criterion=PER_RATIO, numbers="paper")[0] == "92.66"
    assert line(shown, removed="10 %", criterion=PER_RATIO, numbers="ours")[0] == "85.00"
    assert line(shown, removed="30 %", criterion="AE", numbers="ours")[0] == "35.00"
    assert line(shown, removed="30 %", criterion="AE", numbers="paper") is None
    assert not shown["criterion"].str.contains("0.5").any()
    assert "No rows of ours for CoLA, MRPC, QQP, STS-B, QNLI, MNLI." in table.caption
    assert "Undefined for all draws (constant predictions): RTE at 30 % for HIS." in table.caption
    cell = table.data.query("ratio == 0.1 and criterion == 'HIS' and task == 'sst2'").iloc[0]
    assert (cell["paper"], cell["ours"], cell["n"]) == (91.74, 80.5, 2)


def test_table1_averages_only_where_all_eight_tasks_are_there(tmp_path: Path) -> None:
    for place, task in enumerate(GLUE_NAMES):
        write(tmp_path, "his", task, (90, 80 + place, 60))
        if task != "rte":
            write(tmp_path, "ad", task, (90, 70, 60))
    shown = table1(load(tmp_path)).shown
    assert line(shown, removed="10 %", criterion="HIS", numbers="ours")[-1] == "83.50"
    assert line(shown, removed="10 %", criterion="AD", numbers="ours")[-2:] == ["", ""]
    assert line(shown, removed="0 %", criterion="unpruned", numbers="ours")[-1] == "90.00"


def test_table1_shows_single_alphas_where_none_was_chosen(tmp_path: Path) -> None:
    write(tmp_path, "his", "sst2", (90, 80, 60))
    write(tmp_path, "hies", "sst2", (90, 81, 61), alpha=0.5)
    shown = table1(load(tmp_path)).shown
    assert line(shown, removed="10 %", criterion=f"HIES ({ALPHA} = 0.5)", numbers="ours")[0] == "81.00"
    assert line(shown, removed="10 %", criterion=PER_RATIO, numbers="ours")[0] == ""


def test_table2_is_stability_without_the_unpruned_model(tmp_path: Path) -> None:
    for criterion in ("random", "l2"):
        write(tmp_path, criterion, "cola", (90, 80, 60), stability=(100, 77.125, 30))
    shown = table2(load(tmp_path)).shown
    assert "0 %" not in set(shown["removed"])
    assert line(shown, removed="10 %", criterion="Random", numbers="paper") is None
    assert line(shown, removed="10 %", criterion="Random", numbers="ours")[1] == "77.12"
    assert line(shown, removed="10 %", criterion="L2", numbers="paper")[1] == "76.41"


def test_orthogonality_is_that_of_numpy_and_of_the_paper() -> None:
    his, ae = np.random.default_rng(0).random((2, 17))
    found = orthogonality(his, ae)
    u = his / his.sum()
    assert found["mean_u_his"] == pytest.approx(1 / 17)
    assert found["cov_uv"] == pytest.approx(np.cov(u, ae, bias=True)[0, 1])
    assert found["correlation"] == pytest.approx(np.corrcoef(u, ae)[0, 1])
    assert np.isnan(orthogonality(np.ones(5), np.arange(5.0))["correlation"])
    printed = paper.read_paper("table7_8_orthogonality").query("model == 'BERT'")  # which covariance the paper prints
    np.testing.assert_allclose(
        printed["mean_inner_product"],
        printed["cov_uv"] + printed["mean_u_his"] * printed["mean_v_ae"],
        rtol=0.005,
    )


def test_table7_is_the_mean_over_the_seeds_of_his(tmp_path: Path) -> None:
    scores = [np.array([1.0, 2, 3, 4, 6]), np.array([1.0, 1, 5, 2, 1])]
    for seed, his in enumerate(scores):
        ae = np.array([0.5, 0.25, 1, 0, 0.125])
        write(tmp_path, "his", "mrpc", (90, 80, 60), seed, arrays={"his": his, "ae": ae})
    write(tmp_path, "ae", "mrpc", (90, 80, 60), arrays={"his": np.ones(5), "ae": np.ones(5)})
    table = table7(load(tmp_path))
    mean = np.mean([np.corrcoef(his, ae)[0, 1] for his in scores])
    found = table.data.query("task == 'mrpc' and statistic == 'correlation'").iloc[0]
    assert found["ours"] == pytest.approx(mean) and found["paper"] == 0.232 and found["seeds"] == 2
    assert line(table.shown, task="MRPC", numbers="ours")[0] == "2.00E-01"
    assert line(table.shown, task="MRPC", numbers="paper")[-1] == "2.32E-01"
    assert line(table.shown, task="RTE", numbers="ours") == [""] * 5


def test_table9_by_hand(tmp_path: Path) -> None:
    for seed, (his, hies) in enumerate([(60, 80), (63, 84), (66, 82)]):
        for task in GLUE_NAMES:
            write(tmp_path, "his", task, (90, his, 50), seed)
            write(tmp_path, "hies", task, (90, hies, 55), seed, alpha="per_ratio")
            write(tmp_path, "hies", task, (90, 1, 1), seed, alpha="auto")
    rows = load(tmp_path)
    stsb = (rows["task"] == "stsb") & (rows["ratio"] == 0.1)
    rows.loc[stsb, "value"] = rows.loc[stsb, "quality"] / 50 - 1  # r, which quality maps to 50 (r + 1)
    table = table9(rows)
    assert table.shown.columns.tolist() == ["task", "removed", "HIS: paper", "HIS: ours", "HIES: paper", "HIES: ours"]
    # The deviation of 60, 63, 66 is 3; CoLA's is printed as a fraction, 1.60E-02.
    assert line(table.shown, task="CoLA", removed="10 %") == [
        "74.18 ± 1.60", "63.00 ± 3.00", "75.85 ± 1.21", "82.00 ± 2.00",
    ]  # fmt: skip
    assert line(table.shown, task="RTE", removed="10 %")[:2] == ["72.42 ± 0.29", "63.00 ± 3.00"]
    # 100 r of 60, 63, 66 % is 20, 26, 32.
    assert line(table.shown, task="STS-B", removed="10 %")[1] == "26.00 ± 6.00"
    average = line(table.shown, task="average", removed="10 %")
    assert average[0] == "85.25" and average[1] == f"{(7 * 63 + 26) / 8:.2f} ± {(7 * 3 + 6) / 8:.2f}"
    assert line(table.shown, task="CoLA", removed="40 %") == ["70.28 ± 0.55", "", "70.20 ± 3.68", ""]
    assert f"Ours: {PER_RATIO}" in table.caption


def test_table9_leaves_undefined_seeds_out_and_says_so(tmp_path: Path) -> None:
    for seed, his in enumerate([60, None]):
        write(tmp_path, "his", "cola", (90, his, 50), seed)
        write(tmp_path, "hies", "cola", (90, 70, 50), seed, alpha="per_ratio")
    shown = table9(load(tmp_path)).shown
    assert line(shown, task="CoLA", removed="10 %")[1::2] == ["60.00 (n = 1)", "70.00 ± 0.00"]
    assert line(shown, task="average", removed="10 %")[1] == ""


def test_table11_is_the_spread_over_sizes_of_the_means_over_seeds(tmp_path: Path) -> None:
    for size, values in {1: (50, 60), 32: (70, 72), 1024: (80, None)}.items():
        for seed, quality in enumerate(values):
            write(tmp_path, "his", "qnli", (90, quality, 50), seed, calibration_size=size)
            write(tmp_path, "hies", "qnli", (90, 88, 50), seed, calibration_size=size, alpha=0.5)
            write(tmp_path, "hies", "qnli", (90, 40, 50), seed, calibration_size=size, alpha="per_task")
    table = table11(load(tmp_path))
    means = [55, 71, 80]
    assert line(table.shown, task="QNLI", removed="10 %") == [
        "90.51 ± 0.10", f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}", "90.54 ± 0.12", "40.00 ± 0.00",
    ]  # fmt: skip
    assert "sizes 1, 32, 1024" in table.caption and f"Ours: HIES ({ALPHA}* per task)." in table.caption


@pytest.mark.parametrize(
    ("make", "reason"),
    [(table1, "one calibration size"), (table2, "one calibration size"), (table7, "one calibration size"),
     (table9, "one calibration size"), (table11, "of his and of hies")],
)  # fmt: skip
def test_what_the_rows_do_not_allow(tmp_path: Path, make, reason: str) -> None:
    write(tmp_path, "his", "sst2", (90, 80, 60))
    write(tmp_path, "his", "sst2", (90, 80, 60), calibration_size=64)
    with pytest.raises(Unavailable, match=reason):
        make(load(tmp_path))


@pytest.mark.parametrize("make", [table1, table2, table7, table9, table11])
def test_other_tasks_have_no_place_in_the_papers_tables(tmp_path: Path, make) -> None:
    write_run(tmp_path / "exp", "his")
    write_run(tmp_path / "exp", "hies", alpha=0.5)
    with pytest.raises(Unavailable, match="GLUE"):
        make(load(tmp_path))


def test_table11_needs_two_sizes(tmp_path: Path) -> None:
    write(tmp_path, "his", "sst2", (90, 80, 60))
    write(tmp_path, "hies", "sst2", (90, 80, 60), alpha=0.5)
    with pytest.raises(Unavailable, match="at least two calibration sizes, and there is only 32"):
        table11(load(tmp_path))

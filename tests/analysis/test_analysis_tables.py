from pathlib import Path

import pytest
from analysis_runs import write_run
from scipy.stats import ttest_1samp

from analysis import load
from analysis.errors import Unavailable
from analysis.tables.measures import quality_table, stability_table, summary_table

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
RATIOS = (0.0, 0.1, 0.3)


def test_quality_by_hand(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", seed=0, ratios=RATIOS, quality=(90, 60, None))
    write_run(tmp_path / "exp", "his", seed=1, ratios=RATIOS, quality=(90, 80.5, 50))
    write_run(tmp_path / "exp", "random", seed=0, ratios=(0.0, 0.3), quality=(90, None))
    table = quality_table(load(tmp_path))
    assert list(table.shown.columns) == ["criterion", "0 %", "10 %", "30 %"]
    assert table.shown.to_numpy().tolist() == [
        ["HIS", "90.00 [90.00, 90.00]", "70.25 [60.00, 80.50]", "50.00 (n = 1)"],
        ["Random", "90.00 (n = 1)", "", "undefined"],  # without a row at 10 %
    ]
    assert (
        "2 seeds (0, 1; 1 alone of Random)" in table.caption
        and "50 examples" in table.caption
        and "range" in table.caption
    )
    his = table.data[(table.data["curve"] == "HIS") & (table.data["ratio"] == 0.1)].iloc[0]
    assert (his["mean"], his["low"], his["high"], his["n"]) == (70.25, 60, 80.5, 2)


def test_stability_of_one_seed_has_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", stability=(100, 61))
    table = stability_table(load(tmp_path))
    assert table.shown.to_numpy().tolist() == [["HIS", "100.00", "61.00"]]
    assert "One seed: no intervals." in table.caption


def test_summary_pairs_by_seed(tmp_path: Path) -> None:
    # Gains at 10 %: +1, +2, -0.6; at 30 %: +10, +2 and one undefined. Unpaired means would hide the seeds.
    for seed, (at_10, at_30) in enumerate([(50, 40), (60, 50), (70, 60)]):
        write_run(tmp_path / "exp", "his", seed, ratios=RATIOS, quality=(90, at_10, at_30), stability=(100, 50, 40))
    for seed, (at_10, at_30) in enumerate([(51, 50), (62, 52), (69.4, None)]):
        agreement = (100, 50, 39 - seed)
        write_run(
            tmp_path / "exp", "hies", seed, ratios=RATIOS, quality=(90, at_10, at_30), stability=agreement, alpha=0.9
        )
    table = summary_table(load(tmp_path))
    lines, few = table.shown.to_numpy().tolist(), ["too few draws"]
    curve = f"HIES ({ALPHA} = 0.9)"
    assert lines == [
        ["tiny", "toy", curve, "10 %", "+0.80 [-0.60, +2.00]", *few, "0.00 [0.00, 0.00]", *few, "3"],
        ["tiny", "toy", curve, "30 %", "+6.00 [+2.00, +10.00]", *few, "-2.00 [-3.00, -1.00]", *few, "3"],
    ]
    assert "Brackets: range of 3 draws. Fewer than 5 draws: no verdict." in table.caption


def test_summary_decides_from_five_draws_on_and_corrects_for_its_lines(tmp_path: Path) -> None:
    gains = {0.1: (1, 2, 3, 2.5, 1.5), 0.3: (0.1, 1, 2, 3, 1)}  # p = 0.005 and 0.044, which twice is too much
    for seed in range(5):
        write_run(tmp_path / "exp", "his", seed, ratios=RATIOS, quality=(90, 50, 40))
        quality = (90, 50 + gains[0.1][seed], 40 + gains[0.3][seed])
        for alpha in (0.5, 0.9):
            write_run(tmp_path / "exp", "hies", seed, ratios=RATIOS, quality=quality, alpha=alpha)
    table = summary_table(load(tmp_path))
    assert table.shown["quality: HIES is"].tolist() == ["ahead", "undecided"] * 2
    assert table.shown["stability: HIES is"].tolist() == ["the same"] * 4
    p = [ttest_1samp(values, 0).pvalue for values in gains.values()]
    assert 4 * p[0] < 0.05 > p[1] > 0.025 and table.data["quality_p"].tolist() == pytest.approx(p * 2)
    assert "95 % t interval over draws" in table.caption and "for 4 comparisons a measure" in table.caption


def test_a_run_of_another_checkpoint_or_other_data_has_no_partner(tmp_path: Path) -> None:
    for key in ("checkpoint", "data"):
        write_run(tmp_path / key / "exp", "his")
        write_run(tmp_path / key / "exp", "hies", alpha=0.9, **{key: "e"})
        with pytest.raises(Unavailable, match="same seed and protocol"):
            summary_table(load(tmp_path / key))


def test_summary_has_a_block_for_each_alpha_and_never_decides_on_one_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", quality=(90, 10))
    write_run(tmp_path / "exp", "his", seed=5, quality=(90, 99))  # no partner
    for alpha in (0.9, 0.1):
        write_run(tmp_path / "exp", "hies", alpha=alpha, quality=(90, 80))
    shown = summary_table(load(tmp_path)).shown
    assert shown["criterion"].tolist() == [f"HIES ({ALPHA} = 0.1)", f"HIES ({ALPHA} = 0.9)"]
    assert shown["quality"].tolist() == ["+70.00", "+70.00"]
    assert shown["quality: HIES is"].tolist() == ["too few draws"] * 2


def test_summary_compares_within_one_protocol_only(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", calibration_size=64)
    write_run(tmp_path / "exp", "hies", alpha=0.5)
    with pytest.raises(Unavailable, match="same seed and protocol"):
        summary_table(load(tmp_path))


def test_summary_does_not_choose_between_curves_of_his(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    write_run(tmp_path / "exp", "his", reduction="batch")
    write_run(tmp_path / "exp", "hies", alpha=0.5)
    with pytest.raises(Unavailable, match=r"HIS, HIS \(per batch\)"):
        summary_table(load(tmp_path))

"""Quality against the number of calibration examples."""

from pathlib import Path

import pytest
from analysis_runs import write_run
from shown import caption_of

from analysis import load
from analysis.errors import Unavailable
from analysis.figures.by_size import draw_by_size

SIZES = (1, 16, 128)


def write(folder: Path, criterion: str, size: int, seed: int, quality: float, **keys) -> None:
    write_run(
        folder / "exp", criterion, seed, (90, quality, quality - 10), ratios=(0.0, 0.3, 0.5), calibration_size=size,
        **keys,
    )  # fmt: skip


def test_a_line_a_method_and_ratio_through_the_means_of_the_sizes(tmp_path: Path) -> None:
    for place, size in enumerate(SIZES):
        for seed in (0, 1):
            write(tmp_path, "his", size, seed, 50 + 10 * place + seed)
            write(tmp_path, "hies", size, seed, 60 + 5 * place, alpha="auto")
            write(tmp_path, "hies", size, seed, 11, alpha=0.1)  # not the usual one
        write(tmp_path, "his", size, 0, 11, task="lone")
    panels = draw_by_size(load(tmp_path))
    assert [axes.get_title(loc="left") for axes in panels] == ["toy"] * 2
    found = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in panels[0].lines}
    assert found == {
        "HIS, 30 %": ([*SIZES], [50.5, 60.5, 70.5]), "HIS, 50 %": ([*SIZES], [40.5, 50.5, 60.5]),
        "HIES, 30 %": ([*SIZES], [60, 65, 70]), "HIES, 50 %": ([*SIZES], [50, 55, 60]),
    }  # fmt: skip
    assert "Not drawn, since they have fewer than two" in caption_of(panels[0]) and "lone" in caption_of(panels[0])


def test_no_two_of_seven_ratios_look_alike(tmp_path: Path) -> None:
    options = {"ratios": tuple(place / 10 for place in range(8)), "masks": ({},) * 8}
    for criterion, size in ((name, size) for name in ("his", "hies") for size in SIZES):
        keys = {"alpha": "auto"} if criterion == "hies" else {}
        write_run(tmp_path / "exp", criterion, 0, (80,) * 8, **options, calibration_size=size, **keys)
    lines = draw_by_size(load(tmp_path))[0].lines
    dashes = (str(line._unscaled_dash_pattern) for line in lines)  # get_linestyle calls every pattern "--"
    looks = {
        (line.get_color(), str(line.get_markerfacecolor()), dash) for line, dash in zip(lines, dashes, strict=True)
    }
    assert len(looks) == len(lines) == 14


def test_one_size_is_too_few(tmp_path: Path) -> None:
    write(tmp_path, "his", 32, 0, 80)
    write(tmp_path, "hies", 32, 0, 80, alpha="auto")
    with pytest.raises(Unavailable, match="two calibration sizes"):
        draw_by_size(load(tmp_path))

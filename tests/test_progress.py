"""Progress without a terminal: a line from time to time, whether or not a step was done."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from hies import progress
from hies.progress import ProgressBar


@pytest.fixture
def every_moment(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.02)


def written(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_lines_with_the_time_left_and_none_after_the_end(capsys, every_moment):
    bar = ProgressBar(total=7, unit="mask")
    bar.set_description("rte his seed 0")
    bar.update(2)
    tqdm.write("a line", file=sys.stderr)
    time.sleep(0.1)
    bar.close()
    time.sleep(0.05)
    first, *lines = written(capsys)
    assert first == "a line" and len(lines) >= 2
    assert {*lines} == {"rte his seed 0: mask 2 of 7, 00:00 so far, 00:00 left"}
    time.sleep(0.05)
    assert not written(capsys)


def test_a_line_comes_where_no_step_is_done_and_where_nothing_is_known_of_the_end(capsys, every_moment):
    for _ in ProgressBar(iter("ab"), "scoring", unit="batch"):
        time.sleep(0.05)
    lines = written(capsys)
    assert (lines[0], lines[-1]) == ("scoring: batch 0, 00:00 so far", "scoring: batch 1, 00:00 so far")


def test_a_loop_that_ends_by_an_error_leaves_no_thread(capsys, every_moment):
    def left():
        return [thread for thread in threading.enumerate() if thread.name == "progress"]

    with pytest.raises(ZeroDivisionError):
        for _ in ProgressBar(range(3)):
            _ = 1 / 0
    deadline = time.monotonic() + 2
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left()


def test_nothing_is_written_where_it_is_not_shown_and_a_terminal_has_its_bar(capsys, every_moment, monkeypatch):
    for _ in ProgressBar(range(2), shown=False):
        time.sleep(0.03)
    assert not written(capsys)
    terminal = SimpleNamespace(isatty=lambda: True, write=print, flush=lambda: None)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    list(ProgressBar(range(5), "pruning", file=terminal))
    assert "pruning: 100%" in capsys.readouterr().out

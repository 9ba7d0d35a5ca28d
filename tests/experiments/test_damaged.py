"""A hundred damaged inputs: each is harmless or said in a sentence, and none changes a number that is shown."""

import functools
import hashlib
import json
import random
import shutil
import warnings

import numpy as np
import pytest
from command_line import FAST, rows_of, without_times

from analysis.data import rows as rows_module
from experiments import run
from experiments.sweep import job as job_module
from hies.errors import RowsWarning
from hies.runs import folders as runs
from hies.storage import cached_arrays

pytestmark = pytest.mark.usefixtures("new_process")

SWEEP = ["-m", *FAST, "model.finetune.batch_size=250", "criterion=his,random", "sparsity.ratios=[0.25,0.5]"]
SHOWN = ["run_id", "ratio", "value", "quality", "stability", "heads_removed", "seed", "curve"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small sweep with everything that it leaves."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        assert sweep(folder, patch) == 0
    job_module._evaluators.clear()
    return folder


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "copy")


def sweep(folder, monkeypatch):
    folders = [f"results_dir={folder}/results", f"cache_dir={folder}/cache"]
    monkeypatch.setattr("sys.argv", ["run", *SWEEP, *folders])
    return run.main()


def sealed(row):
    text = json.dumps(row)
    return f'{text[:-1]}, "digest": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}'


def changed(key, value, seal):
    """The value of one key is another one in the second line; `seal`: by someone who knows of the digest."""

    def damage(path):
        lines = path.read_text().splitlines()
        row = {**json.loads(lines[1]), key: value}
        row.pop("digest")
        lines[1] = sealed(row) if seal else json.dumps(row)
        path.write_text("\n".join(lines) + "\n")

    return damage


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flipped(seed):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
        path.write_bytes(content)

    return damage


def text(content):
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def lines(order):
    def damage(path):
        given = path.read_text().splitlines()
        path.write_text("".join(f"{given[i]}\n" for i in order))

    return damage


def another(pattern):
    """The file of another run, which is sound."""

    def damage(path):
        other = next(file for file in sorted(path.parent.glob(pattern)) if file != path)
        shutil.copy(other, path)

    return damage


def arrays(**changes):
    def damage(path):
        found = dict(np.load(path))
        np.savez(path.open("wb"), **{**found, **changes})

    return damage


GARBAGE = ["", "{", "[]", "null", "3", '"x"', "{}\n{}", "\0\0\0", b"\xff\xfe{", "[" * 100_000, '{"schema": 1e999}']
WRONG = {
    "quality": ["high", True, [1.0], float("nan"), float("inf"), -1e9],
    "stability": [None, 101.0, -0.5, "100", float("nan")],
    "ratio": [-0.5, 7, None, "0.5", float("nan")],
    "seed": [0.5, "0", None],
    "mask": [[], None, {"site": 3}, {"site": ["a"]}],
    "run_id": ["../../x", "/etc/passwd", 3, ""],
    "model": [None, {}, 4],
    "heads_removed": ["many", None],
    "eval_seconds": [None, "1", [1]],
    "checkpoint": [["x"], {}],
    "schema": [2, "1", None],
}
ROW_DAMAGES = {
    **{f"cut at {share}": cut(share) for share in (0.01, 0.3, 0.5, 0.9, 0.999)},
    **{f"lines {order}": lines(order) for order in ([0], [0, 1], [1, 2], [0, 2, 1], [0, 1, 1, 2], [0, 1, 2, 2])},
    **{f"garbage {i}": text(content) for i, content in enumerate(GARBAGE)},
    **{f"bit {seed}": flipped(seed) for seed in range(8)},
    **{f"{k} {v!r}, sealed": changed(k, v, True) for k, values in WRONG.items() for v in values},
    "a sound number, not sealed": changed("quality", 55.0, False),
    "another run": another("*.jsonl"),
}
ARRAY_DAMAGES = {
    **{f"cut at {share}": cut(share) for share in (0.0, 0.1, 0.5, 0.9, 0.999)},
    **{f"bit {seed}": flipped(100 + seed) for seed in range(12)},
    "text": text("no arrays"),
    "pickled": arrays(ratios=np.array([{}], dtype=object)),
    "no number": arrays(ratios=np.array(["a", "b", "c"])),
    "another run": another("*.npz"),
}


def first_run(folder):
    return next((folder / "results").rglob("*his*.jsonl"))


def loaded(folder):
    """What is shown of the rows, and what was warned about; nothing else may be raised."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = rows_module.load(folder / "results")
        for path in sorted(set(frame["path"])):
            try:
                runs.read_arrays(rows_module.Path(path))
            except (runs.BadFile, FileNotFoundError) as problem:
                warnings.warn(str(problem), RowsWarning, stacklevel=1)
    assert all(issubclass(one.category, RowsWarning) for one in caught), [str(one.message) for one in caught]
    return frame[SHOWN], [str(one.message) for one in caught]


@functools.cache
def undamaged(sound):
    return loaded(sound)[0]


def shown_is_sound(copy, sound):
    """Every row that is shown is one of the undamaged sweep; what is left out was named."""
    (frame, said), before = loaded(copy), undamaged(sound)
    both = frame.merge(before, on=SHOWN)
    assert len(both) == len(frame)
    assert len(frame) == len(before) or (said and all("\n" not in one for one in said))
    assert all(0 < frame[frame["run_id"] == run_id].shape[0] == 3 for run_id in set(frame["run_id"]))
    return said


@pytest.mark.parametrize("kind", ROW_DAMAGES)
def test_rows(kind, sound, copy):
    ROW_DAMAGES[kind](first_run(copy))
    assert shown_is_sound(copy, sound)


@pytest.mark.parametrize("kind", ARRAY_DAMAGES)
def test_arrays_of_a_run(kind, sound, copy):
    path = first_run(copy).with_suffix(".npz")
    ARRAY_DAMAGES[kind](path)
    said = shown_is_sound(copy, sound)
    if not said:  # bits that nothing reads
        before = runs.read_arrays(first_run(sound))
        after = runs.read_arrays(first_run(copy))
        assert all(np.array_equal(after[name], before[name]) for name in before)


def sample(kinds, often):
    """Every `often`-th kind; the others, which take a sweep each, with --all-architectures."""
    marks = [[] if i % often == 0 else [pytest.mark.beyond_sample] for i in range(len(kinds))]
    return [pytest.param(kind, marks=mark) for kind, mark in zip(kinds, marks, strict=True)]


@pytest.mark.parametrize("content", sample(GARBAGE, 4))
@pytest.mark.parametrize("name", ["grid.json", "run-x.failed.json"])
def test_other_records_of_an_experiment(name, content, sound, copy, monkeypatch, capsys):
    text(content)(copy / "results" / "single" / name)
    shown_is_sound(copy, sound)
    status = sweep(copy, monkeypatch)
    assert status in (0, 2) and "Traceback" not in capsys.readouterr().err


RUN_IDS = ["../../outside", "/tmp/outside", "a/b", "..", "\x1b[31mred", 3, None, ["x"]]


@pytest.mark.parametrize("run_id", sample(RUN_IDS, 4))
def test_a_grid_that_names_no_run(run_id, sound, copy, monkeypatch, capsys):
    path = copy / "results" / "single" / "grid.json"
    grid = json.loads(path.read_text())
    grid["jobs"][0]["run_id"] = run_id
    path.write_text(json.dumps(grid))
    shown_is_sound(copy, sound)
    assert sweep(copy, monkeypatch) in (0, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.err and "\x1b[31m" not in said.err + said.out


CACHE_DAMAGES = {
    **{f"cut at {share}": cut(share) for share in (0.0, 0.4, 0.99)},
    **{f"bit {seed}": flipped(200 + seed) for seed in range(6)},
    "text": text("no arrays"),
    "another": another("*.npz"),
}


def damaged_cache(kind, folder, copy):
    files = sorted((copy / "cache" / folder).glob("*.npz"))
    if kind == "another" and len(files) == 1:
        shutil.copy(files[0], files[0].with_name("0" * 16 + ".npz"))
        np.savez(files[0].with_name("0" * 16 + ".npz").open("wb"), cache_key=np.array("0" * 16))
    CACHE_DAMAGES[kind](files[0])
    return files[0]


@pytest.mark.parametrize("folder", ["statistics", "predictions"])
@pytest.mark.parametrize("kind", CACHE_DAMAGES)
def test_arrays_of_a_cache(kind, folder, sound, copy):
    path = damaged_cache(kind, folder, copy)
    before = cached_arrays(sound / path.relative_to(copy), dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = cached_arrays(path, lambda: before)
    assert after.keys() == before.keys() and all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("kind", "folder"), [("cut at 0.4", "statistics"), ("another", "predictions")])
def test_a_cache(kind, folder, sound, copy, monkeypatch):
    damaged_cache(kind, folder, copy)
    shutil.rmtree(copy / "results")
    assert sweep(copy, monkeypatch) == 0
    assert answers(copy) == answers(sound)


def answers(folder):
    drop = ("command", "revision")
    return [{k: v for k, v in row.items() if k not in drop} for row in without_times(rows_of(folder / "results"))]


def test_files_of_a_checkpoint_may_be_read_by_whom_the_umask_lets(sound, tmp_path):
    (tmp_path / "file").touch()
    files = list((sound / "cache" / "checkpoints").rglob("*.safetensors"))
    assert [file.stat().st_mode for file in files] == [(tmp_path / "file").stat().st_mode]


CHECKPOINT_DAMAGES = {
    **{f"weights, bit {seed}": ("model.safetensors", flipped(300 + seed)) for seed in range(4)},
    "weights cut": ("model.safetensors", cut(0.7)),
    "weights empty": ("model.safetensors", text("")),
    "sums cut": ("SHA256SUMS", cut(0.5)),
    "sums empty": ("SHA256SUMS", text("")),
    "sums of a file elsewhere": ("SHA256SUMS", text(f"{'0' * 64}  ../../../config.json\n")),
    "config": ("config.json", text("{")),
}


@pytest.mark.parametrize("kind", sample(list(CHECKPOINT_DAMAGES), 2))
def test_a_checkpoint(kind, sound, copy, monkeypatch, capsys):
    name, damage = CHECKPOINT_DAMAGES[kind]
    damage(next((copy / "cache" / "checkpoints").rglob(name)))
    for folder in (copy / "results", copy / "cache" / "statistics", copy / "cache" / "predictions"):
        shutil.rmtree(folder)
    assert sweep(copy, monkeypatch) == 0
    assert answers(copy) == answers(sound)
    assert "made again" in capsys.readouterr().err

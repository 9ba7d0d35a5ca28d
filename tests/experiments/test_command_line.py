"""What a person meets before any work: help, the composed configuration, older names, and how soon it is there."""

import shlex
import subprocess
import sys

import pytest
import yaml
from command_line import composing, declared
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from experiments import prune, run, sync
from experiments.config.messages import CONF, quoted, sentence
from experiments.config.options import translated, with_option
from experiments.sweep.command import run_command
from experiments.sweep.job import Job
from hies.errors import HiesError, ParameterError

HEAVY = ("torch", "transformers", "sklearn", "pandas", "wandb", "datasets", "matplotlib", "joblib")


@pytest.mark.parametrize("command", [run, prune])
def test_the_help_says_what_each_option_means_and_gives_an_example(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command", "--help"])
    assert command.main() == 0
    text = capsys.readouterr().out
    assert f"python -m {command.__name__}" in text
    for option in (
        "sparsity.scope=global  ",
        "calibration.size=32  ",
        "criterion.alpha=0.9  ",
        "model.batch_size=64  ",
    ):
        assert option in text, option
    assert "hies/per_ratio" in text and "rte/after_mnli" in text


def test_what_is_wrong_is_known_without_the_heavy_packages():
    code = f"""
import sys
from experiments import run
sys.argv[1:] = ["criterion.alpha=1"]
assert run.main() == 2
print(*sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert not done.stdout.strip() and "criterion.alpha" in done.stderr


def test_hydra_shows_a_job_and_takes_a_folder_of_ones_own(monkeypatch, capsys, tmp_path):
    (tmp_path / "criterion").mkdir()
    (tmp_path / "criterion" / "mine.yaml").write_text(
        "defaults:\n  - /schema/criterion/hies@_here_\n  - _self_\nalpha: 0.3\n"
    )
    monkeypatch.setattr("sys.argv", ["run", "--config-dir", str(tmp_path), "criterion=mine", "--cfg", "job"])
    assert run.main() == 0
    assert yaml.safe_load(capsys.readouterr().out)["criterion"]["alpha"] == 0.3


@pytest.mark.parametrize(
    "words",
    [
        ["model=vit_tiny", "--config-dir", "{own}", "criterion=mine", "--cfg", "job"],
        ["model=vit_tiny", "--config-dir={own}", "criterion=mine", "--cfg", "job", "seed=0"],
        ["--cfg", "job", "seed=0", "-cd", "{own}", "criterion=mine"],
    ],
)
def test_flags_may_stand_between_options(monkeypatch, capsys, tmp_path, words):
    (tmp_path / "criterion").mkdir()
    (tmp_path / "criterion" / "mine.yaml").write_text("defaults: [/schema/criterion/hies@_here_, _self_]\nalpha: 0.3\n")
    monkeypatch.setattr("sys.argv", ["run", *(word.format(own=tmp_path) for word in words)])
    assert run.main() == 0
    assert yaml.safe_load(capsys.readouterr().out)["criterion"]["alpha"] == 0.3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["seed=0", "--foo", "task=digits"], "'--foo' is no option; options are given as NAME=VALUE."),
        (["seed=0", "--config-dir"], "--config-dir/-cd: expected one argument; --hydra-help says what flags take."),
        (["-m", "seed=0", "--cfg", "job"], "--multirun and --cfg do not go together; give one of them."),
    ],
)
def test_flags_that_cannot_be_answered_are_named(monkeypatch, capsys, words, says):
    monkeypatch.setattr("sys.argv", ["run", *words])
    assert run.main() == 2
    assert capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "finished work is kept, and the same command goes on from there."),
        (["force=true"], "the same command computes all of it again; without force=true it does what has no rows yet."),
        (["-m", "seed=0,1", "force=true"], "without force=true it does what has no rows yet."),
    ],
)
def test_an_interrupted_command_says_what_it_would_do_again(monkeypatch, capsys, words, says):
    def work(declared):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["run", "model=vit_tiny", "task=digits", *words])
    assert run_command(work, "") == 130
    assert capsys.readouterr().err.rstrip().endswith(says)


@pytest.mark.parametrize("word", ["results_dir=", "cache_dir=", "cache_dir=' '"])
def test_an_empty_folder_is_not_the_current_one(monkeypatch, capsys, word):
    monkeypatch.setattr("sys.argv", ["run", "model=vit_tiny", "task=digits", word])
    assert run.main() == 2
    name, value = word.split("=")
    value = value or "''"
    assert capsys.readouterr().err == f"error: {name} is {value}; name a folder (. is the current one).\n"


def test_nothing_is_uploaded_from_a_folder_without_a_name(capsys):
    with pytest.raises(SystemExit) as end:
        sync.main([""])
    assert end.value.code == 2 and "RESULTS_DIR is ''; name a folder" in capsys.readouterr().err


def test_names_of_older_commands_are_translated():
    words = ["-m", "criterion=his,hies_rank,ae_renyi", "task=rte_after_mnli", "+model.home=docs", "seed=0"]
    assert translated(words) == [
        "-m", "criterion=his,hies/rank,ae/renyi", "task=rte/after_mnli", "+model.pretrain_task=docs", "seed=0",
    ]  # fmt: skip


def parse(word):
    return OverridesParser.create().parse_overrides([word])[0]


@pytest.mark.parametrize(
    "value",
    ["/a=b", "/ü", "/a#b", "/it's", '/a"b', '/a\\"b', "/a\\", "/a[1]", "a{x}", "(1)", "/a,b", " a", "~a", "a&b!", "/a"],
)
def test_what_it_says_how_to_quote_is_the_value(value):
    word = f"model.source={value}"
    try:
        parse(word)
    except OverrideParseException as error:
        said = sentence(error)
        assert said.startswith(f"model.source is {value!r}, which") and "\n" not in said
        (word,) = shlex.split(said.rpartition("shell: ")[2].rstrip("."))
    else:
        (word,) = shlex.split(quoted("model.source", value))
    assert (parse(word).value(), parse(word).is_sweep_override()) == (value, False)


def test_a_quoted_path_goes_through_a_sweep_and_its_recorded_command():
    path = 'results_dir="/it\'s [1] ü=#,b"'
    with composing():
        jobs = declared("model=any", 'model.source="/models/ü=#,b"', path, "seed=0,1").jobs
        again = Job.of(compose("config", shlex.split(jobs[1].command)[3:]), ())
    assert [job.config.results_dir for job in (*jobs, again)] == ["/it's [1] ü=#,b"] * 3
    assert again.config.model.source == "/models/ü=#,b" and again.config.model.name == "ü___b"
    assert again.run_id == jobs[1].run_id != jobs[0].run_id


def test_an_empty_folder_of_data_is_none(monkeypatch):
    monkeypatch.setenv("HIES_DATA", "")
    with composing():
        assert [declared(*word, multirun=False).jobs[0].data_root for word in ([], ["data_root="])] == [None, None]


def test_an_error_of_the_library_names_the_option():
    assert str(with_option(ParameterError("scope", "model", "use global or layer"))).startswith(
        "sparsity.scope is 'model'"
    )
    other = HiesError("It cannot be.")
    assert with_option(other) is other


@pytest.mark.parametrize(
    "words", [["hydra/launcher=joblib", "seed=3", "--cfg", "job"], ["--cfg", "job", "hydra/launcher=joblib"]]
)
def test_flags_may_stand_on_either_side_of_a_launcher(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", *words])
    assert run.main() == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] in (0, 3)

"""Every declared configuration composes and is what its file name says."""

import shlex

import glue_copy
import pytest
import visual_copy
from command_line import composing, declared
from hydra import compose
from language_copy import MAKERS, copy_of, made_up
from language_copy import write as write_rows
from omegaconf import OmegaConf
from picture_copy import write_copy as write_pictures

from experiments.config import schema
from experiments.config.messages import CONF, choices_of
from hies.errors import HiesError
from hies.methods import METHODS
from hies.tasks import TASKS
from hies.tasks.glue import GLUE_TASKS
from hies.tasks.images import IMAGE_TASKS

names = choices_of


@pytest.fixture(scope="module")
def every_copy(tmp_path_factory):
    """Made-up copies of all data sets that an experiment reads."""
    root = tmp_path_factory.mktemp("data")
    for kind in GLUE_TASKS:
        glue_copy.write_copy(root, kind)
    for name in MAKERS:
        copy_of(root, name)
    arcs = [TASKS[name] for name in ("arc_easy", "arc_challenge")]  # two configurations of one repository
    write_rows(root, arcs[0].repository, {kind.config: made_up(kind.name, ("train", kind.reported)) for kind in arcs})
    for kind in IMAGE_TASKS:
        write_pictures(root, kind)
    return visual_copy.write_copies(root)


@pytest.fixture(autouse=True, scope="module")
def hydra_ready(every_copy):
    with pytest.MonkeyPatch.context() as patch, composing():
        patch.setenv("HIES_DATA", str(every_copy))
        yield


def config_of(*overrides):
    return schema.to_config(compose("config", list(overrides)))


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_declares_jobs_under_its_own_name(name):
    grid = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    tasks = str(grid.get("task", "")).split(",")
    # All criteria with one task and one criterion with another: all with all take a minute.
    one = [f"criterion={grid.criterion.split(',')[-1]}"] if "criterion" in grid else []
    parts = [[f"task={tasks[0]}"], [f"task={tasks[-1]}", *one]]
    for part in parts if len(tasks) > 1 else [[]]:
        found = declared(f"experiment={name}", *part)
        assert found.sweep and found.whole == (not part)
        assert len({job.run_id for job in found.jobs}) == len(found.jobs) > 0
        assert {job.config.name for job in found.jobs} == {name}


@pytest.mark.parametrize("name", sorted({*names("criterion")} - {"custom"}))
def test_every_criterion_is_its_class(name):
    assert type(config_of(f"criterion={name}").criterion) is METHODS[name.partition("/")[0]]


def test_every_criterion_and_task_has_a_configuration():
    assert {*METHODS} <= {*names("criterion")}
    assert {
        type(config_of(f"task={name}", f"model={fitting(name)}").task) for name in {*names("task")} - {"custom"}
    } == set(TASKS.values())


SMALL = {"text": "minilm", "image": "vit_tiny", "language": "llama_tiny", "vision_language": "llava_tiny"}


def fitting(task):
    """A model that takes what the task of this configuration gives."""
    return SMALL[TASKS[task.partition("/")[0]]().modality]


@pytest.mark.parametrize("name", sorted({*names("model")} - {"any", "language"}))
def test_every_model_is_named_after_its_file(name):
    tasks = {"vit": "digits", "llava": "digit_questions", "llama": "docs", "smollm": "docs"}
    task = next((task for start, task in tasks.items() if name.startswith(start)), "apidocs")
    assert config_of(f"model={name}", f"task={task}").model.name == name


def test_any_model_is_named_after_its_source():
    assert config_of("model=any", "model.source=some-one/Some-Model.v2").model.name == "Some-Model.v2"
    with pytest.raises(HiesError, match=r"model.source"):
        config_of("model=any")


def test_a_sweep_composes_every_job_as_hydra_alone_would():
    words = ["experiment=alpha", "task=rte,cola", "seed=0,2", "criterion.alpha=0.9,0.5", "calibration.size=7"]
    jobs = declared(*words).jobs
    assert len(jobs) == 8
    for job in jobs:
        overrides = shlex.split(job.command)[3:]
        assert job.config == config_of(*overrides)
    assert {(j.config.task.name, j.config.seed, j.config.criterion.alpha) for j in jobs} == {
        (task, seed, alpha) for task in ("rte", "cola") for seed in (0, 2) for alpha in (0.9, 0.5)
    }


def test_random_draws_another_ranking_for_every_seed():
    assert config_of("criterion=random", "seed=5").criterion.seed == 5


def test_the_command_line_overrides_the_grid_of_an_experiment():
    found = declared("experiment=quickstart", "seed=7,7", "criterion=his,hies")
    assert not found.whole
    assert [(job.config.criterion.name, job.config.seed) for job in found.jobs] == [("his", 7), ("hies", 7)]

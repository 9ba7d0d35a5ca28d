"""Folders that are damaged or written to do harm: the right model or one sentence, at once, and no code runs."""

import shutil
import signal
import warnings

import hostile_folders
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make, make_batch, some_heads

import hies

EVERY_NTH = 17  # of what is done to a folder is the sample of an ordinary run
SECONDS = 10  # for one folder, on a busy machine
SAVE = {"now": hies.save_pruned, "before": hostile_folders.save_as_before}


class TooSlow(BaseException):
    """Is not made a sentence of."""


def too_slow(*_):
    raise TooSlow


def pruned(name, case):
    model = make(name).eval()
    return hies.prune(model, some_heads(hies.find_sites(model, make_batch(name)), case))


@pytest.fixture(scope="module", params=[("llama_grouped", "now"), ("bert", "before"), ("bert", "now")], ids="-".join)
def sound(request, tmp_path_factory):
    """A folder, and one of another model of the same architecture."""
    name, written = request.param
    folders = tmp_path_factory.mktemp("sound")
    for place, case in (("one", "some"), ("other", "a layer")):
        (folders / place).mkdir()
        SAVE[written](pruned(name, case), folders / place)
    return folders / "one", folders / "other"


def try_one(change, sound, place):
    """Returns what is said of a folder that is changed; None for one that loads, as a model that is in it."""
    one, other = sound
    folder, before = shutil.copytree(one, place / "folder"), load_file(one / hostile_folders.WEIGHTS)
    change(folder, shutil.copytree(other, place / "other"))
    try:
        model = hies.load_pruned(folder)
    except hies.HiesError as error:
        said = str(error)
        assert str(folder) in said and said.isprintable() and len(said) < 700, said
    else:
        said, state = None, model.state_dict()
        weights = folder / hostile_folders.WEIGHTS
        saved = load_file(weights) if weights.exists() else before  # what is sealed again is another model
        assert all(torch.equal(state[key], tensor) for key, tensor in saved.items())
        assert all(tensor.device.type != "meta" for tensor in state.values())
    assert not list(place.rglob("ran"))
    assert (place / "other" / hostile_folders.WEIGHTS).exists()
    return said


def test_hostile_folders(sound, tmp_path, request):
    """A sample of them, with --all-architectures all."""

    step = 1 if request.config.getoption("--all-architectures") else EVERY_NTH
    signal.signal(signal.SIGALRM, too_slow)
    failed, refused = {}, 0
    for i, (name, change) in enumerate(hostile_folders.every(sound[0])):
        if i % step:
            continue
        signal.alarm(SECONDS)
        place = tmp_path / str(i)
        place.mkdir()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                refused += try_one(change, sound, place) is not None
        except BaseException as error:  # all of them are tried
            failed[name] = f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
            shutil.rmtree(place)
    assert not failed
    assert refused > i // step // 2


def test_layers_that_a_configuration_lists_for_each_of_them_are_counted_first(tmp_path):
    hies.save_pruned(pruned("jamba", "some"), tmp_path)
    hostile_folders.config_value("num_hidden_layers", 90_000)(tmp_path, None)
    with pytest.raises(hies.HiesError, match="num_hidden_layers is 90000"):
        hies.load_pruned(tmp_path)

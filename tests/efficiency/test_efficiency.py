"""What models cost when they run: counted, timed in turn, and held in memory."""

import json

import pytest
import torch
from checks import inputs_of
from tiny_models import BATCH, TOKENS, make, make_batch, some_heads
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import efficiency as benchmark
from benchmarks import memory, sweep_together
from hies.efficiency import measure as efficiency
from hies.efficiency.cost import measure_cost
from hies.efficiency.measure import Quartiles, cache_bytes, measure, pass_bytes
from hies.errors import HiesError
from hies.heads.attention import find_sites
from hies.pruning.prunable_sites import prunable
from hies.pruning.removal import prune, pruned_heads

FLOAT = 4  # bytes


def unlabelled(name):
    batch = make_batch(name)
    labels = batch.pop("labels")
    return {**batch, "decoder_input_ids": labels.clamp(min=1)} if name in ("t5", "bart") else batch


def dense_and_small(name, case="some"):
    model, batch = make(name), unlabelled(name)
    return model, prune(model, some_heads(find_sites(model, batch), case)), batch


def test_quartiles_of_five_rounds():
    assert Quartiles.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Quartiles(low=2, median=3, high=4)


@pytest.mark.parametrize(("new_tokens", "counted"), [(0, BATCH * TOKENS), (7, BATCH * 7)])
def test_tokens_a_second_are_those_that_are_read_or_generated(monkeypatch, new_tokens, counted):
    dense, small, batch = dense_and_small("llama_grouped")
    given = {}

    def timed(runs, batch, rounds):
        outputs = [run(**batch) for run in runs]
        given["shapes"] = [(output if new_tokens else output.logits).shape[:2] for output in outputs]
        return [[1.0, 2.0, 4.0], [0.5, 2.0, 1.0]]

    monkeypatch.setattr(efficiency, "_timed", timed)
    speed = efficiency.measure_speed(dense, small, batch, new_tokens)
    assert given["shapes"] == [(BATCH, TOKENS + new_tokens)] * 2
    assert (speed.dense.median, speed.small.median, speed.gain.median) == (counted / 2, counted, 2)


@pytest.mark.parametrize("name", ["bert", "albert", "llama_grouped", "vit"])
@pytest.mark.parametrize("case", ["some", "all"])
def test_parameters_and_flops_are_those_of_each_model(name, case):
    dense, small, batch = dense_and_small(name, case)
    found = measure(dense, small, batch, rounds=1)
    for model, running in ((dense, found.dense), (small, found.small)):
        tensors = [*model.parameters(), *model.buffers()]
        assert running.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert running.weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    cost = measure_cost(dense, batch)  # by formula, where `measure` counts
    assert found.dense.flops == cost.dense.flops and found.small.flops == cost.without(pruned_heads(small)).flops
    assert found.small.flops < found.dense.flops and found.small.peak_bytes < found.dense.peak_bytes


@pytest.mark.parametrize("name", ["conditional_detr", "gemma3n_sharing"])  # matrices of positions; not all can be cut
def test_models_that_the_formula_does_not_cover_are_measured(name):
    dense, batch = make(name).eval(), inputs_of(name, dtype=torch.float32)
    small = prune(dense, {site: [1, 2] for site in prunable(dense, batch)})
    found = measure(dense, small, batch, rounds=1)
    for model, running, name in ((dense, found.dense, "eager"), (small, found.small, "hies_eager")):
        model.set_attn_implementation(name)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**batch)
        assert running.flops == counter.get_total_flops()


def test_a_model_that_was_pruned_before_is_the_dense_one():
    first, batch = make("bert"), unlabelled("bert")
    site, other = find_sites(first, batch)
    dense = prune(first, {site: [1, 3]})
    small = prune(dense, {site: [1], other: [0]})  # head 2 of the first model
    assert measure(dense, small, batch, rounds=1).small.flops == measure_cost(small, batch).dense.flops


class Stages(nn.Module):
    """Holds at most: its input, twice, and one number for each row."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        first = x * self.scale
        second = first.view(-1) + 1  # a view is no memory; `first` and its sum are
        del first
        rows = second.view(x.shape).sum(1)
        del second
        return rows + 1


def test_the_peak_of_a_pass_is_what_lives_at_once():
    assert pass_bytes(Stages(), {"x": torch.randn(7, 11)}) == 2 * 7 * 11 * FLOAT
    assert pass_bytes(Stages(), {"x": torch.randn(7, 1)}) == 2 * 7 * FLOAT


def test_the_peak_is_the_same_for_every_pass():
    model, batch = make("bert"), unlabelled("bert")
    with torch.no_grad():
        assert pass_bytes(model, batch) == pass_bytes(model, batch) > BATCH * TOKENS * 35 * FLOAT


@pytest.mark.parametrize(
    ("name", "key_heads", "width"),
    [("gpt2", (5, 5), 7), ("llama", (6, 6), 8), ("llama_grouped", (2, 2), 8), ("mistral", (2, 2), 8)],
)
def test_the_cache_holds_keys_and_values_of_every_token(name, key_heads, width):
    model = make(name)
    assert cache_bytes(model, unlabelled(name)) == 2 * BATCH * TOKENS * sum(key_heads) * width * FLOAT


def test_the_cache_shrinks_with_the_heads():
    dense, small, batch = dense_and_small("llama")  # 3 of 6 heads of both layers
    assert 2 * cache_bytes(small, batch) == cache_bytes(dense, batch)


def test_an_encoder_and_decoder_caches_the_keys_of_both_sequences():
    model, batch = make("bart"), unlabelled("bart")
    tokens = batch["input_ids"].shape[1] + batch["decoder_input_ids"].shape[1]
    assert cache_bytes(model, batch) == 2 * BATCH * tokens * 2 * 35 * FLOAT


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_other_models_keep_no_cache(name):
    assert cache_bytes(make(name), unlabelled(name)) is None


def test_models_take_turns_and_ratios_are_within_a_round(monkeypatch):
    """A clock on which the machine becomes ten times slower after each round."""
    clock, order = [0.0], []

    class Timed(nn.Module):
        def __init__(self, name, steps):
            super().__init__()
            self.name, self.steps = name, steps

        def forward(self):
            order.append(self.name)
            clock[0] += self.steps * 10.0 ** ((len(order) - 1) // 2)

    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: clock[0])
    models = Timed("dense", 4), Timed("small", 3)
    dense, small = efficiency._timed(models, {}, rounds=3)
    assert len(order) == 2 * (efficiency.WARM_UP + 3)
    assert {tuple(order[i : i + 2]) for i in range(0, len(order), 2)} == {("dense", "small"), ("small", "dense")}
    assert [b / a for a, b in zip(dense, small, strict=True)] == pytest.approx([0.75] * 3)


def test_measuring_leaves_threads_modes_and_weights_as_they_were():
    dense, small, batch = dense_and_small("bert")
    dense.train()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    torch.set_num_threads(2)
    try:
        measure(dense, small, batch, rounds=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert dense.training and all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())


def test_no_rounds_are_refused():
    dense, small, batch = dense_and_small("bert")
    with pytest.raises(HiesError, match="rounds is 0"):
        measure(dense, small, batch, rounds=0)
    with pytest.raises(HiesError, match="rounds is 0"):
        efficiency.measure_speed(dense, small, batch, rounds=0)


@pytest.fixture
def tiny_shapes(monkeypatch):
    """The command with tiny models, and without its change of this process's allocator."""
    monkeypatch.setattr(benchmark, "SHAPES", {"minilm": lambda: make("bert"), "llama": lambda: make("llama")})
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)


def test_the_command_writes_a_row_for_every_ratio(tiny_shapes, tmp_path, capsys):
    benchmark.main(["--shape=llama", "--tokens=7", "--batch=2", "--rounds=1", f"--out={tmp_path}"])
    assert [path.name for path in (tmp_path / "efficiency").iterdir()] == ["llama.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "efficiency" / "llama.jsonl").read_text().splitlines()]
    assert [row["ratio"] for row in rows] == [i / 10 for i in range(10)]
    assert [row["heads_removed"] for row in rows] == [round(1.2 * i) for i in range(10)]
    assert all(row["flops"] == row["flops_counted"] for row in rows)
    for name in ("flops", "parameters", "peak_bytes", "cache_bytes"):
        assert rows[0][name] > rows[5][name] > rows[9][name]
    assert all((row["tokens"], row["batch"], row["model"]) == (7, 2, "llama") for row in rows)
    printed = capsys.readouterr().out
    assert "llama: 2 x 7 tokens, cpu" in printed and f"{rows[5]['flops'] / 1e9:.1f}" in printed


@pytest.mark.parametrize(
    "option", ["--shape=bart", "--tokens=513", "--rounds=0", "--batch=none", "--device=foo", "--device="]
)
def test_the_command_refuses_what_cannot_work(option, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([option])
    assert option.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        (benchmark, ["--device=foo"], "--device=foo does not work; give auto, cpu, or a device that torch can see."),
        (benchmark, ["--device=cuda:77"], "--device=cuda:77 does not work"),
        (sweep_together, ["--processes", "0"], "--processes=0 does not work; give 1 to 256."),
        (sweep_together, ["--seeds", ""], "--seeds= does not work; give whole numbers, as in 0,1,2."),
        (sweep_together, ["--seeds", "0,-1"], "--seeds=-1 does not work"),
        (sweep_together, ["--criteria", "his,foo"], "--criteria=foo does not work; give some of random,l2,his"),
        (memory, ["--ratios", "0.1", "2"], "--ratios=2 does not work; give shares from 0 to 1."),
        (memory, ["--ratios", "nan"], "--ratios=nan does not work"),
    ],
)
def test_benchmarks_refuse_what_cannot_work_before_they_measure(command, words, says, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(words)
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_known_before_the_measuring(tiny_shapes, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(benchmark, "_measured", lambda *_: pytest.fail("measured"))
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit) as end:
            benchmark.main([f"--out={out}"])
        assert end.value.code == 2 and f"--out={out} does not work (" in capsys.readouterr().err


def test_variants_of_criteria_are_taken():
    options = sweep_together._options(["--criteria", "his,his/per_token, his", "--seeds", "0,1,0"])
    assert (options.criteria, options.seeds) == (["his", "his/per_token"], ["0", "1"])

"""The examples and the notebook run, in process, on tiny models; each is short, and says its command first."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import transformers as tf
from small_folders import GROUPED, SIZES, write_folder

import hies

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LABELS = {"id2label": {0: "low", 1: "high"}, "label2id": {"low": 0, "high": 1}}
TEXTS = [f"{'up and away' if label else 'down it goes'} {word}" for word in "abcde" for label in (0, 1)]


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier (`dense`), the same without some heads (`small`), a language model and texts."""
    place = tmp_path_factory.mktemp("examples")
    config = tf.BertConfig(**{**SIZES, "num_hidden_layers": 1}, **LABELS)
    write_folder(place / "dense", tf.BertForSequenceClassification(config))
    model = tf.AutoModelForSequenceClassification.from_pretrained(place / "dense")
    tokenizer = tf.AutoTokenizer.from_pretrained(place / "dense")
    hies.save_pruned(hies.prune(model, {"bert.encoder.layer.0.attention.self": [1, 2]}), place / "small")
    tokenizer.save_pretrained(place / "small")
    write_folder(place / "language", tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)))
    (place / "texts.txt").write_text("\n".join(f"{text} and on and on and on" for text in TEXTS))
    with (place / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, i % 2) for i, text in enumerate(TEXTS))])
    return place


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_opens_with_its_command(path):
    text = path.read_text()
    assert text.count("\n") <= 60
    assert re.match(rf'"""[A-Z][^\n]+\n\npython examples/{path.name} --model', text)
    assert f"(../examples/{path.name})" in (ROOT / "docs" / "after-pruning.md").read_text()


def test_checkpoints_of_trainer_load_again_and_it_resumes_from_them(folder, tmp_path, capsys):
    words = ["--model", folder / "small", "--data", folder / "texts.csv", "--report", folder / "texts.csv"]
    example("fine_tune").main([*map(str, words), "--out", str(tmp_path), "--epochs", "2"])
    assert "after 2 steps" in capsys.readouterr().out
    first, last, tuned = (hies.load_pruned(tmp_path / name) for name in ("checkpoint-1", "checkpoint-2", "."))
    start = hies.load_pruned(folder / "small")
    assert hies.pruned_heads(first) == hies.pruned_heads(tuned) == hies.pruned_heads(start) != {}
    weights = [one.classifier.weight for one in (start, first, last, tuned)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[3])

    settings = tf.TrainingArguments(str(tmp_path / "more"), max_steps=1, save_strategy="no", report_to="none")
    resumed = tf.Trainer(hies.load_pruned(folder / "small"), settings, train_dataset=[{"input_ids": [5], "labels": 1}])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))  # which has had its one step
    assert torch.equal(resumed.model.classifier.weight, weights[1])


def test_other_processes_than_the_first_save_nothing(tmp_path):
    state = tf.TrainerState(global_step=1, is_world_process_zero=False)
    hies.PrunedCheckpoints().on_save(tf.TrainingArguments(str(tmp_path)), state, None, model=torch.nn.Identity())
    assert not [*tmp_path.iterdir()]


def trained(model, folder, **options):
    """The files of a training of two steps, which saves each, with the callback."""
    settings = tf.TrainingArguments(str(folder), max_steps=2, save_steps=1, report_to="none", use_cpu=True, **options)
    data = [{"input_ids": [5, 6], "labels": 1}]
    tf.Trainer(model, settings, train_dataset=data, callbacks=[hies.PrunedCheckpoints()]).train()
    return {path.name for path in (folder / "checkpoint-2").iterdir()}


@pytest.mark.parametrize("by", ["peft", "transformers"])
def test_of_adapters_the_callback_leaves_the_checkpoints_of_trainer(folder, tmp_path, by):
    peft = pytest.importorskip("peft", reason="LoRA needs peft")
    model, config = hies.load_pruned(folder / "small"), peft.LoraConfig(r=2, target_modules=["query"])
    if by == "peft":
        model = peft.get_peft_model(model, config)
    else:
        model.add_adapter(config)
    files = trained(model, tmp_path)
    assert "adapter_config.json" in files and not files & {"pruned_heads.json", "model.safetensors"}


@pytest.mark.parametrize("case", ["dense", "another output"])
def test_what_has_no_checkpoint_is_refused_before_the_first_step(folder, tmp_path, case):
    if case == "dense":
        model, says = tf.AutoModelForSequenceClassification.from_pretrained(folder / "dense"), "has all its heads"
    else:
        model, says = hies.load_pruned(folder / "small"), "could not load"
        model.classifier = torch.nn.Linear(model.config.hidden_size, 7)
    before = model.classifier.weight.clone()
    with pytest.raises(hies.HiesError, match=rf"^hies\.PrunedCheckpoints: .*{says}.*; train it without this callback"):
        trained(model, tmp_path)
    assert torch.equal(model.classifier.weight, before) and not [*tmp_path.glob("checkpoint-*")]


def test_lora_is_merged_and_the_curve_is_drawn(folder, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs peft")
    words = ["--model", folder / "dense", "--data", folder / "texts.csv", "--report", folder / "texts.csv"]
    curves = example("lora").main([*map(str, words), "--out", str(tmp_path), "--ratios", "0.5", "--steps", "12"])
    small = hies.load_pruned(tmp_path / "ratio-0.5")
    assert sum(map(len, hies.pruned_heads(small).values())) == 3
    assert curves.shape == (1, 3) and curves.iloc[0, 2] > curves.iloc[0, 1]  # twelve steps tell these texts apart
    assert (tmp_path / "recovery.png").stat().st_size > 1000


def test_a_pipeline_takes_it(folder):
    answers = example("pipeline").main(["--model", str(folder / "small"), "--text", *TEXTS[:3]])
    model, tokenizer = hies.load_pruned(folder / "small").eval(), tf.AutoTokenizer.from_pretrained(folder / "small")
    for text, answer in zip(TEXTS, answers, strict=False):
        expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert answer["score"] == pytest.approx(float(expected.max()), abs=1e-5)
        assert answer["label"] == LABELS["id2label"][int(expected.argmax())]


def test_onnxruntime_gives_the_same_answers(folder, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"the extra export has {package}")
    assert example("onnx_export").main(["--model", str(folder / "small"), "--out", f"{tmp_path}/small.onnx"]) < 1e-4


def test_the_exported_program_gives_the_same_answers(folder, tmp_path):
    assert example("torch_export").main(["--model", str(folder / "small"), "--out", f"{tmp_path}/small.pt2"]) < 1e-5


def test_the_compiled_model_gives_the_same_answers(folder):
    torch._dynamo.reset()
    assert example("torch_compile").main(["--model", str(folder / "small"), "--backend", "eager"]) < 1e-5


def test_eight_bits_are_fewer_bytes(folder, capsys):
    accuracies = example("quantise").main(["--model", str(folder / "small"), "--report", str(folder / "texts.csv")])
    sizes = [float(number) for number in re.findall(r"([\d.]+) kB", capsys.readouterr().out)]
    assert len(accuracies) == 2 and sizes[1] < sizes[0]


def test_a_plain_model_says_what_it_costs(folder, tmp_path, capsys):
    words = ["--model", folder / "language", "--texts", folder / "texts.txt", "--out", tmp_path]
    losses = example("plain").main([*map(str, words)])
    *_, note, dense, _, plain, _, _ = capsys.readouterr().out.splitlines()  # and what generate_batch wrote, twice
    assert "there stay 3 of 6 in each of 3 sites" in note and dense.startswith("dense") and plain.startswith("plain")
    assert len({*losses.values()}) == 3
    assert tf.AutoConfig.from_pretrained(tmp_path).num_key_value_heads == 1


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, tmp_path, capsys):
    notebook = json.loads((ROOT / "examples" / "prune.ipynb").read_text())
    monkeypatch.chdir(tmp_path)
    names = {}
    monkeypatch.setattr(plt, "show", plt.close)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]).replace("range(200)", "range(20)"), "prune.ipynb", "exec"), names)
    assert sum(map(len, hies.pruned_heads(hies.load_pruned("small")).values())) == 8
    assert re.search(r"parameters +35,682 +31,490 ", capsys.readouterr().out)

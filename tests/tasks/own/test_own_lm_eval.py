"""Tasks of lm-eval by name: asked as lm-eval asks, answers as it scores them, and what cannot be is refused."""

import hashlib
import json
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from lm_eval_runs import evaluate_by_lm_eval
from small_folders import causal_folder

from hies.errors import HiesError
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.tasks import TASKS
from hies.tasks.lm_eval_definitions import content, find

CHOICE = """task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{train: {0}/train.jsonl, test: {0}/test.jsonl}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{q}}}}\\nA:"
doc_to_choice: "{{{{opts}}}}"
doc_to_target: a
"""
WRITTEN = """task: written
include: {1}
output_type: generate_until
doc_to_choice: null
doc_to_target: "{{{{opts[a]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 3}}
metric_list: [{{metric: exact_match, ignore_case: true, ignore_punctuation: true}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("definitions")
    for split, count in (("train", 16), ("test", 7)):
        rows = [{"q": f"{split} {i}?", "opts": ["Sun!", "moon", "river"], "a": i % 3} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "quiz.yaml").write_text(CHOICE.format(folder))
    (folder / "written.yaml").write_text(WRITTEN.format(folder, "quiz.yaml"))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(causal_folder(tmp_path_factory.mktemp("models") / "llama"))


def task(folder, name, **options):
    return TASKS["lm_eval"](name=name, include_path=str(folder), **options)


@pytest.fixture(scope="module")
def evaluated(llama, folder):
    """What lm-eval's own evaluation finds, by its whole machinery."""
    from lm_eval.models.huggingface import HFLM

    network, tokens = tf.AutoModelForCausalLM.from_pretrained(llama), tf.AutoTokenizer.from_pretrained(llama)
    wrapped = HFLM(pretrained=network, tokenizer=tokens, backend="causal", batch_size=2, device="cpu")
    return evaluate_by_lm_eval(wrapped, ["quiz", "written"], str(folder))


def test_it_says_which_splits_it_reads(folder):
    assert task(folder, "quiz").description(None) == "quiz: quiz.yaml, json; heads scored on train, reported test."


@pytest.mark.parametrize(("name", "metric"), [("quiz", "acc,none"), ("written", "exact_match,none")])
def test_answers_and_quality_are_those_of_lm_eval(folder, llama, evaluated, tmp_path, name, metric):
    own = task(folder, name)
    ours = Evaluator(Model(source=llama, modality="language"), own, None, tmp_path, torch.device("cpu"))
    found = ours.evaluate({})
    results, samples = evaluated["results"][name], evaluated["samples"][name]
    assert [len(getattr(ours.splits, split)) for split in ("train", "selection", "report")] == [12, 4, 7]
    prompts = [sample["arguments"][0][0] if isinstance(sample["arguments"], list) else
               next(iter(sample["arguments"].values()))["arg_0"] for sample in samples]  # fmt: skip
    assert [contexts[0] for contexts in ours.splits.report.inputs["contexts"]] == prompts
    assert ours.measure(found.answers)[0] == pytest.approx(results[metric])
    if name == "written":
        written = [sample["filtered_resps"][0].lower() for sample in samples]
        assert found.answers.tolist() == [text.translate(str.maketrans("", "", string.punctuation)) for text in written]
    assert own.metric == ("accuracy" if name == "quiz" else "exact_match")
    assert own.notes(None) == {"calibration_source": "train"}


def test_right_answers_are_compared_as_the_definition_says(folder, tmp_path):
    labels = task(folder, "written").load_checked(None, tmp_path).report.labels
    assert labels.tolist() == ["sun", "moon", "river"] * 2 + ["sun"]


def test_the_identity_follows_definition_documents_and_options(folder, tmp_path):
    own = task(folder, "quiz")
    before = content(own.definition)
    digests = {own.fingerprint(None), task(folder, "quiz", shots=2).fingerprint(None)}
    assert len(digests) == 2 and np.array_equal(own.load(None, tmp_path).report.labels, [0, 1, 2, 0, 1, 2, 0])
    (folder / "quiz.yaml").write_text(CHOICE.format(folder) + "description: Be quick.\n")
    assert content(own.definition) != before
    (folder / "quiz.yaml").write_text(CHOICE.format(folder))


def test_the_digest_follows_what_is_included_wherever_that_is(folder, tmp_path):
    places = [tmp_path / name for name in ("own", "base", "further/deep", "functions")]
    for place in places:
        place.mkdir(parents=True)
    own, base, further, functions = places
    (own / "mine.yaml").write_text("task: mine\ninclude: _local\n")
    (own / "_local").write_text("include: [../base/base.yaml]\n")  # beside it, but no *.yaml
    (base / "base.yaml").write_text(
        f"include: [{further}/quiz.yaml, ../further/deep/more.yaml]\ndoc_to_text: !function ../functions/words.text\n"
    )
    (further / "quiz.yaml").write_text(CHOICE.format(folder).replace("task: quiz\n", ""))
    (further / "more.yaml").write_text("description: Be quick.\n")
    (functions / "words.py").write_text("def text(row):\n    return row['q']\n")
    path = task(own, "mine").definition
    seen = {content(path)}
    for file in (own / "_local", base / "base.yaml", further / "quiz.yaml", further / "more.yaml",
                 functions / "words.py", base / "beside.py"):  # fmt: skip
        with file.open("a") as stream:
            stream.write("# changed\n")
        assert content(path) not in seen, file
        seen.add(content(path))
    (base / "unused.yaml").write_text("description: of nobody\n")
    assert content(path) in seen
    shutil.copytree(own, tmp_path / "elsewhere" / "own")
    for name in ("base", "further", "functions"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    assert content(str(tmp_path / "elsewhere" / "own" / "mine.yaml")) == content(path)


def test_the_digest_of_a_definition_that_includes_its_neighbours_alone_is_that_of_their_bytes(folder):
    """Names in the cache are made of it; what lm-eval's own definitions include is told by its version."""
    lm_evals = find("mmlu_anatomy_generative", None)  # includes a file that is no *.yaml
    for path in (task(folder, "written").definition, task(folder, "quiz").definition, lm_evals):
        near = Path(path).parent
        files = sorted({*near.glob("*.yaml"), *near.glob("*.py")})
        assert content(path) == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("output_type: loglikelihood", "is of the kind loglikelihood; what can be evaluated is"),
        ("process_results: !function made.up", "scores its answers by a function of its own"),
        ("custom_dataset: !function made.up", "makes its data by a function"),
        ("unsafe_code: true", "runs the code that a model writes"),
        ("repeats: 5", "asks several times"),
        ("class: !function made.Up", "is written in Python"),
        ("metric_list: [{metric: bleu}]", "is measured by bleu"),
        ("output_type: generate_until\ngeneration_kwargs: {do_sample: true}", "draws its answers at random"),
        ("doc_to_text: !function made.up", r"^The function 'made\.up' of spoilt\.yaml cannot be imported"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_loaded(folder, tmp_path, line, says):
    (tmp_path / "spoilt.yaml").write_text(f"include: {folder}/quiz.yaml\ntask: spoilt\n{line}\n")
    with pytest.raises(HiesError, match=says) as caught:
        task(tmp_path, "spoilt").load(None, tmp_path)
    assert "\n" not in str(caught.value)


def test_names_are_found_and_slips_are_answered(folder):
    assert find("boolq", None).endswith("super_glue/boolq/default.yaml")
    for name, says in (
        ("bolq", r"^task\.name is 'bolq'; lm-eval \S+ has no task of this name; did you mean boolq.*\? lm-eval ls"),
        ("arithmetic", r"^task\.name is 'arithmetic'; lm-eval"),
        ("agieval", r"^task\.name is 'agieval'; it is a group, give one of its tasks \(agieval_"),
    ):
        with pytest.raises(HiesError, match=says):
            find(name, None)
    with pytest.raises(HiesError, match=r"^task\.new_tokens is 5; quiz generates nothing; leave it out"):
        assert task(folder, "quiz", new_tokens=5).definition
    with pytest.raises(HiesError, match=r"^task\.include_path is 'none'; name a folder"):
        find("boolq", "none")
    with pytest.raises(HiesError, match=r"^name is 'hellaswag'; it is here already: task=hellaswag"):
        TASKS["lm_eval"](name="hellaswag")
    with pytest.raises(HiesError, match=r"^task\.name is None; give that of a task of lm-eval"):
        TASKS["lm_eval"]().identity(None)

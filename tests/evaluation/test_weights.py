"""Weights that come in installed packages or a GGUF file: the right ones, made once, or one sentence."""

import hashlib
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_folders import GROUPED
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hies.errors import HiesError
from hies.evaluation import gguf_file
from hies.evaluation.checkpoints import TaskModel
from hies.evaluation.models import Model, identity_of
from hies.evaluation.networks import trained_on
from hies.evaluation.weights import weights_folder
from hies.tasks import TASKS

SHA = hashlib.sha256(b"the weights").hexdigest()
PARTS = [f"some-parts-{n}/input/archive.zip.{n}" for n in range(3)]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Writes `place: bytes` as files of installed packages."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(**files):
        for place, content in files.items():
            (path := tmp_path / "site" / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "site" / place.partition("/")[0] / "__init__.py").touch()
            path.write_bytes(content)

    return install


def archive_in_parts():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("home/model.safetensors", b"the weights")
        archive.writestr("home/config.json", b"{}")
        archive.writestr("home/deeper/config.json", b"{'of': 'another'}")
        archive.writestr("../../config.json", b"outside")
    joined = stream.getvalue()
    return dict(zip(PARTS, (joined[:17], joined[17:99], joined[99:]), strict=True))


def test_a_folder_in_a_package_is_read_where_it_lies_and_its_weights_are_checked(packages, tmp_path):
    packages(**{"some_package/model/model.safetensors": b"the weights"})
    model = Model(packages=["some_package/model"], sha256=SHA)
    assert weights_folder(model, tmp_path) == str(tmp_path / "site" / "some_package" / "model")
    packages(**{"some_package/model/model.safetensors": b"others"})
    with pytest.raises(HiesError, match=rf"model.safetensors is not .* {SHA}; in a clone: make weights\.$"):
        weights_folder(model, tmp_path)


def test_an_archive_in_parts_is_unpacked_once(packages, tmp_path):
    packages(**archive_in_parts())
    model = Model(name="m", packages=PARTS, sha256=SHA)
    folder = Path(weights_folder(model, tmp_path / "cache"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "SHA256SUMS"} and folder.parents[1] == tmp_path / "cache"
    assert ((folder / "config.json").read_text(), (folder / "model.safetensors").read_text()) == ("{}", "the weights")
    made = (folder / "config.json").stat().st_mtime_ns
    packages(**{PARTS[1]: b"damaged since"})  # not looked at again
    assert weights_folder(model, tmp_path / "cache") == str(folder)
    assert (folder / "config.json").stat().st_mtime_ns == made


def test_a_folder_that_was_damaged_is_made_again(packages, tmp_path):
    packages(**archive_in_parts())
    model = Model(name="m", packages=PARTS, sha256=SHA)
    weights = Path(weights_folder(model, tmp_path)) / "model.safetensors"
    weights.write_bytes(b"the weight")
    with pytest.warns(UserWarning, match="is made again"):
        weights_folder(model, tmp_path)
    assert weights.read_bytes() == b"the weights"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({PARTS[1]: b""}, "hold no model"),
        ({PARTS[2]: b"PK"}, "hold no model"),
        ({}, "its SHA-256 is"),
    ],
)
def test_parts_that_give_other_weights_are_refused_and_leave_nothing(packages, tmp_path, damage, words):
    packages(**archive_in_parts() | damage)
    with pytest.raises(HiesError, match=rf"{words}.*in a clone: make weights\.$"):
        weights_folder(Model(name="m", packages=PARTS, sha256=SHA if damage else "0" * 64), tmp_path / "cache")
    assert [path for path in (tmp_path / "cache" / "weights").iterdir() if path.suffix != ".lock"] == []


def test_a_missing_package_is_named_before_any_data_are_read(packages, tmp_path, monkeypatch):
    parts = archive_in_parts()
    packages(**{place: parts[place] for place in PARTS[::2]})
    monkeypatch.setattr(TASKS["apidocs"], "load", None)
    with pytest.raises(
        HiesError, match=r"^model 'm' needs the package 'some-parts-1', .*; in a clone: make weights\.$"
    ):
        TaskModel(Model(name="m", packages=PARTS, sha256=SHA), TASKS["apidocs"](), None, tmp_path, torch.device("cpu"))
    assert Model(source="org/name", packages=["not_here/model"], sha256=SHA)  # the Hub has the same ones
    assert weights_folder(Model(source="org/name", packages=["not_here/model"], sha256=SHA), tmp_path) == "org/name"


def test_packages_without_a_checksum_and_with_another_source_are_refused():
    with pytest.raises(HiesError, match="sha256 is None"):
        Model(packages=["some_package/model"])
    for packages in (["some_package/file.gguf"], PARTS):
        with pytest.raises(HiesError, match="source is 'other'"):
            Model(packages=packages, sha256=SHA, source="other")


def test_a_gguf_file_has_one_identity_in_a_package_and_of_ones_own(tmp_path):
    (file := tmp_path / "file.gguf").write_bytes(b"the weights")
    hellaswag = TASKS["hellaswag"]()
    assert identity_of(str(file)) != identity_of(str(tmp_path))
    own = Model(modality="language", source=str(file)).identity(hellaswag)
    packaged = Model(modality="language", packages=["not_here/file.gguf"], sha256=SHA).identity(hellaswag)
    packaged_in_parts = Model(modality="language", packages=PARTS, sha256=SHA).identity(hellaswag)
    assert packaged == packaged_in_parts and packaged["weights"] == SHA[:12]
    assert own["weights"] == identity_of(str(file))
    file.write_bytes(b"other weights")
    assert own["weights"] != identity_of(str(file))


def test_a_gguf_file_without_its_reader_or_without_sense_is_one_sentence(tmp_path, monkeypatch):
    (file := tmp_path / "file.gguf").write_bytes(b"GGUF, hardly")
    model = Model(modality="language", source=str(file))
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(HiesError, match=r"package gguf, which is not installed; in a clone: make weights\.$"):
        weights_folder(model, tmp_path)
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: True)
    monkeypatch.setattr(gguf_file, "import_module", lambda name: SimpleNamespace(GGUFReader=np.load))
    with pytest.raises(HiesError, match=r"file.gguf is no GGUF file of a language model .*\)\.$"):
        weights_folder(model, tmp_path)


def header(**texts):
    """As much of a header as is read, with a file's texts and the types of its tensors."""
    tensors = [("Q4_1", 7), ("F32", 5), ("Q4_1", 2), ("Q8_0", 8)]
    return SimpleNamespace(
        get_field=lambda key: SimpleNamespace(contents=lambda: texts[key]) if key in texts else None,
        tensors=[SimpleNamespace(tensor_type=SimpleNamespace(name=kind), n_elements=n) for kind, n in tensors],
    )


def test_digits_are_split_as_the_file_says():
    backend = Tokenizer(models.BPE({"Ġ": 0, "1": 1, "2": 2, "ĠĠ": 3}, [("Ġ", "Ġ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = SimpleNamespace(backend_tokenizer=backend)
    gpt2 = {"tokenizer.ggml.model": "gpt2"}
    for rule in ("gpt-2", "llama-bpe"):  # known to be right as transformers reads them
        gguf_file._split_words(tokenizer, header(**gpt2, **{"tokenizer.ggml.pre": rule}))
    assert backend.encode("  12").ids == [0, 0, 1, 2]
    with pytest.warns(UserWarning, match="'falcon'"):
        gguf_file._split_words(tokenizer, header(**gpt2, **{"tokenizer.ggml.pre": "falcon"}))
    gguf_file._split_words(tokenizer, header(**gpt2, **{"tokenizer.ggml.pre": "smollm"}))
    assert backend.encode("  12").ids == [3, 1, 2]


def test_rows_say_what_the_weights_were(tmp_path):
    (tmp_path / "weights.txt").write_text(f"{gguf_file._description(header())}\n")
    assert trained_on(str(tmp_path)) == {"weights": "4-bit weights, dequantised"}


# --- With the package gguf, which `make weights` installs ---


def write_gguf(path, model, quantised):
    """Writes a LLaMA as llama.cpp has it, matrices of the MLP quantised; returns the weights that it now holds."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    words = [*"Ġ12abc", "ĠĠ", *(f"<{n}>" for n in range(config.vocab_size - 7))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(len(words) - 1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    expected = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        kind = gguf.GGMLQuantizationType[quantised if "mlp" in name else "F32"]
        expected[name] = torch.from_numpy(gguf.dequantize(gguf.quantize(array, kind), kind))
        if (part := name.split(".")[-2]) in heads:  # [heads x 2 x half, width] -> [heads x half x 2, width]
            array = array.reshape(heads[part], 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def test_a_gguf_file_gives_the_dequantised_weights_and_the_tokenizer(tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**GROUPED | {"hidden_size": 96, "intermediate_size": 160}, head_dim=16))
    expected = write_gguf(tmp_path / "file.gguf", model, "Q4_1")
    folder = weights_folder(Model(modality="language", source=str(tmp_path / "file.gguf")), tmp_path / "cache")
    read = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(read.state_dict()[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(read.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)
    assert AutoTokenizer.from_pretrained(folder)("a  12")["input_ids"] == [3, 6, 1, 2]
    assert trained_on(folder) == {"weights": "4-bit weights, dequantised"}

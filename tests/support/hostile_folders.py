"""Folders of pruned models that are damaged, or written to do harm: every way to change a file, on every file.

`every(formats)` yields a name and what it does to a folder, given another sound folder of the same kind.
"""

import itertools
import json
import os
import pickle
import random
import shutil
import struct

from safetensors.torch import load_file, save_file

import hies
from hies.pruning.folder import CONFIG, RECORD, record_digest
from hies.storage import SUMS, sha256_of, write_checksums

WEIGHTS = "model.safetensors"
BILLION = 10**9


def save_as_before(model, folder):
    """What `save_pruned` wrote before records named files."""
    hies.save_pruned(model, folder)
    (folder / "README.md").unlink()
    record = json.loads((folder / RECORD).read_text())
    del record["files"]
    (folder / RECORD).write_text(json.dumps({**record, "digest": record_digest(record)}))
    write_checksums(folder, "*.safetensors")


def seal(folder, **changes):
    """Writes the record as somebody does who knows how it is sealed; a folder of before loses its sums."""
    record = {**json.loads((folder / RECORD).read_text()), **changes}
    if "files" in record and "files" not in changes:
        record["files"] = {name: sha256_of(folder / name) for name in record["files"] if (folder / name).is_file()}
    (folder / SUMS).unlink(missing_ok=True)
    (folder / RECORD).write_text(json.dumps({**record, "digest": record_digest(record)}))


class Evil:
    """What a pickle that is loaded runs."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


# --- bytes of any file ------------------------------------------------------------------------------------------------


def cut(share):
    return lambda path, other: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flipped(seed):
    def damage(path, other):
        content = bytearray(path.read_bytes())
        content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
        path.write_bytes(content)

    return damage


def content(new):
    return lambda path, other: path.write_bytes(new)


def instead(make):
    def damage(path, other):
        path.unlink()
        make(path)

    return damage


def sparse(path):
    with path.open("ab") as file:
        file.truncate(20 << 30)


def link(target):
    return lambda path: path.symlink_to(target)


def evil(path):
    path.write_bytes(pickle.dumps(Evil(str(path.parent / "ran"))))


BYTES = {
    **{f"cut at {share}": cut(share) for share in (0.0, 0.1, 0.5, 0.999)},
    **{f"bit {seed}": flipped(seed) for seed in range(6)},
    **{
        f"content {i}": content(new) for i, new in enumerate((b"{", b"[]", b"null", b"\0" * 9, b"\xff\xfe{", b'"' * 99))
    },
    "deep": content(b"[" * 200_000),
    "twice": lambda path, other: path.write_bytes(2 * path.read_bytes()),
    "of another model": lambda path, other: shutil.copy(other / path.name, path),
    "twenty gigabytes of nothing": lambda path, other: sparse(path),
    **{
        name: instead(make)
        for name, make in {
            "gone": lambda path: None,
            "a folder": lambda path: path.mkdir(),
            "a pipe": os.mkfifo,
            "a pickle": evil,
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a link to nowhere": link("nowhere"),
            "a link to /dev/zero": link("/dev/zero"),
            "a link to a file elsewhere": link("/etc/passwd"),
        }.items()
    },
}

# --- values of a configuration, of a record and of a header, sealed again ---------------------------------------------

VALUES = (BILLION, 90_000, -1, 0, 3, 2.5, "x", None, [], {"0": BILLION}, [BILLION], True)
MORE_KEYS = (
    *("num_labels", "num_layers", "n_layer", "depths", "id2label", "transformers_weights", "quantization_config"),
    *("auto_map", "attn_implementation", "_attn_implementation", "torch_dtype", "architectures", "pruned_heads"),
    *("fusion_config", "configuration_files", "tie_word_embeddings", "chunk_size_feed_forward", "is_decoder"),
)
STRANGE = {
    "transformers_weights": ("../elsewhere.safetensors", "other.safetensors"),
    "quantization_config": ({"quant_method": "torchao", "quant_type": "int8"}, {"quant_method": "bitsandbytes"}),
    "auto_map": ({"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},),
    "attn_implementation": ("kernels-community/flash-attn", "flash_attention_2", "hies_sdpa"),
    "model_type": ("gpt2", "llama", "bert", "nothing", "swin"),
    "id2label": ({str(i): "x" for i in range(50)},),
}


def config_value(key, value):
    def change(folder, other):
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        seal(folder)

    return change


REMOVED = (None, [], 3, {}, {"": [0]}, {"../x": [0]}, {"{site}": [0, 0, 0]}, {"{site}": [-1]}, {"{site}": [BILLION]},
           {"{site}": ["0"]}, {"{site}": list(range(5))}, {"{site}": list(range(100_000))}, {"{top}": [0]})  # fmt: skip
NAMES = ("../x", "/etc/passwd", "a/b.safetensors", "", ".", "..", ".saved", "a\\b", "adapter_model.safetensors", "\0")
RECORDS = {
    **{f"removed {i}": {"removed": value} for i, value in enumerate(REMOVED)},
    **{f"format {value!r}": {"format": value} for value in (0, 2, "1", None)},
    **{
        f"class {value!r}": {"model_class": value}
        for value in ("os.system", "", 3, "BertModel", "AutoModel", "PreTrainedModel", "GPT2LMHeadModel", "__file__")
    },
    **{f"config {i}": {"config": value} for i, value in enumerate((
        None, [], {"num_attention_heads": 7}, {"num_attention_heads": "x"}, {"hidden_size": 1}, {"head_dim": BILLION},
        {"num_attention_heads": BILLION}, {"num_key_value_heads": 0},
    ))},
    **{f"file {name!r}": {"files": {name: "0" * 64}} for name in NAMES},
    **{f"files {value!r}": {"files": value} for value in ({}, None, [], 3, [WEIGHTS], {WEIGHTS: None})},
}  # fmt: skip


def record_value(changes):
    def change(folder, other):
        record = json.loads((folder / RECORD).read_text())
        site = next(iter(record["removed"]))
        names = {"{site}": site, "{top}": site.split(".")[0]}
        new = dict(changes)
        if isinstance(new.get("removed"), dict):
            new["removed"] = {names.get(key, key): value for key, value in new["removed"].items()}
        seal(folder, **new)

    return change


def tensors(edit):
    def change(folder, other):
        found = load_file(folder / WEIGHTS)
        edit(found, sorted(found)[len(found) // 2])
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / WEIGHTS, {"format": "pt"})
        seal(folder)

    return change


def header(edit):
    """The header of the weights as text, sealed again; what it says need not fit what follows."""

    def change(folder, other):
        raw = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        text = edit(json.loads(raw[8 : 8 + length]))
        text = text if isinstance(text, bytes) else json.dumps(text).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
        seal(folder)

    return change


def first(found, **changes):
    name = next(name for name in found if name != "__metadata__")
    return {**found, name: {**found[name], **changes}}


WEIGHT_CHANGES = {
    "a tensor less": tensors(lambda found, name: found.pop(name)),
    "a tensor more": tensors(lambda found, name: found.update(more=found[name].clone())),
    "no tensor": tensors(lambda found, name: found.clear()),
    "another name": tensors(lambda found, name: found.update({f"{name}x": found.pop(name)})),
    "a row less": tensors(lambda found, name: found.update({name: found[name][:-1]})),
    "a dimension more": tensors(lambda found, name: found.update({name: found[name][None]})),
    "flat": tensors(lambda found, name: found.update({name: found[name].flatten()})),
    "integers": tensors(lambda found, name: found.update({name: found[name].long()})),
    "halves": tensors(lambda found, name: found.update({name: found[name].half()})),
    "a larger shape": header(lambda found: first(found, shape=[BILLION, BILLION])),
    "a negative shape": header(lambda found: first(found, shape=[-1])),
    "offsets beyond": header(lambda found: first(found, data_offsets=[0, BILLION])),
    "offsets backwards": header(lambda found: first(found, data_offsets=[9, 3])),
    "a strange type": header(lambda found: first(found, dtype="F4096")),
    "no header": header(lambda found: {}),
    "a header of text": header(lambda found: b"[" * 100_000),
    "metadata of numbers": header(lambda found: {**found, "__metadata__": {"format": 3}}),
    "metadata of another library": header(lambda found: {**found, "__metadata__": {"format": "tf"}}),
    "a long header": header(lambda found: json.dumps(found).encode() + b" " * (1 << 20)),
}

# --- what lies beside -------------------------------------------------------------------------------------------------


def beside(name, make):
    return lambda folder, other: make(folder / name)


def adapters(folder, other):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "../x"}))
    shutil.copy(other / WEIGHTS, folder / "adapter_model.safetensors")


def moving(folder, other):
    """Half of a move that nobody began."""
    (folder / ".saved").mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(other / name, folder / ".saved" / name)


def moved(damage):
    """A record as of a model that took the place of this one."""

    def change(folder, other):
        (folder / ".saved").mkdir()
        record = shutil.copy(other / RECORD, folder / ".saved" / RECORD)
        damage(record, other)

    return change


def sharded(shard):
    def change(folder, other):
        names = dict.fromkeys(load_file(folder / WEIGHTS), shard)
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        shutil.copy(other / WEIGHTS, folder.parent / "elsewhere.safetensors")
        (folder / WEIGHTS).unlink()
        record = json.loads((folder / RECORD).read_text())
        record.get("files", {}).pop(WEIGHTS, None)
        seal(folder, **record)

    return change


BESIDE = {
    "adapters": adapters,
    "a half moved model": moving,
    **{f"a moved model, {kind}": moved(damage) for kind, damage in BYTES.items()},
    "a link as a moved model": lambda folder, other: (folder / ".saved").symlink_to(other),
    "a link as an unfinished one": lambda folder, other: (folder / ".saving-1").symlink_to(other),
    "weights as a pickle": beside("pytorch_model.bin", evil),
    "code": beside("evil.py", lambda path: path.write_text(f"import os; os.mkdir({str(path.parent / 'ran')!r})")),
    "generate.py": beside("custom_generate", lambda path: (path.mkdir(), (path / "generate.py").write_text("1 / 0"))),
    **{f"sums {i}": beside(SUMS, lambda path, text=text: path.write_bytes(text)) for i, text in enumerate((
        b"", b"\xff", b"x", b"0" * 64 + b"  ../x\n", b"0" * 64 + b"  model.safetensors\n",
    ))},
    "sums of a pipe": beside(SUMS, lambda path: (path.unlink(missing_ok=True), os.mkfifo(path))),
    "sums of /dev/zero": beside(SUMS, lambda path: (path.unlink(missing_ok=True), path.symlink_to("/dev/zero"))),
    **{f"shard {shard}": sharded(shard) for shard in (
        "../elsewhere.safetensors", "/etc/passwd", "pytorch_model.bin", "gone.safetensors", "",
    )},
}  # fmt: skip


def every(folder):
    """Yields (name, change(folder, other)) of all that is done to a sound folder."""
    files = [name for name in (RECORD, CONFIG, WEIGHTS, "generation_config.json", SUMS) if (folder / name).exists()]
    for file, (kind, damage) in itertools.product(files, BYTES.items()):
        yield f"{file}, {kind}", lambda folder, other, file=file, damage=damage: damage(folder / file, other)
    config = json.loads((folder / CONFIG).read_text())
    for key in (*config, *MORE_KEYS):
        for value in (*STRANGE.get(key, ()), *VALUES):
            yield f"{CONFIG}, {key} {str(value)[:30]}", config_value(key, value)
    yield from ((f"{RECORD}, {kind}", record_value(changes)) for kind, changes in RECORDS.items())
    yield from ((f"{WEIGHTS}, {kind}", change) for kind, change in WEIGHT_CHANGES.items())
    yield from BESIDE.items()

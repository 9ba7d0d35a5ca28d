"""Prunes tiny models with an installed `hies`, where torch and transformers are the only other packages.

`python loop.py FILE` writes to FILE what held of each family, as JSON.
"""

import copy
import importlib
import importlib.util
import json
import pkgutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers as tf

import hies

ABSENT = ("hydra", "wandb", "pandas", "PIL", "sklearn", "scipy", "datasets", "matplotlib", "experiments", "analysis")
ROOMS = ("heads", "scoring", "pruning", "efficiency", "methods")
SIZES = {"vocab_size": 29, "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "pad_token_id": 0}
ENCODER = {**SIZES, "intermediate_size": 23, "num_labels": 3}
DECODER = {**ENCODER, "num_key_value_heads": 5}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT = {**TOKENS, "vocab_size": 29, "n_embd": 20, "n_layer": 2, "n_head": 5, "num_labels": 3}
BLOOM = {**TOKENS, "vocab_size": 29, "hidden_size": 20, "n_layer": 2, "n_head": 5, "num_labels": 3}
EXPERTS = {
    **DECODER,
    "head_dim": 4,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "experts_implementation": "eager",
}  # in float64
V3 = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True, "position_buckets": 4,
      "max_relative_positions": 64, "norm_rel_ebd": "layer_norm", "position_biased_input": False}  # fmt: skip
# Name of its classes in transformers, configuration, output projection of a site; ^ is the parent of the site. The last
# four compute a softmax of their own, the others call transformers' attention interface.
FAMILIES = {
    "BERT": ("Bert", ENCODER, "^.output.dense"),
    "LLaMA": ("Llama", DECODER, "o_proj"),
    "GPT-2": ("GPT2", GPT, "c_proj"),
    "Qwen3-MoE": ("Qwen3Moe", EXPERTS, "o_proj"),
    "DeBERTa-v3": ("DebertaV2", {**ENCODER, **V3}, "^.output.dense"),
    "MPNet": ("MPNet", ENCODER, "o"),
    "GPT-J": ("GPTJ", {**GPT, "rotary_dim": 2}, "out_proj"),
    "BLOOM": ("Bloom", BLOOM, "dense"),
}


def import_every_room() -> None:
    """Imports every module of the library, which fails where one needs a package that is not declared."""
    for room in (importlib.import_module(f"hies.{name}") for name in ROOMS):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)


def built(name: str) -> torch.nn.Module:
    """Returns a classifier of a family, its weights far from uniform attention, so that every head matters."""
    torch.manual_seed(0)
    kind, sizes, _ = FAMILIES[name]
    model = getattr(tf, f"{kind}ForSequenceClassification")(getattr(tf, f"{kind}Config")(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded_batch() -> dict[str, torch.Tensor]:
    """Returns three examples of 7, 5 and 3 tokens, [3, 7], with a label each."""
    mask = (torch.arange(7) < torch.tensor([7, 5, 3])[:, None]).long()
    tokens = torch.randint(3, SIZES["vocab_size"], (3, 7)) * mask
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.tensor([0, 2, 1])}


def first_logit(outputs: object, batch: object) -> torch.Tensor:
    """Returns a number for each example, [3]."""
    return outputs.logits.flatten(1)[:, 0]


def output_projection(model: torch.nn.Module, site: str, path: str) -> torch.nn.Module:
    """Returns the matrix that reads the heads of a site."""
    beside = f"{site.rpartition('.')[0]}{path[1:]}"
    return model.get_submodule(beside if path[0] == "^" else f"{site}.{path}")


@torch.no_grad()
def scale_columns(owner: torch.nn.Module, gates: torch.Tensor) -> None:
    """Scales what a matrix reads of each head; that of GPT-2 has a row for each input."""
    by_input = gates.repeat_interleave(SIZES["hidden_size"] // len(gates))
    owner.weight.mul_(by_input if isinstance(owner, torch.nn.Linear) else by_input[:, None])


def score_for_real(name: str, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Compares HIS with central differences along one direction through all gates, by scaled output matrices."""
    model = model.double()
    his = hies.collect(model, [batch], need=("his",), loss=first_logit)["his"]
    ways = {site: torch.randn(scores.shape[1], dtype=torch.float64) for site, scores in his.items()}
    values = []
    for step in (1e-3, -1e-3):  # large, since BLOOM and others compute their softmax in float32
        gated = copy.deepcopy(model)
        for site, way in ways.items():
            scale_columns(output_projection(gated, site, FAMILIES[name][2]), 1 + step * way)
        with torch.no_grad():
            values.append(first_logit(gated(**batch), batch))
    slope = sum(his[site] @ way for site, way in ways.items())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-3, rtol=1e-3, atol=1e-3 * slope.abs().max().item())


def prune_for_real(model: torch.nn.Module, batch: dict[str, torch.Tensor], folder: Path) -> None:
    """Runs collect, select, masked, prune, save_pruned and load_pruned, and compares the logits of the last four."""
    stats = hies.collect(model, [batch])
    removed = hies.select(hies.HIES(alpha=0.9)(stats), ratio=0.5)
    assert sum(map(len, removed.values())) == 5
    with torch.no_grad():
        whole = model(**batch).logits
        with hies.masked(model, removed):
            masked = model(**batch).logits
        small = hies.prune(model, removed)
        hies.save_pruned(small, folder)
        pruned, loaded = small(**batch).logits, hies.load_pruned(folder)(**batch).logits
        assert torch.equal(model(**batch).logits, whole), "the model that was passed in has changed"
    assert not torch.allclose(masked, whole, atol=1e-4), "masking changed nothing"
    torch.testing.assert_close(pruned, masked, rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded, pruned)


def holds(name: str) -> str:
    """Returns `yes`, or what is wrong with a family."""
    try:
        torch.manual_seed(1)
        batch = padded_batch()
        with tempfile.TemporaryDirectory() as folder:
            prune_for_real(built(name), batch, Path(folder) / "small")
        score_for_real(name, built(name), batch)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "yes"


def main() -> None:
    """Fails if a package of the benchmark is here, a module does not import, or the loop of a family does not close."""
    tf.utils.logging.disable_progress_bar()
    present = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    assert not present, f"{', '.join(present)} can be imported, so this environment shows nothing"
    import_every_room()
    found = {name: holds(name) for name in FAMILIES}
    wrong = [f"{name}: {said}" for name, said in found.items() if said != "yes"]
    good = ", ".join(name for name, said in found.items() if said == "yes")
    said = f"transformers {tf.__version__}, torch {torch.__version__}: {good} scored, masked, pruned, saved, loaded"
    print("; ".join([said, *wrong]))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({tf.__version__: found}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

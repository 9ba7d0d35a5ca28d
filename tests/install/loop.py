"""Prunes two tiny models with an installed `hies`, where torch and transformers are the only other packages."""

import importlib
import importlib.util
import pkgutil
import tempfile
from pathlib import Path

import torch
import transformers as tf

import hies

ABSENT = ("hydra", "wandb", "pandas", "PIL", "sklearn", "scipy", "datasets", "matplotlib", "experiments", "analysis")
ROOMS = ("heads", "scoring", "pruning", "efficiency", "methods")
SIZES = {"vocab_size": 29, "hidden_size": 20, "num_hidden_layers": 2, "intermediate_size": 23}
MODELS = {
    "BERT": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SIZES, num_attention_heads=5, num_labels=3)),
    "LLaMA": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, num_attention_heads=5, num_key_value_heads=5)),
}


def import_every_room() -> None:
    """Imports every module of the library, which fails where one needs a package that is not declared."""
    for room in (importlib.import_module(f"hies.{name}") for name in ROOMS):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)


def padded_batch(causal: bool) -> dict[str, torch.Tensor]:
    """Returns three examples of 7, 5 and 3 tokens, each [3, 7], with labels [3] or [3, 7]."""
    mask = (torch.arange(7) < torch.tensor([7, 5, 3])[:, None]).long()
    tokens = torch.randint(1, SIZES["vocab_size"], (3, 7)) * mask
    labels = tokens.masked_fill(mask == 0, -100) if causal else torch.tensor([0, 2, 1])
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


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
    torch.testing.assert_close(pruned, masked, rtol=0, atol=1e-5)
    assert torch.equal(loaded, pruned)


def main() -> None:
    """Fails if a package of the benchmark is here, a module does not import, or the loop does not close."""
    tf.utils.logging.disable_progress_bar()
    present = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    assert not present, f"{', '.join(present)} can be imported, so this environment shows nothing"
    import_every_room()
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build().eval()
        with torch.no_grad():
            for parameter in model.parameters():  # far from uniform attention, so that every head matters
                parameter.add_(0.3 * torch.randn_like(parameter))
        with tempfile.TemporaryDirectory() as folder:
            prune_for_real(model, padded_batch(causal=name == "LLaMA"), Path(folder) / "small")
        print(f"torch {torch.__version__}, transformers {tf.__version__}: {name} scored, masked, pruned, saved, loaded")


if __name__ == "__main__":
    main()

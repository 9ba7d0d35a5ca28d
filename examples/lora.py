"""Trains LoRA adapters on pruned models, merges them, and draws accuracy before and after over the heads removed.

python examples/lora.py --model FOLDER --data train.csv --report report.csv --out lora
"""

import argparse

import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hies

parser = argparse.ArgumentParser(description=__doc__)
[parser.add_argument(name, required=True) for name in ("--model", "--data", "--report", "--out")]
parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75])
parser.add_argument("--steps", type=int, default=500)


def main(words: list[str] | None = None) -> pd.DataFrame:
    """Runs the example; returns accuracy, one row a ratio."""
    options = parser.parse_args(words)
    model = AutoModelForSequenceClassification.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data, report = (
        hies.batches(tokenizer, pd.read_csv(path).to_dict("records"), "text", "label", model=model)
        for path in (options.data, options.report)
    )
    train, dense, found = list(data), hies.evaluate(model, report).accuracy, []
    scores = hies.HIES(alpha=0.9)(hies.collect(model, train[:4]))
    for ratio in options.ratios:
        small = hies.prune(model, hies.select(scores, ratio))
        before = hies.evaluate(small, report).accuracy
        tuned = get_peft_model(small, LoraConfig(r=16, target_modules="all-linear", task_type="SEQ_CLS")).train()
        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-3)
        for step in range(options.steps):
            tuned(**train[step % len(train)]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        small = tuned.merge_and_unload()  # the adapters are in its matrices now: a pruned model as before
        found.append((dense, before, hies.evaluate(small, report).accuracy))
        print("removed {:.0%}, accuracy {:.3f}, pruned {:.3f}, after LoRA {:.3f}".format(ratio, *found[-1]), flush=True)
        hies.save_pruned(small, f"{options.out}/ratio-{ratio:g}")

    curves = pd.DataFrame(found, options.ratios, ["all heads", "pruned", f"pruned, {options.steps} steps of LoRA"])
    axes = curves.plot(style=["k:", "o-", "s-"], figsize=(6, 4), xlabel="share of heads removed", ylabel="accuracy")
    axes.figure.savefig(f"{options.out}/recovery.png", dpi=120, bbox_inches="tight")
    return curves


if __name__ == "__main__":
    main()

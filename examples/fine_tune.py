"""Fine-tunes a pruned classifier with transformers' Trainer; every checkpoint is a pruned model that loads again.

python examples/fine_tune.py --model small --data train.csv --report report.csv --out tuned

`small` is a folder of hies.save_pruned with its tokenizer; the CSV files have the columns text and label (numbers).
"""

import argparse
import csv
from pathlib import Path

from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder of a pruned classifier")
parser.add_argument("--data", required=True, help="CSV file to train on")
parser.add_argument("--report", required=True, help="CSV file to measure accuracy on")
parser.add_argument("--out", required=True, help="folder for checkpoints and the tuned model")
parser.add_argument("--epochs", type=float, default=1.0)


def main(words: list[str] | None = None) -> None:
    """Runs the example."""
    options = parser.parse_args(words)
    model, tokenizer = hies.load_pruned(options.model), AutoTokenizer.from_pretrained(options.model)

    def examples(path: str) -> list[dict]:
        with Path(path).open(encoding="utf-8", newline="") as file:
            return [{"text": row["text"], "labels": int(row["label"])} for row in csv.DictReader(file)]

    report = hies.batches(tokenizer, examples(options.report), model=model, batch_size=64)
    settings = {"num_train_epochs": options.epochs, "save_strategy": "epoch", "report_to": "none"}
    trainer = Trainer(
        model,
        TrainingArguments(options.out, per_device_train_batch_size=16, learning_rate=5e-5, **settings),
        train_dataset=[{**tokenizer(row["text"], truncation=True), **row} for row in examples(options.data)],
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[hies.PrunedCheckpoints()],  # else checkpoints lack the record of the heads that are gone
    )
    before = hies.evaluate(model, report).accuracy
    trainer.train()
    after = hies.evaluate(model, report).accuracy
    print(f"accuracy {before:.3f} before, {after:.3f} after {trainer.state.global_step} steps")

    checkpoint = hies.load_pruned(Path(options.out) / f"checkpoint-{trainer.state.global_step}")
    assert hies.pruned_heads(checkpoint) == hies.pruned_heads(model)
    hies.save_pruned(trainer.model, options.out, metrics={"accuracy": after})
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()

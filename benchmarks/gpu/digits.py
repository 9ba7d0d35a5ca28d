"""Digits: a ViT trained, scored and masked on the device through the library, against the CPU's scores and answers."""

import copy
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

import hies
from benchmarks.gpu.core import difference
from benchmarks.gpu.machine import Machine, Row
from benchmarks.gpu.report import limit
from hies.batching import Batch, Encoded
from hies.heads.attention import evaluating
from hies.training import Finetuning
from hies.training.loop import finetune

ARCHITECTURE = {  # conf/model/vit_tiny.yaml
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "num_labels": 10,
}
RATIOS = (0.3, 0.6)
HIS_LIMIT, AE_LIMIT, AGREEMENT = 1e-3, 1e-4, 0.99  # of the largest; absolute; of the answers


def measure(machine: Machine) -> Iterator[Row]:
    """Yields the accuracy of training, then differences between the device and the CPU."""
    if importlib.util.find_spec("sklearn") is None:
        yield {"what": "left out, scikit-learn, which has the digits, is not installed"}
        return
    from hies.tasks.embedded.digits import Digits

    splits = Digits().load(None, Path())
    train, report = (_encoded(split.inputs["pixel_values"], split.labels) for split in (splits.train, splits.report))
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**ARCHITECTURE)).to(machine.device)
    settings = Finetuning(epochs=1 if machine.tiny else 20, learning_rate=1e-3, batch_size=128, weight_decay=0.05)
    labels = np.array([int(feature["labels"]) for feature in report.features])

    def accuracy(network: torch.nn.Module) -> float:
        return float((_answers(network, report) == labels).mean())

    accuracies = finetune(model, train, accuracy, settings, "digits on the device")
    yield {"what": "accuracy after training", "value": accuracies[-1]}
    yield from _compared(model, train, report)


def _compared(model: transformers.PreTrainedModel, train: Encoded, report: Encoded) -> Iterator[Row]:
    other = copy.deepcopy(model).to("cpu")
    calibration = [np.arange(start, start + 64) for start in (0, 64)]
    ours, cpus = (hies.collect(one, [_on(one, train.batch(part)) for part in calibration]) for one in (model, other))
    largest = max(float(values.max()) for values in cpus.his.values())
    yield {"what": "HIS, difference of its largest", "value": difference(ours.his, cpus.his) / largest}
    yield {"what": "AE, difference", "value": difference(ours.ae, cpus.ae)}
    for ratio in RATIOS:
        removed = [hies.select(hies.HIES(alpha=0.9)(scores), ratio) for scores in (ours, cpus)]
        total, common = (
            sum(len(heads) for heads in removed[1].values()),
            sum(len({*removed[0].get(site, [])} & {*heads}) for site, heads in removed[1].items()),
        )
        yield {"what": f"masks alike at {ratio:.0%}", "value": common / total}
        found = []
        for one in (model, other):
            with hies.masked(one, removed[1]):
                found.append(_answers(one, report))
        yield {"what": f"answers alike at {ratio:.0%}", "value": float((found[0] == found[1]).mean())}


def _encoded(pixels: np.ndarray, labels: np.ndarray) -> Encoded:
    features = [
        {"pixel_values": torch.from_numpy(image), "labels": torch.tensor(int(label))}
        for image, label in zip(pixels, labels, strict=True)
    ]
    return Encoded(features, {}, [1] * len(features))


def _on(model: transformers.PreTrainedModel, batch: Batch) -> Batch:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


@torch.no_grad()
def _answers(model: torch.nn.Module, examples: Encoded) -> np.ndarray:
    """Returns the class of each example, [examples]."""
    device = next(model.parameters()).device
    answers = np.empty(len(examples), dtype=np.int64)
    with evaluating(model):
        for indices, batch in examples.batches(250, device):
            logits: Tensor = model(pixel_values=batch["pixel_values"]).logits
            answers[indices] = logits.argmax(dim=1).cpu().numpy()
    return answers


def limits(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields that the device and the CPU give the same scores, and nearly the same answers."""
    values = {row["what"]: row.get("value") for row in rows}
    if "AE, difference" in values:
        yield limit("HIS of the digits' ViT, off the CPU's", [values["HIS, difference of its largest"]], most=HIS_LIMIT)
        yield limit("AE of the digits' ViT, off the CPU's", [values["AE, difference"]], most=AE_LIMIT)
        alike = [value for what, value in values.items() if what.startswith("answers alike")]
        yield limit("answers of the masked ViT that are the CPU's", alike, least=AGREEMENT)

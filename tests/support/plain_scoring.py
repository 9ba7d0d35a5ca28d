"""Losses, attention weights and batches by plain loops, which the scores of the library are compared with."""

import copy

import numpy as np
import torch
from architectures import ARCHITECTURES, CLASSES, WORDS


def plain_loss(name, logits, labels, real=None):
    """The loss of each example, written with loops; real: which tokens are none of padding, [examples, tokens]."""
    losses = []
    real = labels.reshape(len(labels), -1) != -100 if real is None else real
    for row, label, is_real in zip(logits, labels, real, strict=True):
        if name == "bert_regression":
            losses.append((row[0] - label) ** 2)
        elif row.dim() == 1:
            losses.append(-row.log_softmax(0)[label])
        else:
            shift = 0 if ARCHITECTURES[name].reads == "sequences" else 1
            asked = [t for t in range(shift, len(label)) if label[t] != -100 and (not shift or is_real[t - 1])]
            tokens = [-row[t - shift].log_softmax(0)[label[t]] for t in asked]
            losses.append(torch.stack(tokens).mean())
    return torch.stack(losses)


def with_exact_norms(model):
    """transformers' RMS norms round to float32 whatever the model's precision; torch's own do not."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ in ("LlamaRMSNorm", "T5LayerNorm"):
            exact = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon, dtype=torch.float64)
            exact.weight = module.weight
            model.set_submodule(name, exact)
    return model


def eager_attentions(model, batch):
    """Softmax weights of every attention call in order of use, by transformers' own eager code, float64."""
    eager = copy.deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = eager(**batch, output_attentions=True)
    if "encoder_attentions" not in outputs:
        return [weights.double().numpy() for weights in outputs.attentions]
    decoder = zip(outputs.decoder_attentions, outputs.cross_attentions, strict=True)
    calls = [*outputs.encoder_attentions, *(weights for layer in decoder for weights in layer)]
    return [weights.double().numpy() for weights in calls]


def real_tokens(name, site, batch):
    if ARCHITECTURES[name].reads == "sequences" and "decoder" in site:
        return (batch["labels"] != -100).numpy()
    if "attention_mask" not in batch:
        return np.ones((len(batch["labels"]), 10), bool)
    return batch["attention_mask"].bool().numpy()


def examples_of_different_length(name, count=32):
    generator = torch.Generator().manual_seed(3)
    examples = []
    for _ in range(count):
        words = torch.randint(3, WORDS, (int(torch.randint(2, 30, (), generator=generator)),), generator=generator)
        words[-1] = 2
        kinds = {
            "classes": torch.randint(0, CLASSES, (), generator=generator),
            "sentences": torch.randint(0, CLASSES, (), generator=generator),
            "language": words,
            "sequences": words.flip(0)[: max(len(words) // 2, 2)],
        }
        examples.append((words, kinds[ARCHITECTURES[name].reads]))
    return examples


def in_batches(examples, size):
    for start in range(0, len(examples), size):
        words, labels = zip(*examples[start : start + size], strict=True)
        batch = {
            "input_ids": torch.nn.utils.rnn.pad_sequence(words, batch_first=True),
            "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(w) for w in words], batch_first=True),
        }
        if labels[0].dim():
            batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        else:
            batch["labels"] = torch.stack(labels)
        yield batch

"""Tiny models with random weights, batches with padding, and fixtures that the tests share.

Sizes are primes wherever an architecture allows it, so that a swapped axis cannot pass unnoticed.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers as tf
from architectures import ARCHITECTURES, CLASSES, ENCODER, WORDS  # noqa: F401 - the tests take them from here
from command_line import cache, call, new_process  # noqa: F401 - the tests take them from here
from multimodal_models import SENSES
from text_models import FAMILIES
from unsupported_models import UNPRUNABLE

pytest.register_assert_rewrite("checks")
torch.set_num_threads(1)
tf.logging.set_verbosity_error()

BATCH, TOKENS = 3, 11
LENGTHS = (11, 7, 4)  # real tokens of each example of a padded batch
MATRIX = {**ARCHITECTURES, **FAMILIES, **SENSES}
EVERY = {**MATRIX, **UNPRUNABLE}


def make(name, dtype=torch.float32, seed=0):
    """A model with weights large enough for attention to be far from uniform and every head to matter."""
    torch.manual_seed(seed)
    model, spread = EVERY[name].build(), EVERY[name].spread
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(spread * noise)
            else:
                parameter.add_(0.1 * noise)
    return model.to(dtype)


def padding_mask(lengths=LENGTHS, tokens=TOKENS, side="right"):
    place = torch.arange(tokens) if side == "right" else torch.arange(tokens - 1, -1, -1)
    return (place < torch.tensor(lengths)[:, None]).long()


def make_batch(name, side="right", dtype=torch.float32, seed=1):
    """BATCH examples of different length, with labels where they are text or images, as the architecture reads them."""
    generator = torch.Generator().manual_seed(seed)
    if callable(EVERY[name].reads):
        batch = EVERY[name].reads(generator)
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    reads = EVERY[name].reads
    pixels = torch.randn(BATCH, 3, 12, 12, generator=generator, dtype=torch.float64).to(dtype)
    if reads == "image":
        return {"pixel_values": pixels, "labels": integers(0, CLASSES, BATCH)}
    mask = padding_mask(side=side)
    words = integers(3, WORDS - 1, BATCH, TOKENS) * mask
    batch = {"input_ids": words, "attention_mask": mask}
    if reads == "classes":
        labels = torch.tensor([0.3, 4.1, 2.6]) if name == "bert_regression" else integers(0, CLASSES, BATCH)
    elif reads == "sentences":
        words[torch.arange(BATCH), mask.sum(1) - 1] = 2  # the end of the sentence, where a classifier reads
        labels = integers(0, CLASSES, BATCH)
    elif reads == "sequences":
        labels = integers(3, WORDS - 1, BATCH, 7).masked_fill(padding_mask((5, 7, 3), 7) == 0, -100)
    else:
        labels = words.masked_fill(mask == 0, -100)
    if reads == "both":  # nine image tokens, then text
        pictures = torch.full((BATCH, 9), WORDS - 1)
        batch = {
            "input_ids": torch.cat([pictures, words], 1),
            "attention_mask": torch.cat([torch.ones_like(pictures), mask], 1),
            "pixel_values": pixels,
        }
        labels = torch.cat([torch.full_like(pictures, -100), labels], 1)
    return {**batch, "labels": labels}


def output_projection(model, name, site):
    """The module that reads the concatenated heads of a site."""
    path = EVERY[name].output
    if not isinstance(path, str):
        path = next(found for part, found in path.items() if part in site)
    if path.startswith("^"):
        site, path = site.rpartition(".")[0], path[2:]
    return model.get_submodule(f"{site}.{path}")


def some_heads(sites, case, seed=3):
    """Heads to remove: `some` of every site, `a layer` whole besides (the second), or `all`."""
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for depth, (site, found) in enumerate(sites.items()):
        order = torch.randperm(found.heads, generator=generator).tolist()
        whole = case == "all" or (case == "a layer" and depth == min(1, len(sites) - 1))
        removed[site] = sorted(order if whole else order[: max(found.heads // 2, 1)])
    return removed


def random_scores(generator, *heads):
    """Scores of sites `a`, `b`, ... with the given numbers of heads."""
    return {chr(97 + i): torch.rand(n, generator=generator, dtype=torch.float64) for i, n in enumerate(heads)}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="session")
def glue_copy(tmp_path_factory):
    """A made-up copy of all GLUE tasks in the layout of the Hub repository."""
    from glue_copy import write_copy

    from hies.tasks.glue import GLUE

    root = tmp_path_factory.mktemp("data")
    for kind in GLUE:
        write_copy(root, kind)
    return root

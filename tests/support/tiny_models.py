"""The tiny models that the tests share, with random weights, and batches with padding that they read."""

import copy
import functools

import torch
from architectures import ARCHITECTURES, CLASSES, WORDS
from multimodal_models import SENSES
from own_softmax_models import OWN_SOFTMAX
from text_models import FAMILIES
from unsupported_models import UNPRUNABLE

from hies.heads import attention

BATCH, TOKENS = 3, 11
LENGTHS = (11, 7, 4)  # real tokens of each example of a padded batch
MATRIX = {**ARCHITECTURES, **FAMILIES, **SENSES}
EVERY = {**MATRIX, **OWN_SOFTMAX, **UNPRUNABLE}
# What an ordinary run puts under all checks: every name of `hies/heads/conventions.py` and every line of the code that
# finds, scores, prunes and saves heads is needed by one of them. `pytest --all-architectures` takes all of MATRIX.
SAMPLE = (
    *("bert", "albert", "distilbert", "modernbert", "gte", "bert-generation"),  # encoders
    *("gpt2", "llama_grouped", "gpt_bigcode", "persimmon", "phi3", "ctrl", "dbrx"),  # decoders, fused projections too
    *("gemma2", "gemma3n", "gemma4", "gpt_oss", "olmo2", "cohere", "stablelm"),  # soft caps, sinks, norms of heads
    *("hunyuan_v1_dense", "llama4", "exaone4", "beam", "laguna"),  # more norms, gates
    *("deepseek_v3", "deepseek_v32", "longcat_flash", "mimo_v2_flash"),  # latent attention, values of another width
    *("hrm_text", "jamba", "lfm2", "minimax", "olmo_hybrid", "recurrent_gemma"),  # shared layers, hybrids
    *("t5", "umt5", "longt5", "pegasus_x", "bart_classifier"),  # encoders and decoders
    *("vit", "swin", "beit_shared", "dpt", "conditional_detr", "detr", "eomt", "vivit"),  # pictures, videos
    *("audio-spectrogram-transformer", "granite_speech5", "moonshine", "parakeet", "seamless_m4t_v2"),  # sound
    *("wav2vec2-conformer", "whisper"),
    *("llava", "chameleon", "clip_pair", "gpt2_cross", "exaone4_5", "internvl"),  # pictures and text
    *("mllama", "pix2struct", "qwen2_5_vl", "udop"),
    *("patchtst", "timesfm"),  # series
)


@functools.cache
def built(name, seed):
    """The model that `make` gives copies of."""
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
    return model


def make(name, dtype=torch.float32, seed=0):
    """A model with weights large enough for attention to be far from uniform and every head to matter."""
    model = copy.deepcopy(built(name, seed)).to(dtype)
    torch.manual_seed(seed)  # what a test draws next does not depend on whether the model was built before
    return model


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
    owner = model.get_submodule(site)
    return owner.o if isinstance(getattr(owner, path, None), torch.nn.Parameter) else owner.get_submodule(path)  # XLNet


def some_heads(sites, case, seed=3):
    """Heads to remove: `some` of every site, `a layer` whole besides (the second), or `all`."""
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for depth, (site, found) in enumerate(sites.items()):
        order = torch.randperm(found.heads, generator=generator).tolist()
        whole = case == "all" or (case == "a layer" and depth == min(1, len(sites) - 1))
        removed[site] = sorted(order if whole else order[: max(found.heads // 2, 1)])
    return removed


def has_config(module):
    return hasattr(getattr(module, "config", None), "_attn_implementation")


def state_of(model):
    return {
        "parameters": {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()},
        "buffers": {name: b.clone() for name, b in model.named_buffers()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "hooks": {
            name: (list(module._forward_hooks), list(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "training": {name: module.training for name, module in model.named_modules()},
        "attention": {
            name: module.config._attn_implementation for name, module in model.named_modules() if has_config(module)
        },
    }


def assert_same_state(model, before):
    after = state_of(model)
    for kind in ("requires_grad", "hooks", "training", "attention"):
        assert after[kind] == before[kind]
    for name, (identity, values) in before["parameters"].items():
        assert after["parameters"][name][0] == identity and torch.equal(after["parameters"][name][1], values)
    assert all(torch.equal(after["buffers"][name], values) for name, values in before["buffers"].items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert attention._active == attention._own.get() == ()

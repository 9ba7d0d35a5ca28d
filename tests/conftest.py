"""Tiny models with random weights, batches with padding, and fixtures that the tests share.

Sizes are primes wherever an architecture allows it, so that a swapped axis cannot pass unnoticed.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import transformers as tf
from torch import nn

torch.set_num_threads(1)
tf.logging.set_verbosity_error()

BATCH, TOKENS, WORDS, CLASSES = 3, 11, 53, 3
LENGTHS = (11, 7, 4)  # real tokens of each example of a padded batch

TEXT = {"vocab_size": WORDS, "num_hidden_layers": 2, "intermediate_size": 13, "max_position_embeddings": 40}
ENCODER = {**TEXT, "hidden_size": 35, "num_attention_heads": 5, "num_labels": CLASSES, "pad_token_id": 0}
DECODER = {**TEXT, "hidden_size": 48, "num_attention_heads": 6, "pad_token_id": 0}  # rotary: an even width
GROUPED = {**DECODER, "num_key_value_heads": 2}
IMAGE = {
    "hidden_size": 35,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "image_size": 12,
    "patch_size": 4,
    "num_labels": CLASSES,
}
BART = {
    "vocab_size": WORDS,
    "d_model": 35,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 13,
    "decoder_ffn_dim": 13,
    "max_position_embeddings": 40,
    "num_labels": CLASSES,
}
T5 = {"vocab_size": WORDS, "d_model": 19, "d_kv": 7, "d_ff": 13, "num_layers": 2, "num_heads": 5}


def clip(**changes):
    vision = {**IMAGE, "intermediate_size": 13, **changes}
    return tf.CLIPForImageClassification(tf.CLIPConfig(vision_config=vision, num_labels=CLASSES))


def llava():
    vision = tf.CLIPVisionConfig(**IMAGE, intermediate_size=13)
    return tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            vision_config=vision,
            text_config=tf.LlamaConfig(**DECODER),
            image_token_index=WORDS - 1,
            vision_feature_layer=-1,  # the default, -2, leaves the last layer's heads without effect
        )
    )


@dataclass(frozen=True)
class Architecture:
    """How to build a tiny model, what it reads, the heads it has (one number a site, in order), and where the output
    projection of a site is: a path relative to the site, `^` for its parent."""

    build: Callable[[], nn.Module]
    reads: str
    heads: tuple[int, ...]
    output: str


def encoder(kind, config, output="^.output.dense", sites=2, **changes):
    return Architecture(lambda: kind(config(**{**ENCODER, **changes})), "classes", (5,) * sites, output)


def decoder(kind, config, output="o_proj", heads=6, **options):
    return Architecture(lambda: kind(config(**options)), "language", (heads,) * 2, output)


def image(build, output="o_proj", heads=(5, 5)):
    return Architecture(build, "image", heads, output)


ARCHITECTURES = {
    "bert": encoder(tf.BertForSequenceClassification, tf.BertConfig),
    "bert_regression": encoder(tf.BertForSequenceClassification, tf.BertConfig, num_labels=1),
    "roberta": encoder(tf.RobertaForSequenceClassification, tf.RobertaConfig),
    "electra": encoder(tf.ElectraForSequenceClassification, tf.ElectraConfig, embedding_size=7),
    "albert": encoder(tf.AlbertForSequenceClassification, tf.AlbertConfig, "dense", sites=1, embedding_size=7),
    "distilbert": Architecture(
        lambda: tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(
                vocab_size=WORDS, dim=35, n_layers=2, n_heads=5, hidden_dim=13, max_position_embeddings=40, num_labels=3
            )
        ),
        "classes",
        (5, 5),
        "out_lin",
    ),
    "modernbert": Architecture(
        lambda: tf.ModernBertForSequenceClassification(
            tf.ModernBertConfig(
                **{**DECODER, "num_labels": CLASSES},
                local_attention=4,
                **{f"{name}_token_id": 1 for name in ("bos", "cls", "eos", "sep")},
            )
        ),
        "classes",
        (6, 6),
        "Wo",
    ),
    "gpt2": decoder(
        tf.GPT2LMHeadModel, tf.GPT2Config, "c_proj", 5,
        vocab_size=WORDS, n_embd=35, n_head=5, n_layer=2, n_positions=40, bos_token_id=1, eos_token_id=2,
    ),
    "opt": decoder(
        tf.OPTForCausalLM, tf.OPTConfig, "out_proj", 5,
        vocab_size=WORDS, hidden_size=35, ffn_dim=13, num_hidden_layers=2, num_attention_heads=5,
        max_position_embeddings=40, word_embed_proj_dim=35,
    ),
    "gpt_neox": decoder(tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, "dense", **DECODER),
    "llama": decoder(tf.LlamaForCausalLM, tf.LlamaConfig, **DECODER),
    "llama_grouped": decoder(tf.LlamaForCausalLM, tf.LlamaConfig, **GROUPED),
    "mistral": decoder(tf.MistralForCausalLM, tf.MistralConfig, sliding_window=4, **GROUPED),
    "qwen3": decoder(tf.Qwen3ForCausalLM, tf.Qwen3Config, head_dim=8, **GROUPED),
    "gemma2": decoder(
        tf.Gemma2ForCausalLM, tf.Gemma2Config,
        head_dim=8, sliding_window=4, attn_logit_softcapping=0.5, query_pre_attn_scalar=8, **GROUPED,
    ),
    "gemma3": decoder(tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, head_dim=8, sliding_window=4, **GROUPED),
    "t5": Architecture(
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5, decoder_start_token_id=0)), "sequences", (5,) * 6, "o"
    ),
    "bart": Architecture(
        lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART)), "sequences", (5,) * 6, "out_proj"
    ),
    "bart_classifier": Architecture(
        lambda: tf.BartForSequenceClassification(tf.BartConfig(**BART)), "sentences", (5,) * 6, "out_proj"
    ),
    "vit": image(lambda: tf.ViTForImageClassification(tf.ViTConfig(**IMAGE, intermediate_size=13))),
    "dinov2": image(lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**IMAGE, mlp_ratio=1))),
    "clip": image(clip, "out_proj"),
    "swin": image(
        lambda: tf.SwinForImageClassification(
            tf.SwinConfig(
                image_size=12, patch_size=1, embed_dim=14, depths=[2, 2], num_heads=[2, 4], window_size=3, num_labels=3
            )
        ),
        heads=(2, 2, 4, 4),
    ),
    "llava": Architecture(llava, "both", (5, 5, 6, 6), "o_proj"),
}  # fmt: skip


def make(name, dtype=torch.float32, seed=0):
    """A model with weights large enough for attention to be far from uniform and every head to matter."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name].build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.add_(0.1 * noise)
    return model.to(dtype)


def padding_mask(lengths=LENGTHS, tokens=TOKENS, side="right"):
    place = torch.arange(tokens) if side == "right" else torch.arange(tokens - 1, -1, -1)
    return (place < torch.tensor(lengths)[:, None]).long()


def make_batch(name, side="right", dtype=torch.float32, seed=1):
    """BATCH examples of different length with labels, as the architecture reads them."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    reads = ARCHITECTURES[name].reads
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
    path = ARCHITECTURES[name].output
    if path.startswith("^"):
        site, path = site.rpartition(".")[0], path[2:]
    if name == "llava" and "vision" in site:
        path = "out_proj"
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

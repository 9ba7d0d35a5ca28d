"""Architectures as tiny models with random weights: how each is built, what it reads, and the heads it has.

Sizes are primes wherever an architecture allows it, so that a swapped axis cannot pass unnoticed. `ARCHITECTURES` are
those that all tests run; `text_models.py` and `multimodal_models.py` add those of the architecture matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as tf
from torch import nn

WORDS, CLASSES = 53, 3

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
    projection of a site is: a path relative to the site, `^` for its parent; several by a part of the site's name."""

    build: Callable[[], nn.Module]
    reads: str | Callable[[torch.Generator], dict]
    heads: tuple[int, ...]
    output: str | dict[str, str]
    spread: float = 0.3  # of the random weights
    groups: bool = False  # query heads of a key head go together


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
    "llava": Architecture(llava, "both", (5, 5, 6, 6), {"vision": "out_proj", "": "o_proj"}),
}  # fmt: skip

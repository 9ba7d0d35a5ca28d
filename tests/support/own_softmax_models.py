"""Families whose attention modules compute a softmax of their own, not through transformers' attention interface."""

import torch
from architectures import ENCODER, WORDS, Architecture
from multimodal_models import VISION, listener, numbers, other
from text_models import BARE, built, classifier, language

DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 6}
MPT = {"vocab_size": WORDS, "d_model": 48, "n_heads": 6, "n_layers": 2, "max_seq_len": 40}
OWN_SOFTMAX = {
    "big_bird": classifier("BigBird", attention_type="original_full"),
    "big_bird_sparse": Architecture(
        built("BigBirdForSequenceClassification", "BigBird", {**ENCODER, "block_size": 2, "num_random_blocks": 1}),
        lambda generator: {"input_ids": torch.randint(3, 48, (2, 28), generator=generator)}, (5, 5), "^.output.dense",
    ),
    "bloom": language("Bloom", "dense", hidden_size=48, n_layer=2, n_head=6),
    "deberta": classifier("Deberta", **DEBERTA),
    "deberta-v2": classifier("DebertaV2", **DEBERTA),
    "deberta-v3": classifier(
        "DebertaV2", **DEBERTA, share_att_key=True, position_buckets=4, norm_rel_ebd="layer_norm",
        position_biased_input=False,
    ),
    "falcon": language("Falcon", "dense"),
    "falcon_alibi": language("Falcon", "dense", alibi=True, multi_query=False),
    "falcon_grouped": language("Falcon", "dense", new_decoder_architecture=True, num_kv_heads=2),
    "gpt_neo": language("GPTNeo", "out_proj", attention_types=[[["global", "local"], 1]], window_size=4, num_heads=6,
                        hidden_size=48, num_layers=2),
    "gptj": language("GPTJ", "out_proj", **{**BARE, "rotary_dim": 4}),
    "longformer": classifier("Longformer", attention_window=[4, 4]),
    "mpnet": classifier("MPNet", "o"),
    "mpt": language("Mpt", "out_proj", **MPT),
    "wavlm": listener("WavLM", num_buckets=8, max_bucket_distance=16),
    "xlnet": Architecture(
        built("XLNetForSequenceClassification", "XLNet", {**BARE, "d_model": 48, "d_inner": 13, "num_labels": 3}),
        "classes", (6, 6), "o",
    ),
    "blip": other(
        "BlipVisionModel", "BlipVision", numbers("pixel_values", 3, 12, 12), (5, 5), "projection", **VISION
    ),
}  # fmt: skip

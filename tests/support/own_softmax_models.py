"""Families whose attention modules compute a softmax of their own, not through transformers' attention interface."""

from dataclasses import replace

from architectures import CLASSES, WORDS
from multimodal_models import VISION, numbers, other
from text_models import BARE, classifier, language

DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 6}
MPT = {"vocab_size": WORDS, "d_model": 48, "n_heads": 6, "n_layers": 2, "max_seq_len": 40}
OWN_SOFTMAX = {
    "big_bird": classifier("BigBird", attention_type="original_full"),
    "bloom": language("Bloom", "dense", hidden_size=48, n_layer=2, n_head=6),
    "deberta": classifier("Deberta", **DEBERTA),
    "deberta-v2": classifier("DebertaV2", **DEBERTA),
    "deberta-v3": classifier(
        "DebertaV2", **DEBERTA, share_att_key=True, position_buckets=4, norm_rel_ebd="layer_norm",
        position_biased_input=False,
    ),
    "falcon": language("Falcon", "dense"),
    "falcon_alibi": language("Falcon", "dense", alibi=True, multi_query=False),
    "falcon_grouped": replace(
        language("Falcon", "dense", new_decoder_architecture=True, num_kv_heads=2), groups=True
    ),
    "gpt_neo": language("GPTNeo", "out_proj", attention_types=[[["global", "local"], 1]], window_size=4, num_heads=6,
                        hidden_size=48, num_layers=2),
    "gptj": language("GPTJ", "out_proj", **{**BARE, "rotary_dim": 4}),
    "mpnet": classifier("MPNet", "o"),
    "mpt": language("Mpt", "out_proj", **MPT),
    "blip": other(
        "BlipVisionModel", "BlipVision", numbers("pixel_values", 3, 12, 12), (5, 5), "projection", **VISION
    ),
    "cpmant": language(
        "CpmAnt", "attention_out", hidden_size=48, num_attention_heads=6, dim_head=7, dim_ff=13, num_hidden_layers=2,
        prompt_length=3, prompt_types=3, segment_types=4, position_bias_num_buckets=8, position_bias_max_distance=16,
    ),
    "cvt": other(
        "CvtForImageClassification", "Cvt", numbers("pixel_values", 3, 12, 12), (2, 4, 4), "^.output.dense",
        embed_dim=[12, 24], num_heads=[2, 4], depth=[1, 2], cls_token=[False, True], patch_sizes=[3, 3],
        patch_stride=[2, 2], mlp_ratio=[1.0, 1.0], drop_rate=[0.0, 0.0], num_labels=CLASSES,
    ),
    "glpn": other(
        "GLPNModel", "GLPN", numbers("pixel_values", 3, 12, 12), (2, 4), "^.output.dense", num_encoder_blocks=2,
        depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[12, 24], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[2, 4], mlp_ratios=[1, 1],
    ),
    "layoutlmv3": classifier(
        "LayoutLMv3", hidden_size=30, visual_embed=False, has_relative_attention_bias=True, coordinate_size=5,
        has_spatial_attention_bias=True, rel_pos_bins=8, max_rel_pos=16, shape_size=5, max_2d_position_embeddings=60,
    ),
    "luke": classifier("Luke", entity_vocab_size=7, entity_emb_size=5),
    "sam_vision": other(
        "SamVisionModel", "SamVision", numbers("pixel_values", 3, 16, 16), (2, 2), "proj", hidden_size=16,
        num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4, output_channels=7, mlp_dim=13,
        global_attn_indexes=[0], window_size=3, num_pos_feats=8,
    ),
    "swinv2": other(
        "Swinv2ForImageClassification", "Swinv2", numbers("pixel_values", 3, 12, 12), (2, 4), "^.output.dense",
        image_size=12, patch_size=1, embed_dim=14, depths=[1, 1], num_heads=[2, 4], window_size=3, num_labels=CLASSES,
    ),
}  # fmt: skip

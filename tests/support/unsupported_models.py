"""Families that cannot be pruned; see `architectures.py`."""

from architectures import CLASSES, ENCODER, GROUPED, WORDS
from multimodal_models import BATCH, PICTURE, VISION, listener, numbers, other, pictured, two_towers
from text_models import LATENT, WINDOW, experts, language

QUERIES = {**ENCODER, "encoder_hidden_size": 35, "cross_attention_frequency": 2}
UNPRUNABLE = {
    "bitnet": language("BitNet"),
    "blip-2": other(
        "Blip2ForConditionalGeneration", "Blip2", pictured(3, BATCH, 3, 12, 12), (5, 5, 5, 5, 5, 6, 6),
        vision_config=VISION, qformer_config=QUERIES, text_config={**GROUPED, "model_type": "llama"},
        num_query_tokens=3, image_token_id=PICTURE,
    ),
    "deepseek_v4": experts(
        "DeepseekV4", head_dim=8, q_lora_rank=13, o_groups=2, o_lora_rank=8, qk_rope_head_dim=4, index_n_heads=2,
        index_head_dim=8, index_topk=5,
    ),
    "diffllama": language("DiffLlama"),
    "doge": language("Doge"),
    "dots3_note": experts("Dots3Note", config="Dots3NoteText", **LATENT),
    "gemma3n_sharing": language(
        "Gemma3n", config="Gemma3nText", heads=(6, 6, 6), num_hidden_layers=3, num_kv_shared_layers=1,
        layer_types=["full_attention"] * 3, hidden_size_per_layer_input=8, vocab_size_per_layer_input=WORDS,
        laurel_rank=4, altup_num_inputs=2, activation_sparsity_pattern=None, **WINDOW,
    ),
    "gemma4_sharing": language(
        "Gemma4", config="Gemma4Text", heads=(6,) * 5, num_hidden_layers=5, num_kv_shared_layers=1, global_head_dim=8,
        attention_k_eq_v=True, num_global_key_value_heads=2, hidden_size_per_layer_input=8,
        layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"],
        vocab_size_per_layer_input=WORDS, **WINDOW,
    ),
    "internvl_norms": two_towers(
        "InternVL", pictured(4, BATCH, 3, 12, 12), text={"model_type": "qwen2"}, image_token_id=PICTURE,
        vision={**VISION, "image_size": [12, 12], "patch_size": [3, 3], "use_qk_norm": True}, seen="projection_layer",
        image_seq_length=4,
    ),
    "jetmoe": language("JetMoe", heads=(4, 4), kv_channels=8, num_local_experts=2),
    "segformer": other(
        "SegformerForImageClassification", "Segformer", numbers("pixel_values", 3, 12, 12), (2, 4), "o_proj",
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[12, 24], patch_sizes=[3, 3],
        strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[1, 1], num_labels=CLASSES,
    ),
    "vjepa2_classifier": other(
        "VJEPA2ForVideoClassification", "VJEPA2", numbers("pixel_values_videos", 4, 3, 12, 12), (5, 5, 5),
        patch_size=4, crop_size=12, frames_per_clip=4, tubelet_size=2, hidden_size=30, num_attention_heads=5,
        num_hidden_layers=1, mlp_ratio=1.0, pred_hidden_size=30, pred_num_attention_heads=5,
        pred_num_hidden_layers=0, num_pooler_layers=1,
    ),
    "wav2vec2-conformer_rotary": listener(
        "Wav2Vec2Conformer", "linear_out", hidden_size=40, position_embeddings_type="rotary"
    ),
    "zamba": language(
        "Zamba", num_key_value_heads=6, num_hidden_layers=4, attention_head_dim=16, attention_hidden_size=96,
        layers_block_type=["linear_attention", "hybrid"] * 2, n_mamba_heads=2, use_mamba_kernels=False,
        mamba_d_state=8, mamba_dt_rank=4,
    ),
    "zamba2": language(
        "Zamba2", num_key_value_heads=6, num_hidden_layers=4, attention_head_dim=16, num_mem_blocks=1,
        layers_block_type=["mamba", "hybrid"] * 2, n_mamba_heads=8, mamba_headdim=12, mamba_ngroups=1,
        use_mamba_kernels=False, mamba_d_state=8, adapter_rank=4,
    ),
}  # fmt: skip
# How many sites of these can be cut nevertheless; of the others none.
PARTLY = {
    **{"blip-2": 5, "gemma3n_sharing": 1, "gemma4_sharing": 1, "internvl_norms": 2, "segformer": 1},
    "vjepa2_classifier": 2,
}

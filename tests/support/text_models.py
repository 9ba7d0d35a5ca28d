"""Further families of text models for the architecture matrix, one entry each; see `architectures.py`."""

from dataclasses import replace

import transformers as tf
from architectures import BART, DECODER, ENCODER, GROUPED, T5, WORDS, Architecture

BARE = {"vocab_size": WORDS, "n_embd": 48, "n_layer": 2, "n_head": 6}
EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "moe_num_experts", "n_routed_experts"), 3),
    "num_experts_per_tok": 2,
    "intermediate_size": 16,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "experts_implementation": "eager",
}
LATENT = {
    "num_key_value_heads": 6,
    "q_lora_rank": 13,
    "kv_lora_rank": 17,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
}
SPARSE = {**LATENT, "index_n_heads": 8, "index_head_dim": 8, "index_topk": 5}
WINDOW = {"head_dim": 8, "sliding_window": 4}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 24, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_dt_rank": 4}
SEQUENCES = {**BART, "pad_token_id": 0, "decoder_start_token_id": 1}


def built(model, config, options):
    """What builds the model; its modules are imported then, not when this table is read."""
    return lambda: getattr(tf, model)(getattr(tf, config + "Config")(**options))


def language(stem, output="o_proj", heads=(6, 6), model="ForCausalLM", config=None, **changes):
    return Architecture(built(stem + model, config or stem, {**GROUPED, **changes}), "language", heads, output)


def experts(stem, **changes):
    return language(stem, **{**EXPERTS, **changes})


def classifier(stem, output="^.output.dense", model="ForSequenceClassification", heads=(5, 5), **changes):
    return Architecture(built(stem + model, stem, {**ENCODER, **changes}), "classes", heads, output)


def sequences(stem, output="out_proj", heads=(5,) * 6, sizes=SEQUENCES, reads="sequences", **changes):
    return Architecture(built(stem + "ForConditionalGeneration", stem, {**sizes, **changes}), reads, heads, output)


def gentle(architecture):
    """The same with smaller weights, where rounding to float32 would grow from layer to layer."""
    return replace(architecture, spread=0.2)


FAMILIES = {
    # --- decoders ---
    "afmoe": experts("Afmoe", **WINDOW),
    "apertus": language("Apertus"),
    "arcee": language("Arcee"),
    "aria_text": experts("AriaText"),
    "axk1": experts("AXK1", **LATENT),
    "bamba": language("Bamba", heads=(6,), attn_layer_indices=[1], **MAMBA),
    "beam": experts("Beam", head_dim=8),
    "biogpt": language("BioGpt", "out_proj"),
    "cohere": language("Cohere", use_qk_norm=True, logit_scale=1.0),
    "cohere2": language("Cohere2", logit_scale=1.0, **WINDOW),
    "cohere2_moe": experts("Cohere2Moe", logit_scale=1.0, **WINDOW),
    "ctrl": Architecture(
        built("CTRLLMHeadModel", "CTRL", {**BARE, "n_positions": 40, "dff": 13}), "language", (6, 6), "dense"
    ),
    "cwm": language("Cwm", **WINDOW),
    "dbrx": language(
        "Dbrx", "out_proj", d_model=48, n_heads=6, n_layers=2, max_seq_len=40,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 3, "moe_top_k": 2, "hidden_size": 48},
    ),
    "deepseek_v2": experts("DeepseekV2", **{**LATENT, "kv_lora_rank": 18, "qk_nope_head_dim": 6}, head_dim=4),
    "deepseek_v3": experts("DeepseekV3", **LATENT),
    "deepseek_v32": experts("DeepseekV32", **SPARSE),
    "emu3": language("Emu3", config="Emu3Text"),
    "ernie4_5": language("Ernie4_5"),
    "ernie4_5_moe": experts("Ernie4_5_Moe", moe_k=2),
    "exaone4": language("Exaone4", **WINDOW),
    "exaone_moe": experts("ExaoneMoe", mlp_layer_types=["dense", "sparse"], **WINDOW),
    "falcon_h1": language("FalconH1", head_dim=8, **MAMBA, mamba_d_ssm=96),
    "flex_olmo": experts("FlexOlmo"),
    "flint": language("Flint", **WINDOW),
    "gemma": language("Gemma", head_dim=8),
    "gemma3n": language(
        "Gemma3n", config="Gemma3nText", num_kv_shared_layers=0, layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=WORDS, laurel_rank=4, altup_num_inputs=2,
        activation_sparsity_pattern=None, **WINDOW,
    ),
    "gemma4": language(
        "Gemma4", config="Gemma4Text", global_head_dim=8, num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=WORDS, **WINDOW,
    ),
    "glm": language("Glm", head_dim=8),
    "glm4": language("Glm4", head_dim=8),
    "glm4_moe": experts("Glm4Moe", head_dim=8, use_qk_norm=True),
    "glm4_moe_lite": experts("Glm4MoeLite", **LATENT),
    "glm_moe_dsa": experts("GlmMoeDsa", **SPARSE),
    "gpt_bigcode": language("GPTBigCode", "c_proj", n_positions=40, n_inner=16, **BARE),
    "gpt_bigcode_heads": language(
        "GPTBigCode", "c_proj", multi_query=False, n_positions=40, n_inner=16, **BARE
    ),
    "gpt_oss": experts("GptOss", **WINDOW),
    "granite": language("Granite"),
    "granite_swa": language("GraniteSWA", **WINDOW),
    "granitemoe": experts("GraniteMoe"),
    "granitemoehybrid": experts("GraniteMoeHybrid", heads=(6,), layer_types=["mamba", "attention"], **MAMBA),
    "granitemoeshared": experts("GraniteMoeShared"),
    "helium": language("Helium", head_dim=8),
    "hrm_text": language("HrmText", heads=(6,) * 4, head_dim=8, H_cycles=2, L_cycles=2, L_bp_cycles=[2, 2]),
    "hunyuan_v1_dense": language("HunYuanDenseV1", head_dim=8),
    "hunyuan_v1_moe": experts("HunYuanMoEV1", moe_topk=2, head_dim=8),
    "hy_v3": experts("HYV3", head_dim=8),
    "hyperclovax": language("HyperCLOVAX"),
    "jais2": language("Jais2"),
    "jamba": experts(
        "Jamba", heads=(6,), attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, **MAMBA
    ),
    "kimi_linear": experts(
        "KimiLinear", heads=(6,), layer_types=["linear_attention", "full_attention"], linear_head_dim=8,
        linear_num_heads=2, mlp_layer_types=["dense", "sparse"], num_experts_per_token=2, **LATENT,
    ),
    "laguna": experts("Laguna", **WINDOW),
    "lfm2": language("Lfm2", "out_proj", heads=(6,), layer_types=["conv", "full_attention"]),
    "lfm2_moe": experts(
        "Lfm2Moe", output="out_proj", heads=(6,), layer_types=["conv", "full_attention"], num_dense_layers=1
    ),
    "lfm3": language("Lfm3", heads=(6,), head_dim=8, layer_types=["conv", "full_attention"]),
    "llama4": experts("Llama4", config="Llama4Text", head_dim=8, intermediate_size_mlp=16),
    "longcat_flash": experts(
        "LongcatFlash", heads=(6,) * 2, num_layers=2, ffn_hidden_size=16, expert_ffn_hidden_size=16, zero_expert_num=1,
        moe_topk=2, head_dim=4, **LATENT,
    ),
    "mellum": experts("Mellum", **WINDOW),
    "mimo_v2_flash": experts(
        "MiMoV2Flash", head_dim=12, v_head_dim=7, layer_types=["full_attention"] * 2,
        mlp_layer_types=["dense", "sparse"],
    ),
    "minicpm3": language("MiniCPM3", dim_model_base=48, **LATENT),
    "minimax": experts("MiniMax", heads=(6,), head_dim=8, layer_types=["linear_attention", "full_attention"]),
    "minimax_m2": experts("MiniMaxM2", head_dim=8),
    "ministral": language("Ministral", **WINDOW),
    "ministral3": language("Ministral3", head_dim=8),
    "mixtral": experts("Mixtral"),
    "modernbert-decoder": language("ModernBertDecoder", "Wo", num_key_value_heads=6),
    "nanochat": language("NanoChat"),
    "nemotron": language("Nemotron", head_dim=8),
    "nemotron_h": experts(
        "NemotronH", heads=(6,), head_dim=8, layers_block_type=["mamba", "attention"], mamba_num_heads=4,
        mamba_head_dim=24, n_groups=1, ssm_state_size=8,
    ),
    "olmo": language("Olmo", clip_qkv=2.0),
    "olmo2": language("Olmo2"),
    "olmo3": language("Olmo3", **WINDOW),
    "olmo_hybrid": language("OlmoHybrid", heads=(6,), **HYBRID),
    "olmoe": experts("Olmoe"),
    "persimmon": language("Persimmon", "dense"),
    "phi": language("Phi", "dense", qk_layernorm=True),
    "phi3": language("Phi3"),
    "phimoe": experts("Phimoe"),
    "pythia": language("GPTNeoX", "dense", rotary_pct=0.25, use_parallel_residual=True),
    "qwen2": language("Qwen2"),
    "qwen2_moe": experts("Qwen2Moe"),
    "qwen3_5": language("Qwen3_5", config="Qwen3_5Text", heads=(6,), head_dim=8, **HYBRID),
    "qwen3_moe": experts("Qwen3Moe", head_dim=8),
    "qwen3_next": experts("Qwen3Next", heads=(6,), head_dim=8, **HYBRID),
    "recurrent_gemma": language(
        "RecurrentGemma", heads=(6,), num_hidden_layers=2, head_dim=8, lru_width=48, attention_window_size=4,
        block_types=["recurrent", "attention"],
    ),
    "seed_oss": language("SeedOss", head_dim=8),
    "smollm3": language("SmolLM3", no_rope_layers=[1, 0]),
    "solar_open": experts("SolarOpen", head_dim=8),
    "stablelm": language("StableLm", qk_layernorm=True),
    "starcoder2": language("Starcoder2", sliding_window=4),
    "vaultgemma": language("VaultGemma", **WINDOW),
    "youtu": language("Youtu", tie_word_embeddings=False, **LATENT),
    # --- encoders ---
    "bert-generation": Architecture(
        built("BertGenerationDecoder", "BertGeneration", {**ENCODER, "is_decoder": True}), "language", (5, 5),
        "^.output.dense",
    ),
    "camembert": classifier("Camembert"),
    "data2vec-text": classifier("Data2VecText"),
    "ernie": classifier("Ernie"),
    "esm": classifier("Esm"),
    "eurobert": classifier("EuroBert", "o_proj", heads=(6, 6), **DECODER),
    "gte": classifier("Gte", "o_proj", heads=(6, 6), hidden_size=48, num_attention_heads=6),
    "jina_embeddings_v3": classifier("JinaEmbeddingsV3", "o_proj", heads=(6, 6), hidden_size=48, num_attention_heads=6),
    "layoutlm": classifier("LayoutLM"),
    "markuplm": classifier("MarkupLM", max_depth=3),
    "mobilebert": classifier(
        "MobileBert", normalization_type="layer_norm", embedding_size=13, intra_bottleneck_size=35, true_hidden_size=35
    ),
    "nomic_bert": classifier("NomicBert", "o_proj", heads=(6, 6), hidden_size=48, num_attention_heads=6),
    "roberta-prelayernorm": classifier("RobertaPreLayerNorm"),
    "roc_bert": classifier("RoCBert", pronunciation_vocab_size=WORDS, shape_vocab_size=WORDS),
    "splinter": classifier("Splinter", model="Model"),
    "xlm-roberta": classifier("XLMRoberta"),
    "xlm-roberta-xl": classifier("XLMRobertaXL"),
    "xmod": classifier("Xmod", languages=["en_XX"], default_language="en_XX"),
    # --- encoders and decoders of text ---
    "bigbird_pegasus": sequences(
        "BigBirdPegasus", {"attn.self": "^.output", "": "out_proj"}, attention_type="original_full"
    ),
    "blenderbot": sequences("Blenderbot"),
    "blenderbot-small": sequences("BlenderbotSmall"),
    "longt5": sequences("LongT5", "o", sizes=T5, decoder_start_token_id=0, local_radius=3),
    "m2m_100": sequences("M2M100"),
    "marian": Architecture(built("MarianMTModel", "Marian", SEQUENCES), "sequences", (5,) * 6, "out_proj"),
    "mbart": sequences("MBart"),
    "mt5": sequences("MT5", "o", sizes=T5, decoder_start_token_id=0),
    "nllb-moe": sequences("NllbMoe"),
    "pegasus": sequences("Pegasus"),
    "pegasus_x": sequences("PegasusX", d_model=40, num_global_tokens=3, block_size=4, stagger_local_blocks=False),
    "plbart": gentle(sequences("PLBart")),
    "pop2piano": sequences("Pop2Piano", "o", sizes=T5, decoder_start_token_id=0),
    "switch_transformers": sequences("SwitchTransformers", "o", sizes=T5, decoder_start_token_id=0, num_experts=3,
        num_decoder_layers=2, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
    "t5gemma": Architecture(
        built(
            "T5GemmaForConditionalGeneration", "T5Gemma",
            {**dict.fromkeys(("encoder", "decoder"), GROUPED | WINDOW), "vocab_size": WORDS, "pad_token_id": 0},
        ),
        "sequences", (6,) * 6, "o_proj",
    ),
    "umt5": sequences("UMT5", "o", sizes=T5, decoder_start_token_id=0),
}  # fmt: skip

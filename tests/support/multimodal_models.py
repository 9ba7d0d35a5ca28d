"""Further families that see, hear, or read series of numbers, and what they are fed; see `architectures.py`.

An entry reads either a kind of batch that `tiny_models.make_batch` knows, or what a function of a generator returns.
"""

import torch
from architectures import CLASSES, ENCODER, GROUPED, IMAGE, T5, TEXT, WORDS, Architecture
from text_models import BARE, SEQUENCES, built, gentle, language, sequences

BATCH, TOKENS = 3, 11
LENGTHS = (11, 7, 4)
PICTURE = WORDS - 1  # the token that stands for a part of a picture
VISION = {**IMAGE, "intermediate_size": 13}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
SOUND = {
    "hidden_size": 35,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 13,
    "conv_dim": [7, 7],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 5,
    "feature_projection_input_dim": 11,
    "conv_depthwise_kernel_size": 3,
    "num_labels": CLASSES,
    "classifier_proj_size": 7,
}
SPEECH = {
    **{name: size for name, size in SEQUENCES.items() if name != "max_position_embeddings"},
    "d_model": 40,
    "max_target_positions": 40,
}
SEAMLESS = {
    **{**SPEECH, **SOUND, "hidden_size": 40, "encoder_layers": 1, "max_position_embeddings": 40},
    "speech_encoder_layers": 2,
    "speech_encoder_attention_heads": 5,
    "speech_encoder_intermediate_size": 13,
    "adaptor_kernel_size": 3,
    "adaptor_stride": 2,
}
SEAMLESS_OUT = {"speech": "linear_out", "": "out_proj"}
PACKED = {"depth": 2, "num_heads": 5, "patch_size": 3, "spatial_merge_size": 2, "temporal_patch_size": 1}
ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
SIGNS = {"image_token_id": PICTURE, "video_token_id": 51, "vision_start_token_id": 50, "vision_end_token_id": 49}


# --- what they read ---------------------------------------------------------------------------------------------------


def padded(lengths=LENGTHS):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def words(generator, count=BATCH):
    mask = padded()[:count]
    return {"input_ids": torch.randint(3, 48, (count, TOKENS), generator=generator) * mask, "attention_mask": mask}


def numbers(name, *shape):
    """One input of random numbers, [BATCH, *shape]."""
    return lambda generator: {name: torch.randn(BATCH, *shape, generator=generator)}


def sound(generator):
    mask = padded((311, 211, 131))
    return {"input_values": torch.randn(BATCH, 311, generator=generator) * mask, "attention_mask": mask}


def frames(generator, count=TOKENS, lengths=LENGTHS, width=11):
    features = torch.randn(BATCH, count, width, generator=generator)
    return {"input_features": features, "attention_mask": padded(lengths)}


def and_words(reads):
    """What is heard or seen, and the words that a decoder has written of it."""

    def both(generator):
        written = words(generator)
        inputs = {"decoder_input_ids": written["input_ids"], "decoder_attention_mask": written["attention_mask"]}
        return {**reads(generator), **inputs}

    return both


def pictured(tokens, *shape, count=BATCH, **others):
    """Text after `tokens` tokens of a picture of the given shape; `others` are further inputs."""

    def both(generator):
        text, picture = words(generator, count), torch.full((count, tokens), PICTURE)
        return {
            "input_ids": torch.cat([picture, text["input_ids"]], 1),
            "attention_mask": torch.cat([torch.ones_like(picture), text["attention_mask"]], 1),
            "pixel_values": torch.randn(*shape, generator=generator),
            **{name: torch.as_tensor(value) for name, value in others.items()},
        }

    return both


def patches(generator):
    """Nine patches of a picture, each after its row and column."""
    place = torch.arange(1.0, 10)[:, None].expand(BATCH, 9, 2)
    return {"flattened_patches": torch.cat([place, torch.randn(BATCH, 9, 48, generator=generator)], 2)}


def boxed(generator):
    return {**and_words(words)(generator), "bbox": torch.rand(BATCH, TOKENS, 4, generator=generator)}


def tiled(generator):
    ones = torch.ones(BATCH, 1, dtype=torch.long)
    return {
        **words(generator),
        "pixel_values": torch.randn(BATCH, 1, 1, 3, 12, 12, generator=generator),
        "aspect_ratio_ids": ones,
        "aspect_ratio_mask": ones[..., None],
        "cross_attention_mask": torch.ones(BATCH, TOKENS, 1, 1, dtype=torch.long),
    }


def pairs(generator):
    return {**words(generator), "pixel_values": torch.randn(BATCH, 3, 12, 12, generator=generator)}


def crossed(generator):
    return {**words(generator), "encoder_hidden_states": torch.randn(BATCH, 5, 48, generator=generator)}


PACKED_PICTURE = pictured(
    4, 16, 27, count=1, image_grid_thw=[[1, 4, 4]], mm_token_type_ids=[[1] * 4 + [0] * TOKENS]
)  # rows of a picture carry no example: one example at a time


# --- how they are built -----------------------------------------------------------------------------------------------


def tower(stem, output="o_proj", model="ForImageClassification", config=None, heads=(5, 5), reads="image", **changes):
    return Architecture(built(stem + model, config or stem, {**VISION, **changes}), reads, heads, output)


def listener(stem, output="out_proj", heads=(5, 5), model="ForSequenceClassification", reads=sound, **changes):
    return Architecture(built(stem + model, stem, {**SOUND, **changes}), reads, heads, output)


def detector(stem):
    backbone = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic",
        "out_features": ["stage2"],
    }  # fmt: skip
    sizes = {**SPEECH, "use_timm_backbone": False, "use_pretrained_backbone": False, "num_queries": 3}
    reads = numbers("pixel_values", 3, 32, 32)
    return other(stem + "ForObjectDetection", stem, reads, (5,) * 6, "o_proj", **sizes, backbone_config=backbone)


def two_towers(stem, reads, heads=(5, 5, 6, 6), vision=VISION, text=None, seen="out_proj", **options):
    """A model of pictures and text; seen: the output projection in the vision tower."""
    output = {"vis": seen, "": "o_proj"}
    parts = {"vision_config": vision, "text_config": {**GROUPED, **(text or {})}}
    return Architecture(built(stem + "ForConditionalGeneration", stem, {**parts, **options}), reads, heads, output)


def other(model, config, reads, heads, output="out_proj", **options):
    return Architecture(built(model, config, options), reads, heads, output)


SENSES = {
    # --- images ---
    "aimv2": tower("Aimv2Vision", {"head": "output_proj", "": "out_proj"}, "Model", heads=(5, 5, 5)),
    "beit": tower("Beit", use_relative_position_bias=True),
    "beit_shared": tower("Beit", use_shared_relative_position_bias=True),
    "deit": tower("DeiT"),
    "conditional_detr": detector("ConditionalDetr"),
    "detr": detector("Detr"),
    "dinov2_with_registers": tower("Dinov2WithRegisters", num_register_tokens=3),
    "dinov3_vit": tower("DINOv3ViT", model="Model", heads=(3, 3), hidden_size=36, num_attention_heads=3),
    "dpt": tower("DPT", "^.output.dense", "Model"),
    "eomt": other(
        "EomtForUniversalSegmentation", "Eomt", numbers("pixel_values", 3, 12, 12), (5, 5), hidden_size=35,
        num_hidden_layers=2, num_attention_heads=5, mlp_ratio=1, image_size=12, patch_size=4, num_blocks=1,
        num_upscale_blocks=1, num_queries=7, num_labels=CLASSES, num_register_tokens=1,
    ),
    "idefics3_vision": tower("Idefics3Vision", "out_proj", "Transformer"),
    "ijepa": tower("IJepa"),
    "metaclip_2": tower("MetaClip2Vision", "out_proj", "Model"),
    "mlcd": tower("MLCDVision", "out_proj", "Model", hidden_size=40),
    "pixio": tower("Pixio", model="Model"),
    "radio": tower("Radio", model="Model"),
    "sam": other(
        "SamModel", "Sam",
        lambda generator: {
            "image_embeddings": torch.randn(BATCH, 32, 4, 4, generator=generator),
            "input_points": torch.randn(BATCH, 1, 2, 2, generator=generator),
        },
        (4,) * 7,
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
            "output_channels": 32, "mlp_dim": 13, "global_attn_indexes": [0], "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 16, "patch_size": 4, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 13, "num_attention_heads": 4, "num_hidden_layers": 2,
            "iou_head_hidden_dim": 16,
        },
    ),
    "siglip": tower("SiglipVision", "out_proj", "Model", heads=(5, 5, 5)),
    "vit_msn": tower("ViTMSN"),
    "yolos": tower("Yolos", "^.output.dense", "Model", image_size=[12, 12], num_detection_tokens=3),
    # --- videos ---
    "videomae": tower(
        "VideoMAE", "^.output.dense", "ForVideoClassification", reads=numbers("pixel_values", 4, 3, 12, 12),
        num_frames=4, tubelet_size=2,
    ),
    "vivit": tower(
        "Vivit", model="ForVideoClassification", reads=numbers("pixel_values", 4, 3, 12, 12), num_frames=4,
        tubelet_size=[2, 4, 4],
    ),
    "vjepa2": other(
        "VJEPA2Model", "VJEPA2", numbers("pixel_values_videos", 4, 3, 12, 12), (5, 5), "proj", patch_size=4,
        crop_size=12, frames_per_clip=4, tubelet_size=2, hidden_size=30, num_attention_heads=5, num_hidden_layers=2,
        mlp_ratio=1.0, pred_hidden_size=30, pred_num_attention_heads=5, pred_num_hidden_layers=0,
    ),
    # --- sound ---
    "audio-spectrogram-transformer": other(
        "ASTForAudioClassification", "AST", numbers("input_values", 12, 11), (5, 5), "o_proj", hidden_size=35,
        num_hidden_layers=2, num_attention_heads=5, intermediate_size=13, patch_size=4, frequency_stride=4,
        time_stride=4, max_length=12, num_mel_bins=11, num_labels=CLASSES,
    ),
    "data2vec-audio": listener("Data2VecAudio"),
    "granite_speech5": other(
        "GraniteSpeech5ForCTC", "GraniteSpeech5CTC",
        lambda generator: frames(generator, lengths=(11, 10, 9), width=44),  # in blocks of four
        (5, 5), "o_proj", vocab_size=WORDS, pad_token_id=0,
        encoder_config={
            "vocab_size": WORDS, "hidden_size": 35, "intermediate_size": 13, "num_hidden_layers": 2, "head_dim": 7,
            "num_attention_heads": 5, "num_key_value_heads": 5, "num_mel_bins": 11, "max_position_embeddings": 40,
            "context_size": 4, "conv_kernel_size": 3, "subsample_layers": [],
        },
    ),
    "hubert": listener("Hubert"),
    "moonshine": sequences(
        "Moonshine", "o_proj", sizes=GROUPED, reads=and_words(numbers("input_values", 3000)), hidden_size=40,
        **{f"{part}_num_hidden_layers": 2 for part in ("encoder", "decoder")},
        **{f"{part}_num_{kind}_heads": 5 for part in ("encoder", "decoder") for kind in ("attention", "key_value")},
    ),
    "parakeet": other(
        "ParakeetForCTC", "ParakeetCTC", lambda generator: frames(generator, 22, (22, 14, 9)), (5, 5), "o_proj",
        vocab_size=WORDS, pad_token_id=0,
        encoder_config={
            "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 13,
            "conv_kernel_size": 3, "subsampling_factor": 2, "subsampling_conv_channels": 7, "num_mel_bins": 12,
            "max_position_embeddings": 40,
        },
    ),
    "seamless_m4t": other(
        "SeamlessM4TForSpeechToText", "SeamlessM4T", and_words(frames), (5,) * 7, SEAMLESS_OUT, **SEAMLESS
    ),
    "seamless_m4t_v2": other(
        "SeamlessM4Tv2ForSpeechToText", "SeamlessM4Tv2", and_words(frames), (5,) * 7, SEAMLESS_OUT, **SEAMLESS
    ),
    "sew": listener("SEW", squeeze_factor=2),
    "speech_to_text": sequences(
        "Speech2Text", sizes=SPEECH, reads=and_words(frames), conv_channels=14, input_feat_per_channel=11,
        max_source_positions=40, num_conv_layers=1, conv_kernel_sizes=[3],
    ),
    "unispeech": listener("UniSpeech"),
    "unispeech-sat": listener("UniSpeechSat"),
    "wav2vec2": listener("Wav2Vec2"),
    "wav2vec2-bert": listener("Wav2Vec2Bert", "linear_out", reads=frames),
    "wav2vec2-conformer": listener("Wav2Vec2Conformer", "linear_out", hidden_size=40),
    "whisper": sequences(
        "Whisper", sizes=SPEECH, reads=and_words(numbers("input_features", 11, 26)), num_mel_bins=11,
        max_source_positions=13,
    ),
    # --- images and text ---
    "aya_vision": two_towers(
        "AyaVision", pictured(4, BATCH, 3, 16, 16), vision={**SIGLIP, "image_size": 16},
        text={"model_type": "cohere2", "sliding_window": 4, "logit_scale": 1.0}, image_token_index=PICTURE,
        downsample_factor=2, vision_feature_layer=-1,
    ),
    "chameleon": language(
        "Chameleon", model="Model", vocabulary_map={"<image>": 4, "IMGIMGAZ": 10},
        vq_config={"embed_dim": 8, "num_embeddings": 11, "resolution": 8, "latent_channels": 8, "base_channels": 32,
                   "channel_multiplier": [1], "num_res_blocks": 1},
    ),
    "clip_pair": other(
        "CLIPModel", "CLIP", pairs, (5,) * 4, projection_dim=13, vision_config=VISION,
        text_config={**TEXT, "hidden_size": 35, "num_attention_heads": 5, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "gpt2_cross": other(
        "GPT2LMHeadModel", "GPT2", crossed, (6,) * 4, "c_proj", **BARE, n_positions=40, add_cross_attention=True,
        bos_token_id=1, eos_token_id=2,
    ),
    "exaone4_5": two_towers(
        "Exaone4_5_", PACKED_PICTURE, heads=(6,) * 4, seen="proj", text={"model_type": "exaone4", "sliding_window": 4},
        vision={
            **PACKED, "num_heads": 6, "num_key_value_heads": 2, "hidden_size": 24, "intermediate_size": 13,
            "window_size": 6, "out_hidden_size": 48, "fullatt_block_indexes": [1],
        },
        image_token_id=PICTURE, video_token_id=51,
    ),
    "gemma3_vision": two_towers(
        "Gemma3", pictured(9, BATCH, 3, 12, 12, token_type_ids=[[1] * 9 + [0] * TOKENS] * BATCH), vision=SIGLIP,
        text={"head_dim": 8, "sliding_window": 4}, mm_tokens_per_image=9, image_token_index=PICTURE,
        boi_token_index=51, eoi_token_index=50,
    ),
    "idefics3": gentle(two_towers(
        "Idefics3", pictured(1, BATCH, 1, 3, 12, 12), text={"model_type": "llama"}, image_token_id=PICTURE,
        scale_factor=3, pad_token_id=0,
    )),
    "internvl": two_towers(
        "InternVL", pictured(4, BATCH, 3, 12, 12), text={"model_type": "qwen2"}, image_token_id=PICTURE,
        vision={**VISION, "image_size": [12, 12], "patch_size": [3, 3]}, seen="projection_layer",
        image_seq_length=4,
    ),
    "mistral3": two_towers(
        "Mistral3", pictured(4, 1, 3, 16, 16, count=1, image_sizes=[[16, 16]]), seen="o_proj",
        vision={**VISION, "hidden_size": 40, "image_size": 16, "head_dim": 8, "model_type": "pixtral"},
        text={"model_type": "mistral", "head_dim": 8}, image_token_index=PICTURE, spatial_merge_size=2,
        vision_feature_layer=-1,
    ),
    "mllama": two_towers(
        "Mllama", tiled, heads=(5, 5, 5, 6, 6), seen="o_proj",
        vision={
            "hidden_size": 35, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 5,
            "intermediate_size": 13, "image_size": 12, "patch_size": 4, "max_num_tiles": 1, "vision_output_dim": 70,
            "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]],
        },
        text={"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        image_token_index=PICTURE,
    ),
    "ovis2": two_towers(
        "Ovis2", pictured(16, BATCH, 3, 16, 16), text={"model_type": "qwen2"}, image_token_id=PICTURE,
        vision={**VISION, "image_size": 16, "vocab_size": 17, "hidden_stride": 1, "num_visual_indicator_tokens": 3},
        visual_indicator_token_ids=[49, 50, 51], vocab_size=WORDS, hidden_size=48,
    ),
    "paligemma": gentle(two_towers(
        "PaliGemma", pictured(9, BATCH, 3, 12, 12, token_type_ids=[[0] * (9 + TOKENS)] * BATCH),
        vision={**SIGLIP, "projection_dim": 48}, text={"model_type": "gemma", "head_dim": 8}, projection_dim=48,
        image_token_index=PICTURE,
    )),
    "pix2struct": gentle(other(
        "Pix2StructForConditionalGeneration", "Pix2Struct", and_words(patches), (5,) * 6, "output",
        text_config={"vocab_size": WORDS, "hidden_size": 35, "d_kv": 7, "d_ff": 13, "num_layers": 2, "num_heads": 5},
        vision_config={
            "hidden_size": 35, "patch_embed_hidden_size": 48, "d_ff": 13, "d_kv": 7, "num_hidden_layers": 2,
            "num_attention_heads": 5, "seq_len": 10,
        },
    )),
    "qwen2_5_vl": two_towers(
        "Qwen2_5_VL", PACKED_PICTURE, seen="proj", text=ROTARY, **SIGNS,
        vision={
            **PACKED, "hidden_size": 20, "intermediate_size": 13, "window_size": 6, "out_hidden_size": 48,
            "fullatt_block_indexes": [1],
        },
    ),
    "qwen2_vl": two_towers(
        "Qwen2VL", PACKED_PICTURE, seen="proj", text=ROTARY, **SIGNS,
        vision={**PACKED, "embed_dim": 20, "hidden_size": 48, "mlp_ratio": 1},
    ),
    "qwen3_vl": two_towers(
        "Qwen3VL", PACKED_PICTURE, seen="proj", text={**ROTARY, "head_dim": 8}, **SIGNS,
        vision={
            **PACKED, "hidden_size": 20, "intermediate_size": 13, "out_hidden_size": 48, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
    ),
    "smolvlm": gentle(two_towers(
        "SmolVLM", pictured(1, BATCH, 1, 3, 12, 12), text={"model_type": "llama"}, image_token_id=PICTURE,
        scale_factor=3, pad_token_id=0,
    )),
    "udop": sequences(
        "Udop", "o", sizes=T5, reads=boxed, image_size=12, patch_size=4, max_2d_position_embeddings=60,
        decoder_start_token_id=0,
    ),
    # --- series ---
    "patchtst": other(
        "PatchTSTForPrediction", "PatchTST", numbers("past_values", 16, 2), (5, 5), num_input_channels=2,
        context_length=16, patch_length=4, patch_stride=4, num_hidden_layers=2, d_model=40, num_attention_heads=5,
        ffn_dim=13, prediction_length=3,
    ),
    "patchtsmixer": other(
        "PatchTSMixerForPrediction", "PatchTSMixer", numbers("past_values", 16, 2), (5, 5), num_input_channels=2,
        context_length=16, patch_length=4, patch_stride=4, num_layers=2, d_model=35, self_attn=True, self_attn_heads=5,
        prediction_length=3,
    ),
    "timesfm": other(
        "TimesFmModelForPrediction", "TimesFm",
        lambda generator: {
            "past_values": torch.randn(BATCH, 16, generator=generator), "freq": torch.zeros(BATCH, 1, dtype=torch.long)
        },
        (6, 6), "o_proj", patch_length=4, context_length=16, horizon_length=4, num_hidden_layers=2, hidden_size=48,
        intermediate_size=13, head_dim=8, num_attention_heads=6,
    ),
    # --- texts that are paired with them ---
    "chinese_clip_text": other("ChineseCLIPTextModel", "ChineseCLIPText", words, (5, 5), "^.output.dense", **ENCODER),
    "clap_text": other(
        "ClapTextModelWithProjection", "ClapText", words, (5, 5), "^.output.dense", **ENCODER, projection_dim=13
    ),
}  # fmt: skip

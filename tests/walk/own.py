"""What single types need beyond the rules: settings, or inputs."""

import torch

RESNET = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
        "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
    },
}  # fmt: skip
LAST_STAGE = {**RESNET, "backbone_config": {**RESNET["backbone_config"], "out_features": ["stage4"]}}
DETECTORS = ("conditional_detr", "dab-detr", "table-transformer", "detr")
SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1}
FULL_ROPE = {
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
}
EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
BYTES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}
DINO = {
    "model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 56,
    "patch_size": 14, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False,
    "apply_layernorm": True, "mlp_ratio": 1,
}  # fmt: skip
CONFIGS = {  # type -> settings
    **dict.fromkeys(DETECTORS, LAST_STAGE),
    **dict.fromkeys(("deformable_detr", "omdet-turbo"), RESNET),
    **dict.fromkeys(("autoformer", "informer", "time_series_transformer"), SERIES),
    "align": {"vision_config": EFFICIENT},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "blt": {f"{part}_config": BYTES for part in ("patcher", "encoder", "decoder", "global")},
    "chameleon": {"vocabulary_map": {"<image>": 97, **{f"IMGIMGBS{chr(65 + i)}Z": 98 + i for i in range(26)}}},
    "chmv2": {
        "backbone_config": {
            "model_type": "dinov3_vit", "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3,
            "intermediate_size": 16, "image_size": 64, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": True,
        },
        "fusion_hidden_size": 16, "head_hidden_size": 8, "post_process_channels": [8, 8, 8, 8],
    },
    "clap": {"audio_config": {"spec_size": 64, "num_mel_bins": 16, "depths": [1, 1, 1, 1],
                              "patch_embeds_hidden_size": 16,
                              "num_attention_heads": [2, 2, 4, 4], "hidden_size": 128}},
    "clvp": {"decoder_config": {"decoder_fixing_codes": [83, 45, 45, 48]}},
    "cohere_compass": {"text_config": FULL_ROPE},
    "cohere_compass_text": FULL_ROPE,
    "deepseek_ocr2": {
        "vision_config": {"sam_config": {"downsample_channels": [32, 24], "global_attn_indexes": [1]}},
        "text_config": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    },
    "depth_anything": {"backbone_config": DINO, "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8,
                       "head_hidden_size": 8, "reassemble_hidden_size": 24},
    "dots1": EXPERTS,
    "efficientnet": EFFICIENT,
    "ernie4_5_vl_moe": {"text_config": {"moe_intermediate_size": [32, 16]}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm5_next": {"text_config": {"index_topk": 16}},
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [0, 0, 1, 1],
                        "downsample_rate": "1/2"},
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}},
    "led": {"attention_window": [4, 4]},
    "prompt_depth_anything": {"backbone_config": DINO, "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8,
                              "head_hidden_size": 8, "reassemble_hidden_size": 24},
    "perceiver": {"d_latents": 32, "d_model": 32, "num_latents": 8, "num_self_attends_per_block": 2,
                  "num_self_attention_heads": 4, "num_cross_attention_heads": 4},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "maskformer": {"fpn_feature_size": 64, "mask_feature_size": 64},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "vitmatte": {"fusion_hidden_sizes": [16, 8, 8, 8], "convstream_hidden_sizes": [8, 8, 16]},
}  # fmt: skip


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def decisions(generator, model):
    """Four steps of states, actions and what they brought."""
    config = model.config
    return {
        "states": normal(generator, 3, 4, config.state_dim),
        "actions": normal(generator, 3, 4, config.act_dim),
        "rewards": normal(generator, 3, 4, 1),
        "returns_to_go": normal(generator, 3, 4, 1),
        "timesteps": torch.arange(4).expand(3, 4),
        "attention_mask": torch.ones(3, 4, dtype=torch.long),
    }


def queried_picture(generator, model):
    """A picture whose patches have a place for each example, after four tokens that stand for it."""
    ids = torch.cat(
        [
            torch.full((1, 4), model.config.vlm_config.image_token_id),
            torch.randint(10, 80, (1, 9), generator=generator),
        ],
        1,
    )
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": normal(generator, 1, 16, 1176),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


def codes(generator, model):
    """Text, and the codebooks of sound that the decoder writes."""
    return {
        "input_ids": torch.randint(10, 80, (3, 9), generator=generator),
        "decoder_input_ids": torch.randint(0, 80, (3, 5, 9), generator=generator),
    }


def placed_picture(generator, model):
    """Text after the places of a picture."""
    places = model.config.latent_query_num
    ids = torch.randint(10, 80, (3, places + 9), generator=generator)
    side = model.config.vision_config.image_size
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": normal(generator, 3, 3, side, side),
        "image_embeds_position_mask": (torch.arange(places + 9) < places).long().expand(3, -1),
    }


def rows_of_patches(generator, model):
    """Nine patches of a picture, three in a row."""
    config = getattr(model.config, "vision_config", model.config)
    batch = {
        "pixel_values": normal(generator, 3, 9, config.num_channels * config.patch_size**2),
        "pixel_attention_mask": torch.ones(3, 9, dtype=torch.long),
        "spatial_shapes": torch.tensor([[3, 3]] * 3),
    }
    return batch


def regions(generator, model):
    """Text, and five regions of a picture."""
    ids = torch.randint(10, 80, (3, 9), generator=generator)
    width, places = model.config.visual_feat_dim, torch.rand(3, 5, 4, generator=generator)
    return {"input_ids": ids, "visual_feats": normal(generator, 3, 5, width), "visual_pos": places}


def codebooks(generator, model):
    """Text, and the codebooks of sound, which count among the rows."""
    ids, books = torch.randint(10, 80, (3, 9), generator=generator), model.decoder.num_codebooks
    return {"input_ids": ids, "decoder_input_ids": torch.randint(0, 80, (3 * books, 7), generator=generator)}


def told_picture(generator, model):
    """A picture and what is to be done with it."""
    task = torch.randint(10, 80, (3, model.config.task_seq_len), generator=generator)
    return {"pixel_values": normal(generator, 3, 3, 64, 64), "task_inputs": task}


INPUTS = {  # type -> (generator, model) -> batch
    "colqwen2": queried_picture,
    "decision_transformer": decisions,
    "dia": codes,
    "kosmos-2": placed_picture,
    "lxmert": regions,
    "musicgen": codebooks,
    "oneformer": told_picture,
    "siglip2": rows_of_patches,
}

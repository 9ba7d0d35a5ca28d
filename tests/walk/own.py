"""What single types need beyond the rules: settings, inputs, or the class to take."""

CLASSES = {}  # type -> class
LIMITS = {}  # type -> arguments of the default configuration, which cannot be made without them
RESNET = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
        "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
    },
}  # fmt: skip
DETECTORS = ("conditional_detr", "dab-detr", "deformable_detr", "table-transformer", "detr", "omdet-turbo")
SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1}
FULL_ROPE = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}}
EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 80}
CONFIGS = {  # type -> settings
    **dict.fromkeys(DETECTORS, RESNET),
    **dict.fromkeys(("autoformer", "informer", "time_series_transformer"), SERIES),
    "align": {"vision_config": EFFICIENT},
    "efficientnet": EFFICIENT,
    "clvp": {"decoder_config": {"decoder_fixing_codes": [83, 45, 45, 48]}},
    "blt": {f"{part}_config": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
            for part in ("patcher", "encoder", "decoder", "global")} | {"encoder_hash_byte_group_vocab": 150},
    "cohere_compass": {"text_config": FULL_ROPE},
    "cohere_compass_text": FULL_ROPE,
    "chameleon": {"vocabulary_map": {"<image>": 97, **{f"IMGIMGBS{chr(65 + i)}Z": 98 + i for i in range(26)}}},
}
INPUTS = {}  # type -> (generator, model) -> batch

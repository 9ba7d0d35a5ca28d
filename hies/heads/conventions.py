"""What transformers calls the parts of an attention module, and which of them have a share for every head.

The one table that a new architecture may need a line in. Everything else is read off the module, see `projections.py`.
"""

SEPARATE = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("Wq", "Wk", "Wv"),
    ("linear_q", "linear_k", "linear_v"),
    ("q_content_proj", "k_content_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
    ("project_q", "project_k", "project_v"),
    ("projection_query", "projection_key", "projection_value"),
)
# Three in one matrix: `blocks` holds all queries, then all keys, then all values; `heads` a query, key, value for each,
# or, where one of these attributes is true, the queries of a key head, the key head, its value.
FUSED = {
    **dict.fromkeys(("c_attn", "Wqkv", "qkv_proj", "qkv"), "blocks"),
    **dict.fromkeys(("query_key_value", "in_proj"), "heads"),
}
SHARED_KEYS = ("new_decoder_architecture", "multi_query")
LINEAR = ("FalconLinear",)  # subclasses of torch's Linear that compute the same
BESIDE = {"q_attn": "c_attn"}  # queries of their own, and all keys, then all values, in the other matrix
# Latent attention: a key and a value for each head in one matrix, and queries in the first of these that is there.
LATENT, LATENT_QUERIES = "kv_b_proj", ("q_b_proj", "q_proj")
OUTPUTS = (
    *("o_proj", "out_proj", "out_lin", "Wo", "c_proj", "dense", "o", "proj", "projection_layer", "output"),
    *("projection", "linear_out", "attention_out"),
)
# Other matrices with rows per head: gates of a head's output, and queries or keys made of positions.
POSITIONS = (
    *("linear_pos", "relative_k_proj", "q_pos_proj", "k_pos_proj", "q_pos_sine_proj"),
    *("pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj"),
)
BY_HEAD = ("gate_proj", "g_proj", "w2e_query", "e2w_query", "e2e_query", *POSITIONS)
# [heads, ...] or [heads * width]
PARAMETERS = ("sinks", "gate_bias", "pos_bias_u", "pos_bias_v", "bias_u", "bias_v", "q_bias", "v_bias", "logit_scale")
# Arguments that may come for all heads of the dense module, where a module computes its softmax by itself.
FOR_ALL_HEADS = ("alibi", "position_bias", "relative_position_bias", "attention_mask", "rel_pos", "rel_2d_pos")
# Made in such a module, or in a part of it, for its own heads: [positions, heads], and the last matrix of a sequence.
BIAS_TABLE, BIAS_MLP = "relative_position_bias_table", "continuous_position_bias_mlp"
WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size", "qk_head_dim")
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_attn_heads")
KEY_HEAD_COUNTS = ("num_key_value_heads", "num_kv_heads")
# Widths of all heads together; each is set only where the forward reads it and it is that width.
ALL_WIDTHS = ("all_head_size", "inner_dim", "split_size", "embed_dim", "hidden_size", "q_dim")
KEY_WIDTHS = ("kv_dim",)
# Attributes of modules that make a bias of the scores of all dense heads, which is picked from where it is used.
BIASES = (
    *("has_relative_attention_bias", "relative_position_bias", "relative_position_bias_table", "relative_bias"),
    *("shared_position_bias", "rel_bias_module", "pair_bias_proj", "bias_proj"),
)
NORMS = {
    **dict.fromkeys(("q_norm", "q_layernorm", "query_layernorm", "q_layer_norm", "qk_norm"), "query"),
    **dict.fromkeys(("k_norm", "k_layernorm", "key_layernorm", "k_layer_norm"), "key"),
    "v_norm": "value",
}
# Parts with weights that do not depend on which heads there are; biases by head are picked where they are used.
WHOLE = (
    *("relative_attention_bias", "relative_position_bias", "rotary_emb", "LayerNorm", "scaling"),
    *("convolution_projection_query", "convolution_projection_key", "convolution_projection_value"),
    *("rel_pos_h", "rel_pos_w", "sequence_reduction", "sr", "layer_norm"),
    *("distance_embedding", "rel_pos_emb", "q_a_proj", "q_a_layernorm", "kv_a_proj_with_mqa", "kv_a_layernorm"),
    "indexer",
)
PACKED = ("weight", "qweight", "weight_packed", "W_q")  # where a module keeps its weights, quantised ones too
OWN_BIAS = ("UMT5Attention",)  # whose `relative_attention_bias`, a column for each head, serves no other layer

# Their forwards divide the width of the model by the number of heads, for the width of one.
DIVIDING = (
    *("BlipAttention", "Blip2Attention", "InstructBlipAttention", "InstructBlipVideoAttention"),
    *("PPOCRV5MobileRecAttention", "PPOCRV5ServerRecAttention", "PPOCRV6SmallRecAttention"),
)
# Their forwards take the width of the model for that of all heads together.
BY_MODEL_WIDTH = (
    *("Florence2VisionWindowAttention", "GroupViTAttention", "LEDEncoderSelfAttention", "LongformerSelfAttention"),
    *("PegasusXGlobalLocalAttention", "TimesformerSelfAttention", "TrOCRAttention", "VJEPA2PoolerCrossAttention"),
)
BIASED = ("LongT5LocalAttention", "LongT5TransientGlobalAttention")
REPLACED = ("BigBirdBlockSparseAttention", "BigBirdPegasusBlockSparseAttention")
CACHED = ("DiffusionGemmaDecoderTextAttention", "DiffusionGemmaEncoderTextAttention")
REFUSED = {
    **dict.fromkeys(BY_MODEL_WIDTH, "its forward takes the width of the model for that of all heads together"),
    **dict.fromkeys(CACHED, "the decoder reads the keys of the encoder's layers"),
    **dict.fromkeys(BIASED, "it is handed a bias for all heads in blocks"),
    **dict.fromkeys(REPLACED, "another module takes its place where texts are short"),
    "BitNetAttention": "a norm over all heads comes after them",
    "CodeGenAttention": "its projection is in four parts of equally many heads",
    "DeepseekV4Attention": "groups of heads share an output matrix",
    "DiffLlamaAttention": "it subtracts the second half of its heads from the first",
    "DogeAttention": "it makes a mask out of the values of all heads",
    "EfficientLoFTRAttention": "it rotates queries and keys of all heads together",
    "Florence2VisionChannelAttention": "it attends over channels, not over tokens",
    "JetMoeAttention": "every expert has heads of its own",
    "KosmosTextAttention": "a norm over all heads comes after them",
    "MiniMaxM3VLAttention": "it makes a mask for all heads of the configuration",
}
# In names of modules that read keys and values from another place than their queries.
CROSS = ("cross", "encoder_attn", "encoder_attention", "encdecattention")
SHARING = ("is_kv_shared_layer", "store_full_length_kv")  # flags of layers that use the keys of others, or lend theirs

"""LLM-Pruner (Ma et al. 2023, arXiv 2305.11627) on the attention alone, block-wise and channel-wise."""

"""The paper's equations (arXiv 2510.13832 v2) as pure functions of tensors.

The weighted area under a quality curve (appendix D.8) is in `hies.runs.quality.weighted_area`, since figures need it
without torch; what LLM-Pruner, SliceGPT and FLAP take from theirs is beside them in `hies.methods`.

Words and symbols: m_h is a gate that multiplies the output A_h of head h; x is an example; a_t are the attention
weights of query token t over the n_t keys it can see. Entropies are in nats until they are divided by log n_t.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from hies.errors import ParameterError


def head_importance(gradients: Tensor) -> Tensor:
    """Head importance score, equations 1 and 2: HIS_h = E_x | dL(x) / dm_h |.

    The absolute value is taken per example and only then averaged, so the result does not depend on the batch size.

    Args:
        gradients: dL(x)/dm_h at m = 1, signed, [examples, heads].

    Returns:
        HIS, non-negative, [heads].
    """
    return gradients.abs().mean(dim=0)


def batched_head_importance(gradients: Tensor, size: int) -> Tensor:
    """The reduction of the widely used code (Hugging Face's bertology script): E_batch | dL(batch) / dm_h |.

    The loss of a batch is the mean over its examples, so their gradients cancel where their signs differ.

    Args:
        gradients: dL(x)/dm_h of single examples, signed, [examples, heads].
        size: examples in a batch, the last one may be smaller; 1 gives `head_importance`.

    Returns:
        Non-negative, [heads].
    """
    return torch.stack([batch.mean(dim=0).abs() for batch in gradients.split(size)]).mean(dim=0)


def token_head_importance(gradients: Tensor) -> Tensor:
    """The reduction per token (Michel et al. 2019, equation 2, at every position): E_x sum_t | dL(x) / dm_ht |.

    Args:
        gradients: sum over tokens of the absolute gradient of a gate per token, [examples, heads].

    Returns:
        Non-negative, at least `head_importance`, [heads].
    """
    return gradients.mean(dim=0)


def layer_l2(importance: Tensor) -> Tensor:
    """Importance over its Euclidean norm within a layer, as in the code of Michel et al.; zeros stay zeros, [heads]."""
    return importance / importance.norm().clamp(min=torch.finfo(importance.dtype).tiny)


def token_entropy(weights: Tensor) -> Tensor:
    """Entropy of attention weights, appendix B.2.1: H_t = - sum_j a_tj log a_tj, with 0 log 0 = 0.

    Args:
        weights: attention weights that sum to 1 over the last dimension, [..., keys].

    Returns:
        Entropy in nats, [...].
    """
    return torch.special.entr(weights).sum(dim=-1)


def entropy_from_log_sum_exp(log_sum_exp: Tensor, mean_score: Tensor) -> Tensor:
    """The same entropy without the weights: H_t = log sum_j exp(s_tj) - sum_j a_tj s_tj, since log a = s - lse.

    With the largest score in the place of the mean it is the min-entropy, Renyi's of infinite order: -log max_j a_tj.

    Args:
        log_sum_exp: of the scaled scores s over the visible keys, [...].
        mean_score: sum_j a_tj s_tj, [...].

    Returns:
        Entropy in nats, [...]; rounding below zero is cut off.
    """
    return (log_sum_exp - mean_score).clamp(min=0)


def renyi_entropy_from_log_sum_exp(log_sum_exp: Tensor, log_sum_exp_of_scaled: Tensor, order: float) -> Tensor:
    """Renyi entropy of order a != 1: log(sum_j a_tj^a) / (1 - a) = (lse(a s) - a lse(s)) / (1 - a).

    Args:
        log_sum_exp: lse(s), [...].
        log_sum_exp_of_scaled: lse(a s), [...].
        order: a, positive and not 1.

    Returns:
        Entropy in nats, [...]; rounding below zero is cut off.
    """
    return ((log_sum_exp_of_scaled - order * log_sum_exp) / (1 - order)).clamp(min=0)


def renyi_entropy_near_shannon(log_weights: Tensor, order: float) -> Tensor:
    """The same entropy of an order near 1, where the difference above loses its digits: with d = a - 1,

    H_t = -log(1 + sum_j a_tj (exp(d log a_tj) - 1)) / d.

    Args:
        log_weights: log a_tj, [..., keys].
        order: a, positive and not 1.

    Returns:
        Entropy in nats, [...]; rounding below zero is cut off.
    """
    distance = order - 1  # in Python's float64: the tensor's own precision may not tell the order from 1
    # Where a weight is smaller than the smallest number, no more than this may be asked of it.
    powers = (distance * log_weights.clamp(min=math.log(torch.finfo(log_weights.dtype).tiny))).expm1_()
    return (-(log_weights.exp() * powers).sum(dim=-1).log1p() / distance).clamp(min=0)


def tsallis_entropy(renyi: Tensor, order: float) -> Tensor:
    """Tsallis entropy of order q from Renyi's of the same order: S_q = (1 - sum_j a_tj^q) / (q - 1), no unit.

    With sum_j a_tj^q = exp((1 - q) H_q). Order 2 is the Gini-Simpson index.

    Args:
        renyi: H_q in nats, [...].
        order: q, positive and not 1.
    """
    return torch.expm1((1 - order) * renyi) / (1 - order)


def relative_tsallis_entropy(renyi: Tensor, visible: Tensor, order: float) -> Tensor:
    """S_q over its largest value, that of n_t equal weights, in [0, 1]; NaN where n_t <= 1.

    Args:
        renyi: Renyi entropy of the same order in nats, [batch, heads, tokens].
        visible: n_t, broadcastable to `renyi`.
        order: q, positive and not 1.
    """
    maximum = tsallis_entropy(visible.to(renyi.dtype).log(), order)
    return torch.where(visible > 1, (tsallis_entropy(renyi, order) / maximum).clamp(0, 1), torch.nan)


def relative_effective_support(entropy: Tensor, visible: Tensor) -> Tensor:
    """(exp(H_t) - 1) / (n_t - 1): the effective number of keys, in [0, 1]; NaN where n_t <= 1.

    Args:
        entropy: Shannon entropy in nats, [batch, heads, tokens].
        visible: n_t, broadcastable to `entropy`.
    """
    return torch.where(visible > 1, (torch.expm1(entropy) / (visible - 1)).clamp(0, 1), torch.nan)


def relative_entropy(entropy: Tensor, visible: Tensor) -> Tensor:
    """H_t / log n_t, appendix B.2.1, in [0, 1]; NaN where n_t <= 1, since such a token carries no information.

    Args:
        entropy: H_t in nats, [batch, heads, tokens].
        visible: n_t, the number of keys that a query sees, broadcastable to `entropy`.
    """
    maximum = visible.to(entropy.dtype).log()
    return torch.where(visible > 1, (entropy / maximum).clamp(max=1), torch.nan)


def mean_over_tokens(values: Tensor) -> Tensor:
    """AE_h(x), appendix B.2.1 and B.2.6, the mean of H_t / log n_t, or O_h(x), appendix D.9, the mean of || A_ht ||_2.

    Attention rows are never pooled. That O_h is a mean, here and over examples, is our reading; the paper does not say.

    Args:
        values: NaN where the token does not count (padding; for an entropy n_t = 1), [batch, heads, tokens].

    Returns:
        NaN for an example without any token that counts, [batch, heads].
    """
    return values.nanmean(dim=-1)


def mean_over_examples(values: Tensor) -> Tensor:
    """AE_h, appendix B.2.1, or O_h, appendix D.9: E_x of AE_h(x), or O_h(x), over the examples that have one.

    Args:
        values: NaN where undefined, [examples, heads].

    Returns:
        NaN for a head that has a value in no example, [heads].
    """
    return values.nanmean(dim=0)


def attention_deficit(ae: Tensor) -> Tensor:
    """Attention deficit, equation 5: AD_h = 1 - AE_h, in [0, 1], same shape as `ae`."""
    return 1 - ae


def min_max(values: Tensor) -> Tensor:
    """Normalisation of section 4.1: (x - min x) / (max x - min x) over all entries; all zero if they are all equal.

    An entry that is NaN stays NaN and does not touch the others, so that an error can name the head it belongs to.
    """
    known = values[~values.isnan()]
    if not len(known):
        return values
    spread = known.max() - known.min()
    return (values - known.min()) / (spread if spread > 0 else 1)


def combine(importance: Tensor, entropy: Tensor, alpha: float, combination: str = "sum") -> Tensor:
    """HIES, section 4.1: HIES_h = alpha * HIS^_h + (1 - alpha) * (1 - AE^_h).

    Two variants to compare with: product, a weighted geometric mean, HIS^_h^alpha * (1 - AE^_h)^(1 - alpha); printed,
    what appendix D.8 prints, without "1 -", which contradicts section 4.1: alpha * HIS^_h + (1 - alpha) * AE^_h.

    Args:
        importance: HIS^, normalised to [0, 1], [heads].
        entropy: AE^, normalised to [0, 1], [heads].
        alpha: weight of the importance, in [0, 1).
        combination: `sum`, `product` or `printed`.

    Returns:
        HIES in [0, 1], [heads]; the lowest are pruned first.
    """
    if not 0 <= alpha < 1:
        raise ParameterError("alpha", alpha, "it must be at least 0 and below 1 (1 would be HIS alone)")
    if combination == "product":
        return importance**alpha * (1 - entropy) ** (1 - alpha)
    return alpha * importance + (1 - alpha) * (entropy if combination == "printed" else 1 - entropy)


def shrunk_alpha(examples: int, prior_examples: float) -> float:
    """Weight of an importance that n examples estimate, beside an entropy worth k of them: alpha = n / (n + k).

    The weights of a mean of two estimates of which one has n observations and the other counts as k; not the paper's.

    Args:
        examples: n, of the calibration set.
        prior_examples: k, positive.
    """
    return examples / (examples + prior_examples)


def placebo_entropy(entropy: Tensor, kind: str, seed: int) -> Tensor:
    """What stands in the place of AE to tell what entropy gains from what a search gains; not the paper's.

    Args:
        entropy: AE, [heads].
        kind: `permuted`, the same values, each at another head by chance; `random`, uniform numbers in [0, 1).
        seed: of chance.

    Returns:
        In [0, 1], [heads]; NaN where `random` meets a NaN, so that an error can name the head.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "permuted":
        return entropy[torch.randperm(len(entropy), generator=generator)]
    drawn = torch.rand(len(entropy), generator=generator, dtype=torch.float64)
    return drawn.to(entropy).masked_fill(entropy.isnan(), math.nan)


def fisher_information(gradients: Tensor) -> Tensor:
    """Diagonal of the empirical Fisher information of the gates (Kwon et al. 2022): F_h = E_x (dL(x) / dm_h)^2.

    At m = 1; the labels are those of the data, not drawn from the model, which makes it the empirical one.

    Args:
        gradients: dL(x)/dm_h of single examples, signed, [examples, heads].

    Returns:
        Non-negative, [heads].
    """
    return gradients.square().mean(dim=0)


def token_output_norm(output: Tensor) -> Tensor:
    """Norm of a head's output at every token, appendix D.9: || A_ht ||_2 over the width of the head.

    Args:
        output: A_ht, attention weights times values, before the output projection, [..., width].

    Returns:
        At least float32, non-negative, [...].
    """
    return torch.linalg.vector_norm(output, dim=-1, dtype=torch.promote_types(output.dtype, torch.float32))


def removal_count(ratio: float, heads: int) -> int:
    """Number of removed heads, from equation 8 and lemma 4.2: |H| - k = round(ratio * |H|), halves to the even side."""
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio <= 1:
        raise ParameterError("ratio", ratio, "it must lie between 0 (keep all heads) and 1 (remove all)")
    return round(ratio * heads)


def keep_mask(scores: Tensor, ratio: float) -> Tensor:
    """Mask of equation 8: 1 for the k heads of the highest score, 0 for the rest; equal scores: the first go first.

    Args:
        scores: higher = keep, over the whole model, [heads].
        ratio: share of heads removed, in [0, 1].

    Returns:
        Boolean mask with exactly k = |H| - round(ratio * |H|) ones, [heads].
    """
    mask = torch.ones(len(scores), dtype=torch.bool)
    mask[torch.argsort(scores, stable=True)[: removal_count(ratio, len(scores))]] = False
    return mask

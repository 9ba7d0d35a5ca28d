"""Shannon's entropy of attention from CUDA's fused kernels, each taken only where a trial shows that it is right.

A kernel gives the log-sum-exp of the scores and the mean of the values. With the keys in the place of the values, query
times that mean is the mean score, and H = lse - mean score (`equations.entropy_from_log_sum_exp`). Which kernels there
are, and how many digits they keep, depends on the card and on torch. So the first call on a device, for a type, a width
and a kind of mask, compares them with a softmax in float64 and logs which one is taken.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend

from hies import equations

DEVICE = "cuda"  # the type of device that the kernels are for
# Nats that rounding may cost a query; in 16 bits that leaves AE of a head within AE_LIMIT of what float32 gives.
LIMITS = {torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.1}
AE_LIMIT = 1e-3  # a share of log n
SHORT = 512  # fewer queries are computed in float32: it costs little, and few errors do not average out in AE
LEAST_LOSS = 4  # units of `_run` that a kernel is taken to lose at the least; up to 2 were simulated
MASK_SCORES = 1 << 24  # what is added to the scores in the place of a mask, for some queries at a time: 64 MB at most
TRIAL_TOKENS = 193  # no multiple of any tile
TRIAL_SIZES = (0.3, 1.0, 2.0)  # factors on the queries: nearly uniform weights, and peaked ones

# (query, key, what is added to the scores, causal, scale) -> (mean key of each query, log-sum-exp of its scores)
FusedKernel = Callable[[Tensor, Tensor, Tensor | None, bool, float], tuple[Tensor, Tensor]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A kernel that passed its trial.

    Attributes:
        kernel: its name in `KERNELS`.
        loss: how many units of `_run` it is taken to lose, twice what the trial saw at the least.
    """

    kernel: str
    loss: float


def _flash(query: Tensor, key: Tensor, added: Tensor | None, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    if added is not None:
        raise NotImplementedError("it takes no mask")
    operation = torch.ops.aten._scaled_dot_product_flash_attention
    return operation(query, key, key, 0.0, causal, False, scale=scale)[:2]


def _cudnn(query: Tensor, key: Tensor, added: Tensor | None, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    operation = torch.ops.aten._scaled_dot_product_cudnn_attention
    return operation(query, key, key, added, True, 0.0, causal, False, scale=scale)[:2]


def _efficient(query: Tensor, key: Tensor, added: Tensor | None, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    if query.shape[1] != key.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # it knows no grouped queries
    operation = torch.ops.aten._scaled_dot_product_efficient_attention
    return operation(query, key, key, added, True, 0.0, causal, scale=scale)[:2]


# By the names of torch's backends. An operation that an older or newer torch lacks fails its trial.
KERNELS: dict[str, FusedKernel] = {
    "FLASH_ATTENTION": _flash,
    "CUDNN_ATTENTION": _cudnn,
    "EFFICIENT_ATTENTION": _efficient,
}


def kernel_entropy(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor | None:
    """Returns the entropy of each query by a kernel, float32 [batch, heads, queries]; None where none is known to fit.

    16-bit tensors are tried as they are where queries are many, then in float32. Each result bounds its own rounding,
    and one that may be off by more than its limit is not returned.

    Args:
        query: [batch, heads, queries, width].
        key: [batch, key heads, keys, width].
        mask: True where a query sees a key, broadcastable to [batch, heads, queries, keys].
        scale: factor on the scores.
        causal: query t sees the keys 0..t.
    """
    wider = torch.promote_types(query.dtype, key.dtype)
    if query.device.type != DEVICE or isinstance(query, FakeTensor) or wider not in LIMITS:
        return None
    if causal:
        key = key[:, :, : query.shape[2]]  # kernels differ in what causal means where keys are not as many as queries
    if (causal and key.shape[2] < query.shape[2]) or scale <= 0 or not query.numel() or not key.numel():
        return None
    for dtype in dict.fromkeys((wider, torch.float32) if query.shape[2] >= SHORT else (torch.float32,)):
        choice = choose_kernel(
            query.device, dtype, query.shape[-1], query.shape[1] // key.shape[1], causal, mask is not None
        )
        if choice is None:
            continue
        try:
            entropy, unit = _run(KERNELS[choice.kernel], query.to(dtype), key.to(dtype), mask, scale, causal)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # memory that does not lie as the kernel insists
            continue
        if choice.loss * unit <= LIMITS[dtype]:
            return entropy
    return None


def _run(
    kernel: FusedKernel, query: Tensor, key: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, float]:
    """Returns the entropy of each query, and a unit of what rounding may cost one of them, in nats.

    The unit in float32 is one in the last place of the largest log-sum-exp. In 16 bits the kernel rounds weights and
    mean key, and query times mean key is rounded too: there it is that of the largest norm of their products.
    """
    # A constant taken from every key moves all scores of a query alike and leaves its weights as they are; without
    # their mean, keys give small scores, whose differences lose fewer digits.
    key = key - key.mean(dim=2, keepdim=True, dtype=torch.float32).to(key.dtype)
    query, key = _aligned(query), _aligned(key)
    entropies, sizes = [], []
    for rows, part in _parts(mask, query.shape[2], key.shape[2]):
        some = query[:, :, rows]
        added = None if part is None else _added(part, query.dtype).expand(*some.shape[:3], -1)
        mean_key, log_sum_exp = kernel(some, key, added, causal, scale)
        log_sum_exp = log_sum_exp.flatten(2)[..., : some.shape[2]]  # kernels add a dimension, or queries up to a tile
        products = some * mean_key
        entropy = equations.entropy_from_log_sum_exp(log_sum_exp, scale * products.sum(dim=-1, dtype=torch.float32))
        size = log_sum_exp.abs()
        if query.dtype != torch.float32:
            size = scale * torch.linalg.vector_norm(products, dim=-1, dtype=torch.float32)
        if part is not None:
            blind = ~part.any(dim=-1)  # kernels say anything of a query that sees no key
            entropy, size = entropy.masked_fill(blind, 0), size.masked_fill(blind, 0)
        entropies.append(entropy)
        sizes.append(size.amax())
    return torch.cat(entropies, dim=2), torch.finfo(query.dtype).eps * float(torch.stack(sizes).amax())


def _aligned(tensor: Tensor) -> Tensor:
    """Returns the tensor with a width that is a multiple of 8, as kernels insist; zeros change no score."""
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % 8)) if tensor.shape[-1] % 8 else tensor


def _parts(mask: Tensor | None, queries: int, keys: int) -> Iterator[tuple[slice, Tensor | None]]:
    """Yields some queries and their mask at a time, [batch or 1, heads or 1, queries, keys]; all if there is none."""
    if mask is None:
        yield slice(0, queries), None
        return
    mask = mask.expand(-1, -1, queries, keys)
    size = max(64, MASK_SCORES // (len(mask) * mask.shape[1] * keys))
    for start in range(0, queries, size):
        rows = slice(start, min(start + size, queries))
        yield rows, mask[:, :, rows]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0, or minus infinity where the mask hides a key; rows begin at multiples of 16, as kernels insist."""
    *shape, keys = mask.shape
    added = torch.zeros(*shape, keys + -keys % 16, dtype=dtype, device=mask.device)[..., :keys]
    return added.masked_fill_(~mask, -torch.inf)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products of float32 keep their digits inside the block, where autocast or TF32 would cost most of them."""
    modules: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    backends = [module.matmul for module in modules]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast(DEVICE, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


# --- the trial --------------------------------------------------------------------------------------------------------


@cache
def choose_kernel(
    device: torch.device, dtype: torch.dtype, width: int, group: int, causal: bool, masked: bool
) -> Choice | None:
    """Returns the first kernel that is right on random tensors, and what it loses; None if none is.

    The kernel that `scaled_dot_product_attention` would take itself comes first.

    Args:
        device: where the kernels run.
        dtype: of queries and keys.
        width: of a head.
        group: query heads to a key head.
        causal: query t sees the keys 0..t.
        masked: there is a mask.
    """
    query, key, mask = _trial_tensors(device, dtype, width, group, masked)
    setting = f"device={device}, dtype={dtype}, width={width}, group={group}, causal={causal}, masked={masked}"
    reasons = []
    for name in _order(query, key, mask, causal):
        try:
            loss = _loss(KERNELS[name], query, key, mask, causal)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, TypeError, RuntimeError) as error:
            loss, reason = math.inf, str(error).split("\n")[0]
        else:
            reason = "off by too much"
        if loss < math.inf:
            logger.info("entropy with %s: %s, which loses %.1f units", setting, name, loss)
            return Choice(name, max(LEAST_LOSS, 2 * loss))
        reasons.append(f"{name}: {reason}")
    logger.info("entropy with %s: in chunks (%s)", setting, "; ".join(reasons))
    return None


def _trial_tensors(
    device: torch.device, dtype: torch.dtype, width: int, group: int, masked: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns query, key and mask, which lie in memory as those of a model do."""
    generator = torch.Generator().manual_seed(0)  # of its own, and the same everywhere
    with torch.device("cpu"):  # whatever torch.set_default_device says: the generator is there
        query = torch.randn(2, TRIAL_TOKENS, 2 * group, width, generator=generator)
        key = torch.randn(2, TRIAL_TOKENS, 2, width, generator=generator) + torch.randn(width, generator=generator)
        mask = torch.rand(2, 1, TRIAL_TOKENS, TRIAL_TOKENS, generator=generator) < 0.7
    mask[:, :, 3] = False  # a query that sees no key
    mask[0, :, :, 100:] = False
    query, key = (tensor.to(device, dtype).transpose(1, 2) for tensor in (query, key))
    return query, key, mask.to(device) if masked else None


def _order(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> list[str]:
    """Returns the names of the kernels, first the one that torch itself would take."""
    added = None if mask is None else _added(mask, query.dtype).expand(-1, query.shape[1], -1, -1)
    grouped = query.shape[1] != key.shape[1]
    try:
        own = torch._fused_sdp_choice(query, key, key, added, 0.0, causal, scale=None, enable_gqa=grouped)
        preferred = SDPBackend(own).name
    except (AttributeError, TypeError, ValueError, RuntimeError):
        preferred = ""
    return sorted(KERNELS, key=lambda name: name != preferred)  # the others stay in order


def _loss(kernel: FusedKernel, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> float:
    """Returns the units of `_run` that the kernel loses at most; infinity where it is off by more than the limits."""
    most, scale = 0.0, query.shape[-1] ** -0.5
    for size in TRIAL_SIZES:
        some = size * query
        found, unit = _run(kernel, some, key, mask, scale, causal)
        error = found.double() - _exact(some, key, mask, scale, causal)
        largest = float(error.abs().amax())
        share = float(error.mean(dim=-1).abs().amax()) / math.log(TRIAL_TOKENS)
        if not (largest <= LIMITS[query.dtype] and share <= AE_LIMIT):  # what is no number is not within limits
            return math.inf
        most = max(most, largest / unit)
    return most


def _exact(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """Returns the same entropy from a softmax in float64."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = scale * query.double() @ key.mT
    if causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return equations.token_entropy(scores.softmax(dim=-1)).nan_to_num(0)

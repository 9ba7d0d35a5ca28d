"""The choice of a GPU's kernel by trial, with kernels that are simulated on the CPU."""

import logging
import math

import pytest
import torch

from hies import attention_entropy
from hies.scoring import entropy, fused

BATCH, HEADS, KEY_HEADS, TOKENS, WIDTH = 2, 6, 3, 37, 11
TYPES = (torch.float32, torch.float16, torch.bfloat16)


class Simulated:
    """What a fused kernel computes, rounded where it rounds, with what it adds to its log-sum-exp; counts its calls."""

    def __init__(self, error=0.0, fails=None, rounds_to=None):
        self.error, self.fails, self.rounds_to, self.calls = error, fails, rounds_to, []

    def __call__(self, query, key, added, causal, scale):
        self.calls.append((query.dtype, tuple(query.shape)))
        if self.fails is not None:
            raise self.fails
        assert query.shape[-1] % 8 == 0 and (added is None or added.stride(-2) % 16 == 0)
        rounds_to = self.rounds_to or query.dtype
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        scores = scale * (query.to(rounds_to).float() @ keys.to(rounds_to).float().mT)
        if added is not None:
            scores = scores + added
        if causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        largest = scores.amax(-1, keepdim=True)
        weights = (scores - largest).exp()  # no number where a query sees no key
        total = weights.sum(-1, keepdim=True)
        mean_key = (weights.to(query.dtype).float() @ keys.float() / total).to(query.dtype)
        log_sum_exp = (largest + total.log()).squeeze(-1) + self.error
        padded = torch.nn.functional.pad(log_sum_exp, (0, -query.shape[2] % 32), value=1e9)
        return mean_key, padded


@pytest.fixture
def kernels(monkeypatch):
    """Puts simulated kernels in the place of a GPU's, and the CPU in the place of the GPU."""
    monkeypatch.setattr(fused, "DEVICE", "cpu")
    monkeypatch.setattr(fused, "SHORT", TOKENS)
    fused.choose_kernel.cache_clear()
    yield lambda **chosen: monkeypatch.setattr(fused, "KERNELS", chosen)
    fused.choose_kernel.cache_clear()


@pytest.fixture
def chunks(monkeypatch):
    """The calls of the other paths."""
    calls = []
    for name in ("_chunked", "_fused"):
        original = getattr(entropy, name)
        monkeypatch.setattr(entropy, name, lambda *a, f=original, n=name: calls.append(n) or f(*a))
    return calls


def tensors(generator, dtype=torch.float32, keys=TOKENS, size=1.0):
    query = size * torch.randn(BATCH, TOKENS, HEADS, WIDTH, generator=generator)
    key = torch.randn(BATCH, keys, KEY_HEADS, WIDTH, generator=generator) + 3
    return query.to(dtype).transpose(1, 2), key.to(dtype).transpose(1, 2)


def exact(query, key, mask=None, scale=WIDTH**-0.5):
    key = key.double().repeat_interleave(HEADS // KEY_HEADS, 1)
    scores = scale * query.double() @ key.mT
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return torch.special.entr(scores.softmax(-1)).sum(-1).nan_to_num(0)


def close(found, expected, dtype):
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=fused.LIMITS[dtype], rtol=0)
    assert (found - expected).mean(-1).abs().max() <= 1e-3 * math.log(TOKENS)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["none", "causal", "mask", "padding"])
def test_a_right_kernel_is_taken(generator, monkeypatch, kernels, chunks, caplog, dtype, kind):
    monkeypatch.setattr(fused, "MASK_SCORES", 1)  # 64 queries at a time, so the trial takes several parts
    kernel = Simulated()
    kernels(FLASH_ATTENTION=kernel)
    query, key = tensors(generator, dtype)
    mask = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=generator) < 0.6
    mask[1, :, 3] = False  # a query that sees no key
    mask = {"mask": mask, "padding": mask[:, :, :1]}.get(kind)
    visible = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() if kind == "causal" else mask
    caplog.set_level(logging.INFO, fused.__name__)
    found = attention_entropy(query, key, mask, causal=kind == "causal", scale=0.2)
    close(found, exact(query, key, visible, 0.2), dtype)
    of_the_trial = len(kernel.calls)
    assert torch.equal(found, attention_entropy(query, key, mask, causal=kind == "causal", scale=0.2))
    assert kernel.calls[of_the_trial:] == [(dtype, (BATCH, HEADS, TOKENS, 16))]  # no second trial; the width is padded
    assert not chunks
    assert [record.message.split(": ")[1].split(",")[0] for record in caplog.records] == ["FLASH_ATTENTION"]
    assert kind != "mask" or (found[1, :, 3] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "kernel",
    [
        Simulated(error=0.2),  # a log-sum-exp to another base, say
        Simulated(error=torch.nan),
        Simulated(error=0.01),  # within a query's limit in 16 bits, but all queries lean to one side
        Simulated(fails=RuntimeError("no kernel image is available")),
        Simulated(fails=NotImplementedError("it takes no mask")),
        Simulated(fails=AttributeError("'_OpNamespace' object has no attribute")),
        Simulated(fails=TypeError("unexpected keyword")),
    ],
    ids=["wrong", "no number", "leaning", "failing", "masked", "missing", "changed"],
)
def test_a_kernel_that_is_wrong_or_missing_is_not_taken(generator, kernels, chunks, caplog, kernel, dtype):
    caplog.set_level(logging.INFO, fused.__name__)
    kernels(FLASH_ATTENTION=kernel, EFFICIENT_ATTENTION=kernel)
    query, key = tensors(generator, dtype)
    close(attention_entropy(query, key), exact(query, key), torch.float32)
    assert chunks and {record.message.split(": ")[1].split(" (")[0] for record in caplog.records} == {"in chunks"}
    calls = len(kernel.calls)
    attention_entropy(query, key)
    assert len(kernel.calls) == calls  # what failed is not tried again


def test_products_of_fewer_digits_are_seen(generator, kernels, chunks):
    kernels(EFFICIENT_ATTENTION=Simulated(rounds_to=torch.bfloat16))  # as TF32, if coarser
    query, key = tensors(generator)
    close(attention_entropy(query, key), exact(query, key), torch.float32)
    assert chunks


def test_the_kernel_that_torch_would_take_is_tried_first_and_a_wrong_one_passed_over(generator, kernels, chunks):
    first, second, own = Simulated(), Simulated(), Simulated(error=0.2)
    kernels(EFFICIENT_ATTENTION=first, CUDNN_ATTENTION=second, FLASH_ATTENTION=own)  # FLASH: torch's own on the CPU
    query, key = tensors(generator)
    close(attention_entropy(query, key), exact(query, key), torch.float32)
    assert own.calls and first.calls and not second.calls and not chunks


def test_large_scores_are_left_to_wider_types_and_then_to_chunks(generator, kernels, chunks):
    kernel = Simulated()
    kernels(FLASH_ATTENTION=kernel)
    for size, expected in ((1, [torch.bfloat16]), (12, [torch.bfloat16, torch.float32])):
        query, key = tensors(generator, torch.bfloat16, size=size)
        attention_entropy(query, key)
        kernel.calls.clear()
        found = attention_entropy(query, key)
        assert [dtype for dtype, _ in kernel.calls] == expected and not chunks
        close(found, exact(query, key), expected[-1])
    query, key = tensors(generator, torch.bfloat16, size=300)
    close(attention_entropy(query, key), exact(query, key), torch.float32)
    assert chunks


def test_what_fails_after_its_trial_is_computed_in_chunks_and_missing_memory_is_told(generator, kernels, chunks):
    kernel = Simulated()
    kernels(FLASH_ATTENTION=kernel)
    query, key = tensors(generator)
    attention_entropy(query, key)
    kernel.fails = RuntimeError("misaligned address")
    close(attention_entropy(query, key), exact(query, key), torch.float32)
    assert chunks
    kernel.fails = torch.OutOfMemoryError("out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        attention_entropy(query, key)
    with pytest.raises(torch.OutOfMemoryError):
        attention_entropy(query.half(), key.half())  # in the trial
    kernel.fails = None
    chunks.clear()
    attention_entropy(query.half(), key.half())
    assert not chunks


def test_causal_attention_to_more_keys_is_cut_and_to_fewer_is_none_of_a_kernel(generator, kernels, chunks):
    kernels(FLASH_ATTENTION=Simulated())
    for keys in (TOKENS + 5, TOKENS - 5):
        query, key = tensors(generator, keys=keys)
        found = attention_entropy(query, key, causal=True)
        close(found, exact(query, key, torch.ones(TOKENS, keys, dtype=torch.bool).tril()), torch.float32)
        assert bool(chunks) == (keys < TOKENS)


@pytest.mark.parametrize("options", [{"order": 2.0}, {"bias": torch.zeros(1)}, {"softcap": 3.0}, {"scale": -0.3}])
def test_what_a_kernel_does_not_compute_is_not_asked_of_it(generator, kernels, options):
    kernel = Simulated()
    kernels(FLASH_ATTENTION=kernel)
    attention_entropy(*tensors(generator), **options)
    assert not kernel.calls


def test_few_queries_are_computed_in_float32(generator, monkeypatch, kernels):
    monkeypatch.setattr(fused, "SHORT", TOKENS + 1)
    kernel = Simulated()
    kernels(FLASH_ATTENTION=kernel)
    query, key = tensors(generator, torch.bfloat16)
    close(attention_entropy(query, key), exact(query, key), torch.float32)
    assert {dtype for dtype, _ in kernel.calls} == {torch.float32}


def test_tensors_of_two_types_are_computed_in_the_wider_one(generator, kernels):
    kernels(FLASH_ATTENTION=Simulated())
    query, key = tensors(generator)
    close(attention_entropy(query.bfloat16(), key), exact(query.bfloat16(), key), torch.float32)


def test_a_default_device_changes_nothing(generator, kernels, chunks):
    kernels(EFFICIENT_ATTENTION=Simulated())
    query, key = tensors(generator)
    mask = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=generator) < 0.6
    with torch.device("meta"):
        found = attention_entropy(query, key, mask)
    close(found, exact(query, key, mask), torch.float32)
    assert not chunks


def test_float64_is_no_matter_for_kernels(generator, kernels):
    kernel = Simulated()
    kernels(FLASH_ATTENTION=kernel)
    assert attention_entropy(*tensors(generator, torch.float64)).dtype == torch.float64 and not kernel.calls


def test_coarse_matrix_products_are_turned_off_for_entropy_alone(generator, monkeypatch):
    seen = []
    original = entropy._chunked
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    monkeypatch.setattr(
        entropy, "_chunked", lambda *a: seen.append([b.fp32_precision for b in backends]) or original(*a)
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        set_by_user = [b.fp32_precision for b in backends]
        attention_entropy(*tensors(generator), order=2.0)
        assert [b.fp32_precision for b in backends] == set_by_user
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [["ieee", "ieee"]]


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_autocast_costs_entropy_no_digits(generator, order):
    query, key = tensors(generator)
    expected = attention_entropy(query, key, order=order)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention_entropy(query, key, order=order), expected)
        assert (query @ key.repeat_interleave(2, 1).mT).dtype == torch.bfloat16  # it is on again


KINDS = {
    "plain": lambda query, key, way: (query, key),
    "keys far from the origin": lambda query, key, way: (query, key + 10 * way),
    "queries alike": lambda query, key, way: (query[:, :, :1] + 0.05 * query, key),
    "a sink": lambda query, key, way: (
        query + way,
        torch.cat([3 * way.expand_as(key[:, :, :1]), 0.3 * key[:, :, 1:]], 2),
    ),
}


@pytest.mark.parametrize("dtype", TYPES[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_in_sixteen_bits_knows_what_it_loses(generator, kind, dtype):
    """The error of a query, and of AE, over 512 keys of width 128, rounded where flash attention rounds."""
    plain = torch.randn(2, 1, 2, 512, 128, generator=generator)
    way, taken = torch.randn(128, generator=generator), 0
    for size in (0.3, 1, 2, 4):
        query, key = KINDS[kind](size * plain[0], plain[1], way)
        query, key = query.to(dtype), key.to(dtype)
        found, unit = fused._run(Simulated(), query, key, None, 128**-0.5, False)
        expected = fused._exact(query, key, None, 128**-0.5, False)
        error = (found - expected).abs().amax()
        assert error <= fused.LEAST_LOSS * unit
        if fused.LEAST_LOSS * unit <= fused.LIMITS[dtype]:
            taken += 1
            assert (found - expected).mean(-1).abs().amax() <= fused.AE_LIMIT * math.log(512)
    assert taken or dtype == torch.bfloat16

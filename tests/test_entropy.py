"""Exact attention entropy: the fused and the chunked path against a plain softmax in float64."""

import math

import pytest
import torch

from hies import attention_entropy, entropy
from hies.errors import HiesError

BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, WIDTH = 3, 10, 5, 11, 13, 7
CAUSAL = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril()
PATHS = {"fused": {}, "chunked": {"bias": torch.zeros(1, 1, 1, 1)}}  # a bias of zero changes the path alone


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    monkeypatch.setattr(entropy, "CHUNK", 5)  # so that the chunked path needs several chunks
    used = []
    for name in ("_fused", "_chunked"):
        original = getattr(entropy, name)
        monkeypatch.setattr(entropy, name, lambda *a, f=original, n=name: used.append(n) or f(*a))
    yield PATHS[request.param]
    assert set(used) == {f"_{request.param}"}


def tensors(generator, keys=KEYS):
    query = torch.randn(BATCH, HEADS, QUERIES, WIDTH, generator=generator)
    return query, torch.randn(BATCH, KEY_HEADS, keys, WIDTH, generator=generator)


def naive(query, key, mask=None, scale=None, order=1.0, bias=None, softcap=None, sinks=None):
    """Softmax row by row in float64."""
    query, key = query.double(), key.double()
    group = query.shape[1] // key.shape[1]
    result = torch.zeros(query.shape[:3], dtype=torch.float64)
    shape = (*query.shape[:3], key.shape[2])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    for b, h, t in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        scores = key[b, h // group] @ query[b, h, t] * (query.shape[-1] ** -0.5 if scale is None else scale)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias.expand(shape)[b, h, t].double()
        scores = scores[mask[b, h, t]]
        if sinks is not None:
            scores = torch.cat([scores, sinks[h : h + 1].double()])
        if not len(scores):
            continue
        weights = scores.softmax(0)
        if order == 1:
            result[b, h, t] = -(weights * weights.log()).sum()
        else:
            result[b, h, t] = (weights**order).sum().log() / (1 - order)
    return result


def close(actual, expected, tolerance=5e-6):
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("order", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", ["none", "padding", "rows", "heads", "full", "one_dimension"])
def test_any_mask_and_order(generator, path, kind, order):
    query, key = tensors(generator)
    full = torch.rand(BATCH, HEADS, QUERIES, KEYS, generator=generator) < 0.6
    full[1, 2, 3] = False  # a query that sees no key
    full[2, :, 4] = False
    full[2, :, 4, 5] = True  # one that sees a single key
    masks = {
        "none": None,
        "padding": full[:, :1, :1],
        "rows": CAUSAL,
        "heads": full[:1, :, :1],
        "full": full,
        "one_dimension": full[0, 0, 0],
    }
    found = attention_entropy(query, key, masks[kind], order=order, **path)
    assert found.shape == (BATCH, HEADS, QUERIES) and found.isfinite().all()
    close(found, naive(query, key, masks[kind], order=order))
    if kind == "full":
        assert found[1, 2, 3] == 0
        close(found[2, :, 4], torch.zeros(HEADS))


@pytest.mark.parametrize("order", [1.0, 0.5, 2.0])
def test_causal(generator, path, order):
    query, key = tensors(generator, QUERIES)
    found = attention_entropy(query, key, causal=True, order=order, scale=1.3, **path)
    close(found, naive(query, key, CAUSAL[:, :QUERIES], scale=1.3, order=order))
    close(found[:, :, 0], torch.zeros(BATCH, HEADS))


def test_bias_softcap_and_sinks(generator, monkeypatch):
    monkeypatch.setattr(entropy, "CHUNK", 5)
    query, key = tensors(generator)
    mask = torch.rand(BATCH, 1, QUERIES, KEYS, generator=generator) < 0.7
    extras = {
        "bias": torch.randn(1, HEADS, QUERIES, KEYS, generator=generator),
        "softcap": 0.7,
        "sinks": torch.randn(HEADS, generator=generator),
    }
    for chosen in ({"bias"}, {"softcap"}, {"sinks"}, set(extras)):
        options = {name: extras[name] for name in chosen}
        for order in (1.0, 2.0):
            found = attention_entropy(query, key, mask, order=order, **options)
            close(found, naive(query, key, mask, order=order, **options))


def test_one_key_has_no_entropy(generator, path):
    query, key = tensors(generator, 1)
    for order in (1.0, 0.5, 2.0):
        close(attention_entropy(query, key, order=order, **path), torch.zeros(BATCH, HEADS, QUERIES), 1e-6)


def test_equal_scores_have_the_largest_entropy(generator, path):
    _, key = tensors(generator)
    found = attention_entropy(torch.zeros(BATCH, HEADS, QUERIES, WIDTH), key, **path)
    close(found, torch.full_like(found, math.log(KEYS)), 1e-6)


def test_many_tokens_and_keys_far_from_the_origin(generator):
    query = torch.randn(1, 2, 2048, WIDTH, generator=generator)
    key = torch.randn(1, 1, 2048, WIDTH, generator=generator) + 300 * torch.randn(WIDTH, generator=generator)
    scores = query.double() @ key.double().mT / WIDTH**0.5
    close(attention_entropy(query, key), torch.special.entr(scores.softmax(-1)).sum(-1), 2e-5)
    visible = torch.ones(2048, 2048, dtype=torch.bool).tril()
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    close(attention_entropy(query, key, causal=True), torch.special.entr(weights).sum(-1), 2e-5)


def test_half_precision_is_computed_in_float32(generator, path):
    query, key = (tensor.to(torch.bfloat16) for tensor in tensors(generator))
    found = attention_entropy(query, key, **path)
    assert found.dtype == torch.float32
    close(found, naive(query, key))


def test_double_precision_is_kept(generator, path):
    query, key = (tensor.double() for tensor in tensors(generator))
    close(attention_entropy(query, key, **path), naive(query, key), 1e-13)


@pytest.mark.parametrize(
    ("message", "key_shape", "options"),
    [
        ("not both", (2, 2, 5, 7), {"mask": torch.ones(5, 5, dtype=torch.bool), "causal": True}),
        ("order is 0", (2, 2, 5, 7), {"order": 0}),
        ("order is -1", (2, 2, 5, 7), {"order": -1}),
        ("order is -inf", (2, 2, 5, 7), {"order": -math.inf}),
        ("order is nan", (2, 2, 5, 7), {"order": math.nan}),
        ("does not go with key", (2, 3, 5, 7), {}),  # heads that do not divide
        ("does not go with key", (2, 2, 5, 6), {}),  # another width
        ("does not go with key", (1, 2, 5, 7), {}),  # another batch
    ],
)
def test_mistakes_are_named(message, key_shape, options):
    with pytest.raises(HiesError, match=message):
        attention_entropy(torch.zeros(2, 4, 5, 7), torch.zeros(key_shape), **options)

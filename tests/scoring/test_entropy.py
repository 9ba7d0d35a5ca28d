"""Exact attention entropy: the fused and the chunked path against a plain softmax in float64."""

import functools
import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hies import attention_entropy
from hies.errors import HiesError
from hies.scoring import entropy

BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, WIDTH = 3, 10, 5, 11, 13, 7
CAUSAL = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril()
CHUNKED = {"bias": torch.zeros(1, 1, 1, 1)}  # a bias of zero changes the path alone
PATHS = {"fused": {}, "chunked": CHUNKED}
CHUNKS = [(5, 5), (2 * HEADS * QUERIES * KEYS, 64)]  # five queries of an example at a time; two examples at a time
ORDERS = [1.0, 0.5, 2.0, math.inf]


@pytest.fixture
def used(monkeypatch):
    """The names of the paths that are taken, in order."""
    used = []
    for name in ("fused", "chunked"):
        original = getattr(entropy, f"_{name}")
        monkeypatch.setattr(entropy, f"_{name}", lambda *a, f=original, n=name: used.append(n) or f(*a))
    return used


@pytest.fixture(params=[(name, *size) for name in PATHS for size in CHUNKS], ids=str)
def path(request, monkeypatch, used):
    name, chunk, rows = request.param
    monkeypatch.setattr(entropy, "CHUNK", chunk)
    monkeypatch.setattr(entropy, "ROWS", rows)
    monkeypatch.setattr(entropy, "WIDE", math.inf)  # whatever suits the machine
    yield PATHS[name]
    orders = {request.node.callspec.params.get("order", 1.0)}
    assert set(used) == {name if orders == {1.0} else "chunked"}


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
            scores = torch.cat([scores, sinks.expand(query.shape[:3])[b, h, t : t + 1].double()])
        if not len(scores):
            continue
        weights = scores.softmax(0)
        if order == 1:
            result[b, h, t] = -(weights * weights.log()).sum()
        elif order == math.inf:
            result[b, h, t] = -weights.max().log()
        else:
            result[b, h, t] = (weights**order).sum().log() / (1 - order)
    return result


def close(actual, expected, tolerance=5e-6):
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=0)


@functools.cache
def masked_case(kind):
    """Query, key and mask, the same for every path and order."""
    generator = torch.Generator().manual_seed(7)
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
    return query, key, masks[kind]


@functools.cache
def expected_of(kind, order):
    """Row by row, which takes longer than all paths together."""
    return naive(*masked_case(kind), order=order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["none", "padding", "rows", "heads", "full", "one_dimension"])
def test_any_mask_and_order(path, kind, order):
    query, key, mask = masked_case(kind)
    found = attention_entropy(query, key, mask, order=order, **path)
    assert found.shape == (BATCH, HEADS, QUERIES) and found.isfinite().all()
    close(found, expected_of(kind, order))
    if kind == "full":
        assert found[1, 2, 3] == 0
        close(found[2, :, 4], torch.zeros(HEADS))


@pytest.mark.parametrize("order", ORDERS)
def test_causal(generator, path, order):
    query, key = tensors(generator, QUERIES)
    found = attention_entropy(query, key, causal=True, order=order, scale=1.3, **path)
    close(found, naive(query, key, CAUSAL[:, :QUERIES], scale=1.3, order=order))
    close(found[:, :, 0], torch.zeros(BATCH, HEADS))


def test_tensors_may_lie_in_memory_in_any_order(generator):
    query, key = tensors(generator)
    turned = [tensor.mT.contiguous().mT for tensor in (query, key)]  # the width is not the fastest axis
    close(attention_entropy(*turned), naive(query, key))
    close(attention_entropy(*[one.transpose(1, 2).contiguous().transpose(1, 2) for one in turned]), naive(query, key))


def test_bias_softcap_and_sinks(generator, monkeypatch):
    monkeypatch.setattr(entropy, "CHUNK", 5)
    monkeypatch.setattr(entropy, "ROWS", 5)
    query, key = tensors(generator)
    mask = torch.rand(BATCH, 1, QUERIES, KEYS, generator=generator) < 0.7
    extras = {
        "bias": torch.randn(1, HEADS, QUERIES, KEYS, generator=generator),
        "softcap": 0.7,
        "sinks": torch.randn(HEADS, 1, generator=generator),
    }
    of_queries = torch.randn(BATCH, HEADS, QUERIES, generator=generator)
    close(attention_entropy(query, key, mask, sinks=of_queries), naive(query, key, mask, sinks=of_queries))
    of_heads = attention_entropy(query, key, mask, sinks=extras["sinks"][:, 0])
    close(of_heads, naive(query, key, mask, sinks=extras["sinks"]))
    for chosen in ({"bias"}, {"softcap"}, {"sinks"}, set(extras)):
        options = {name: extras[name] for name in chosen}
        for order in (1.0, 2.0):
            found = attention_entropy(query, key, mask, order=order, **options)
            close(found, naive(query, key, mask, order=order, **options))
    query, key = tensors(generator, QUERIES)
    bias = extras["bias"][..., :QUERIES]
    found = attention_entropy(query, key, causal=True, bias=bias)
    close(found, naive(query, key, CAUSAL[:, :QUERIES], bias=bias))


@pytest.mark.parametrize("order", ORDERS)
def test_one_key_has_no_entropy(generator, path, order):
    query, key = tensors(generator, 1)
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


LONG = 2048
PATTERNS = {
    "all": lambda: None,
    "random": lambda: torch.rand(LONG, LONG, generator=torch.Generator().manual_seed(3)) < 0.3,
    "causal": lambda: torch.ones(LONG, LONG, dtype=torch.bool).tril(),
    "window": lambda: torch.ones(LONG, LONG, dtype=torch.bool).tril().triu(-129),
    "padding": lambda: (torch.arange(LONG) >= 701).expand(LONG, LONG),
    "causal and padding": lambda: torch.ones(LONG, LONG, dtype=torch.bool).tril() & (torch.arange(LONG) >= 701),
}


def exact(query, key, visible=None):
    """The entropy of a softmax in float64, all at once; zero where nothing is seen."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.double() @ key.mT * query.shape[-1] ** -0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return torch.special.entr(scores.softmax(-1)).sum(-1).nan_to_num(0)


def long_tensors(generator, size=1.0, width=33):
    query = size * torch.randn(1, 2, LONG, width, generator=generator)
    return query, torch.randn(1, 1, LONG, width, generator=generator)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_paths_agree_over_long_sequences(generator, used, pattern):
    query, key = long_tensors(generator)
    visible = PATTERNS[pattern]()
    fused, chunked = (attention_entropy(query, key, visible, **options) for options in PATHS.values())
    assert used == ["fused", "chunked"]
    close(fused, chunked, 1e-4)
    for found in (fused, chunked):
        close(found, exact(query, key, visible), 1e-5)
    if pattern == "causal":
        for options in PATHS.values():
            close(attention_entropy(query, key, causal=True, **options), fused, 1e-5)


@pytest.mark.parametrize("width", [1, 3, 15, 33, 80, 131])
def test_any_width_of_heads(generator, path, width):
    query = torch.randn(BATCH, HEADS, QUERIES, width, generator=generator)
    key = torch.randn(BATCH, KEY_HEADS, KEYS, width, generator=generator)
    close(attention_entropy(query, key, **path), exact(query, key), 1e-5)


@pytest.mark.parametrize("size", [1, 10, 30, 100, 300])
def test_large_scores_keep_the_tolerance(generator, used, size):
    query, key = long_tensors(generator, size)
    fused, chunked = (attention_entropy(query, key, **options) for options in PATHS.values())
    assert used == (["fused"] if size <= 30 else ["fused", "chunked"]) + ["chunked"]  # it falls back on the other path
    close(fused, chunked, 1e-4)
    close(chunked, exact(query, key), 1e-4)


@pytest.mark.parametrize(("width", "threads", "path"), [(63, 1, "fused"), (64, 2, "chunked"), (128, 3, "fused")])
def test_wide_heads_on_few_threads_are_chunked(generator, monkeypatch, used, width, threads, path):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    query = torch.randn(BATCH, HEADS, QUERIES, width, generator=generator)
    close(attention_entropy(query, query), exact(query, query), 1e-5)
    assert used == [path]


def test_the_fused_path_knows_what_it_loses(generator):
    for size in (1, 10, 30, 100, 300):
        query, key = long_tensors(generator, size)
        found, rounding = entropy._fused(query, key, None, 33**-0.5, False)
        error = float((found.double() - exact(query, key)).abs().max())
        assert error <= rounding <= 30 * error
    assert error > 2 * entropy.TOLERANCE  # so that it matters


def near_shannon(query, key, visible, order):
    """Renyi's entropy by its series in d = order - 1: H_1 - d / 2 var + d^2 / 6 third - ..., float64."""
    scores = (query.double() @ key.double().repeat_interleave(2, 1).mT * WIDTH**-0.5).masked_fill(~visible, -torch.inf)
    weights, surprise = scores.softmax(-1), -scores.log_softmax(-1).masked_fill(~visible, 0)
    distance, moment, total = order - 1, weights, 0
    for power in range(1, 60):  # sum_j a_tj exp(-d s_tj) - 1, term by term
        moment = moment * surprise * -distance / power
        total = total + moment.sum(-1)
    return -total.log1p() / distance


@pytest.mark.parametrize("distance", [0.11, 0.09, 1e-2, 1e-4, 1e-7, 1e-9, 1e-13])
def test_orders_near_one_keep_their_digits(generator, distance):
    query, key = tensors(generator, keys=101)
    visible = torch.rand(QUERIES, 101, generator=generator) < 0.5
    for order, scaled in itertools.product((1 + distance, 1 - distance), (query, 20 * query)):
        expected = near_shannon(scaled, key, visible, order)
        for dtype in (torch.float32, torch.float64):
            found = attention_entropy(scaled.to(dtype), key.to(dtype), visible, order=order)
            close(found, expected, 2e-5 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("order", [1.0, 1.01, 2.0, math.inf])
@pytest.mark.parametrize("empty", range(5), ids=["batch", "heads", "queries", "keys", "width"])
def test_sizes_of_zero_give_zeros(empty, order):
    batch, heads, queries, keys, width = (0 if place == empty else size for place, size in enumerate((2, 3, 5, 7, 11)))
    query, key = torch.ones(batch, heads, queries, width), torch.ones(batch, heads, keys, width)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    for options in ({}, {"causal": True}, {"mask": seen}, {"sinks": torch.ones(heads)}, CHUNKED):
        assert torch.equal(attention_entropy(query, key, order=order, **options), torch.zeros(batch, heads, queries))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_over_long_sequences(generator, dtype):
    query, key = (tensor.to(dtype) for tensor in long_tensors(generator))
    for options in PATHS.values():
        found = attention_entropy(query, key, **options)
        assert torch.equal(found, attention_entropy(query.float(), key.float(), **options))
        close(found, exact(query, key), 1e-5)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation gave back."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("options", [{}, CHUNKED], ids=["fused", "chunked"])
@pytest.mark.parametrize("pattern", ["none", "causal", "padding", "expanded"])
def test_memory_grows_with_the_tokens_and_not_with_their_square(generator, monkeypatch, pattern, options, order):
    monkeypatch.setattr(entropy, "CHUNK", 1000)
    monkeypatch.setattr(entropy, "ROWS", 8)
    found = []
    for tokens in (128, 256, 512):
        query = torch.randn(2, 3, tokens, 5, generator=generator)
        padding = (torch.arange(tokens) < tokens // 2).expand(2, 1, 1, tokens)
        masks = {"padding": padding, "expanded": padding.expand(2, 3, tokens, tokens)}
        with Largest() as largest:
            attention_entropy(query, query, masks.get(pattern), causal=pattern == "causal", order=order, **options)
        found.append(largest.size)
    assert found[2] <= 2 * found[1] <= 4 * found[0]


def test_a_mask_for_all_heads_is_not_written_down_for_each(generator):
    query = torch.randn(2, 3, 100, 5, generator=generator)
    for mask in (torch.ones(2, 1, 1, 100), torch.ones(2, 1, 100, 100)):
        with Largest() as largest:
            attention_entropy(query, query, mask.bool())
        assert largest.size == 4 * max(query.numel(), mask.numel())


def test_what_is_no_number_stays_no_number(generator, path):
    query, key = tensors(generator)
    query[1, 2, 3, 4] = torch.nan
    found = attention_entropy(query, key, **path)
    wrong = found.isnan()
    assert wrong[1, 2, 3] and wrong.sum() == 1


def test_no_gradient_flows(generator, path):
    query, key = (tensor.requires_grad_() for tensor in tensors(generator))
    assert not attention_entropy(query, key, **path).requires_grad


def test_half_precision_is_computed_in_float32(generator, path):
    query, key = (tensor.to(torch.bfloat16) for tensor in tensors(generator))
    found = attention_entropy(query, key, **path)
    assert found.dtype == torch.float32
    close(found, naive(query, key))


def test_queries_and_keys_of_two_types_are_those_of_the_wider(generator, path):
    query, key = tensors(generator)
    for pair in ((query.double(), key), (query, key.double())):
        close(attention_entropy(*pair, **path), naive(*(one.double() for one in pair)), 1e-13)


def test_double_precision_is_kept(generator, path):
    query, key = (tensor.double() for tensor in tensors(generator))
    close(attention_entropy(query, key, **path), naive(query, key), 1e-13)


@pytest.mark.parametrize(
    ("message", "key_shape", "options"),
    [
        ("causal is True; with a mask", (2, 2, 5, 7), {"mask": torch.ones(5, 5, dtype=torch.bool), "causal": True}),
        ("order is 0", (2, 2, 5, 7), {"order": 0}),
        ("order is -1", (2, 2, 5, 7), {"order": -1}),
        ("order is -inf", (2, 2, 5, 7), {"order": -math.inf}),
        ("order is nan", (2, 2, 5, 7), {"order": math.nan}),
        ("does not go with key", (2, 3, 5, 7), {}),  # heads that do not divide
        ("does not go with key", (2, 2, 5, 6), {}),  # another width
        ("does not go with key", (1, 2, 5, 7), {}),  # another batch
        ("does not go with key", (2, 0, 5, 7), {}),  # no heads
        ("does not go with key", (2, 5, 7), {}),  # no batch
        ("order is '2'", (2, 2, 5, 7), {"order": "2"}),
        (r"shape of mask is \(5, 4\); .*\(2, 4, 5, 5\)", (2, 2, 5, 7), {"mask": torch.ones(5, 4).bool()}),
        ("dtype of mask is torch.float32", (2, 2, 5, 7), {"mask": torch.ones(5, 5)}),
        (r"shape of bias is \(3, 1, 5, 5\)", (2, 2, 5, 7), {"bias": torch.ones(3, 1, 5, 5)}),
        (r"shape of sinks is \(2,\); .*\(4,\)", (2, 2, 5, 7), {"sinks": torch.ones(2)}),
    ],
)
def test_mistakes_are_named(message, key_shape, options):
    with pytest.raises(HiesError, match=message):
        attention_entropy(torch.zeros(2, 4, 5, 7), torch.zeros(key_shape), **options)

"""Parameters and floating-point operations of a model, dense and without some of its heads."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from hies.batching import Batch
from hies.errors import UnsupportedModelError
from hies.heads.attention import Site, evaluating, fast_path_off, find_sites
from hies.heads.implementations import in_eager_attention, in_plain_experts
from hies.heads.matrices import HeadRows, matrix
from hies.heads.projections import Projections, find_projections
from hies.heads.recognition import computes_attention
from hies.heads.weights import check_unshared
from hies.scoring.gradients import requiring_gradients


@dataclass(frozen=True)
class Cost:
    """What a model, or a part of it, costs.

    Attributes:
        parameters: weights and biases.
        flops: of one forward pass, a multiply-add counted as two.
    """

    parameters: int = 0
    flops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.flops + other.flops)

    def __sub__(self, other: "Cost") -> "Cost":
        return self + other * -1

    def __mul__(self, count: int) -> "Cost":
        return Cost(self.parameters * count, self.flops * count)


@dataclass(frozen=True)
class SiteCost:
    """What the heads of one site add.

    Attributes:
        head: one query head.
        key_head: one key/value head, which is removed with the last query head of its group.
        rest: what is removed with the last head of the site (queries and keys under a norm over all heads), less what
            stays (a module that computes its softmax by itself still multiplies the zeros of one head).
        groups: the key/value head of each query head.
    """

    head: Cost
    key_head: Cost
    rest: Cost
    groups: tuple[int, ...]

    def of(self, removed: Sequence[int]) -> Cost:
        """Returns the cost of these heads and of what is removed with them."""
        heads = set(removed)
        stay = {group for head, group in enumerate(self.groups) if head not in heads}
        return self.head * len(heads) + self.key_head * (len(set(self.groups)) - len(stay)) + self.rest * (not stay)


@dataclass(frozen=True)
class CostModel:
    """The cost of a model for one batch.

    Attributes:
        dense: with all its heads.
        sites: what the heads of each site add to it, of those that were asked for.
    """

    dense: Cost
    sites: dict[str, SiteCost]

    def without(self, removed: Mapping[str, Sequence[int]]) -> Cost:
        """Returns the cost after heads are cut out, {site: heads}."""
        return self.dense - sum((self.sites[site].of(heads) for site, heads in removed.items()), Cost())


def measure_cost(model: PreTrainedModel, batch: Batch, among: Collection[str] | None = None) -> CostModel | None:
    """Returns the `cost_model`, None where the weights of heads are not found or not those of one site alone."""
    try:
        return cost_model(model, batch, among)
    except UnsupportedModelError:
        return None


def cost_model(model: PreTrainedModel, batch: Batch, among: Collection[str] | None = None) -> CostModel:
    """Counts the dense model with torch's flop counter, and its heads by formula.

    A head costs 2 FLOPs for each of its weights and each token that it acts on (keys and values: those attended to),
    and 2 * queries * keys * width for its scores and as much for its output. Matrices that make queries or keys of
    positions (`conventions.POSITIONS`) count as if they acted on each query. Products of queries with tables of
    positions (SAM) count as if they stayed.

    Args:
        model: dense, or pruned before.
        batch: what it is called with.
        among: the sites whose heads may be removed; None: all.

    Raises:
        UnsupportedModelError: the weights of one of these sites cannot be cut out.
    """
    sites = {name: site for name, site in find_sites(model, batch).items() if among is None or name in among}
    projections = {name: find_projections(model, name) for name in sites}
    check_unshared(model, projections)
    heads = {name: _site_cost(model, site, projections[name]) for name, site in sites.items()}
    return CostModel(count(model, batch), heads)


def count(model: PreTrainedModel, batch: Batch) -> Cost:
    """Returns a model's parameters, and the FLOPs that torch's counter sees in a forward pass over `batch`."""
    counter = FlopCounterMode(display=False)
    frozen = requiring_gradients(model)  # the counter looks for the history of weights that are passed to modules
    with _in_plain_products(model), evaluating(model), frozen, torch.no_grad(), counter:
        model(**batch)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops())


@contextlib.contextmanager
def _in_plain_products(model: PreTrainedModel) -> Iterator[None]:
    """Lets a model compute in matrix products inside the block: fused attention and grouped experts hide theirs."""
    with in_eager_attention(model), sdpa_kernel(SDPBackend.MATH), fast_path_off(), in_plain_experts(model):
        yield


def _site_cost(model: nn.Module, site: Site, found: Projections) -> SiteCost:
    module = model.get_submodule(site.name)
    runs = site.calls * site.rows
    width, outputs = found.output.rows.shape[1], len(matrix(found.output.module))
    products = Cost(0, 2 * runs * site.queries * site.keys * (found.width + width))
    output = Cost(width * outputs, 2 * runs * site.queries * width * outputs)
    gates = sum((_rows(gate, runs * site.queries) for gate in found.gates), Cost())
    head = products + output + gates + _of_norms(module, found, False)
    key_head = _rows(found.value, runs * site.keys) + _of_norms(module, found, True)
    query, key = _rows(found.query, runs * site.queries), _rows(found.key, runs * site.keys)
    rest = Cost()
    if found.joint_norms:
        norms = sum(p.numel() for name in found.joint_norms for p in getattr(module, name).parameters())
        rest = Cost(norms) + query * len(found.query.rows) + key * len(found.key.rows)
    else:
        head, key_head = head + query, key_head + key
    if computes_attention(module):
        rest -= products
    return SiteCost(head, key_head, rest, found.groups)


def _rows(part: HeadRows, tokens: int) -> Cost:
    """Returns the cost of one head's rows of a projection: weights and biases, and products with `tokens` tokens."""
    rows, inputs = part.rows.shape[1], matrix(part.module).shape[1]
    return Cost(rows * (inputs + (part.module.bias is not None)), 2 * tokens * rows * inputs)


def _of_norms(module: nn.Module, found: Projections, of_keys: bool) -> Cost:
    """Returns a head's share of norms with weights per head and, of a query head, of parameters that count heads."""
    norms = (getattr(module, name) for name, is_of_keys in found.head_norms.items() if is_of_keys is of_keys)
    total = sum(p.numel() for norm in norms for p in norm.parameters())
    if of_keys:
        return Cost(total // found.key_heads)
    return Cost((total + sum(parameter.tensor.numel() for parameter in found.parameters)) // found.heads)

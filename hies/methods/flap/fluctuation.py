"""The fluctuation of every head's output over the tokens of a calibration set, from one forward pass over it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from hies.errors import UnsupportedModelError
from hies.heads.attention import evaluating, handling
from hies.heads.calls import Call
from hies.heads.matrices import matrix
from hies.heads.projections import find_projections
from hies.heads.sites import SiteTensors
from hies.heads.weights import check_weights_are_here
from hies.progress import ProgressBar
from hies.scoring.losses import Loss
from hies.scoring.tokens import CountedQueries


@torch.no_grad()
def fluctuations(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], loss: Loss, progress: bool = False
) -> dict[str, SiteTensors]:
    """Returns `fluctuation` -> the weighted variance of each head, {site: [heads]}, float64 on the CPU.

    Tokens of all examples count alike and padding does not, so the result does not depend on how examples are batched.
    A site that is called several times has the tokens of all calls. The model is left as it was.

    Args:
        model: any model whose heads `hies.find_sites` finds and whose output projections have known names.
        batches: dicts that the model accepts; labels are not needed.
        loss: says what of a batch the model reads.
        progress: show a progress bar.

    Raises:
        UnsupportedModelError: the weights of a site are not found, or it adds up a head's output in parts.
    """
    check_weights_are_here(model, "FLAP")
    queries = CountedQueries(model)
    observer = _Observer(queries)
    with handling(model, observer), evaluating(model), queries.run():
        for batch in ProgressBar(batches, "fluctuation", unit="batch", shown=progress):
            queries.answered(batch, loss, observer.start)
            observer.finish()
    scores = {}
    for site, moments in observer.moments.items():
        scores[site] = weighted_fluctuation(moments.variance.cpu(), _output_columns(model, site))
    return {"fluctuation": scores}


def _output_columns(model: nn.Module, site: str) -> Tensor:
    """Returns the columns of the output matrix that read each head, [heads, width, outputs], float64 on the CPU."""
    found = find_projections(model, site)
    columns = matrix(found.output.module).T.double().cpu()  # [heads * width, outputs]
    return columns[found.output.rows.cpu()][found.places_in(found.output)]


@dataclass
class _Moments:
    """Running moments of every channel of a site, float64.

    Attributes:
        count: tokens so far, [heads, 1].
        mean: [heads, width].
        squares: sum of squared deviations from the mean, [heads, width].
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, [heads, width]; NaN of a single token or none."""
        return self.squares / (self.count - 1).where(self.count > 1, torch.nan)

    def joined(self, other: "_Moments") -> "_Moments":
        """Returns the moments of the tokens of both; sums of squares would lose digits where the mean is large."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        difference = other.mean - self.mean
        squares = self.squares + other.squares + difference.square() * self.count * share
        return _Moments(count, self.mean + difference * share, squares)


class _Observer:
    """Takes the moments of every head's output at the tokens that are no padding.

    Attributes:
        moments: site -> its moments so far.
    """

    def __init__(self, queries: CountedQueries) -> None:
        self.moments: dict[str, _Moments] = {}
        self._queries = queries
        self.start()

    def start(self) -> None:
        """Prepares for a forward pass over a batch; one that did not come to its end is forgotten."""
        self._of_batch: list[tuple[str, _Moments]] = []
        self._last: dict[str, ref[Call]] = {}  # of each site; gone with its tensors

    def finish(self) -> None:
        """Takes the moments of the batch after its forward pass."""
        for site, found in self._of_batch:
            self.moments[site] = self.moments[site].joined(found) if site in self.moments else found

    def __call__(self, site: str, call: Call, output: Tensor) -> Tensor:
        """Returns the output [rows, tokens, heads, width] as it is."""
        if self._queries.is_learning:
            return output
        if site in self._last and self._last[site]() is call:
            raise UnsupportedModelError(f"Site {site!r} adds up the output of a head in parts, so it has no variance.")
        self._last[site] = ref(call)
        real = self._queries.of(site, call)
        counted = torch.ones_like(output[..., :1], dtype=torch.bool)
        if real is not None:  # [rows, heads or 1, tokens] -> [rows, tokens, heads or 1, 1]
            counted = counted & real.transpose(1, 2)[..., None]
        self._of_batch.append((site, _moments_of(output.double(), counted)))
        return output


def _moments_of(output: Tensor, counted: Tensor) -> _Moments:
    """Returns the moments of [rows, tokens, heads, width] where `counted`, [rows, tokens, heads, 1], is True."""
    count = counted.sum(dim=(0, 1)).double()  # [heads, 1]
    mean = output.where(counted, 0).sum(dim=(0, 1)) / count.clamp(min=1)
    squares = (output - mean).where(counted, 0).square().sum(dim=(0, 1))
    return _Moments(count, mean, squares)


def weighted_fluctuation(variance: Tensor, columns: Tensor) -> Tensor:
    """Fluctuation of a head's output (FLAP, An et al. 2024): F_h = sum_c Var_t(A_htc) || W_c ||^2.

    Args:
        variance: of channel c of the head's output over all tokens, [heads, width].
        columns: W_c, the column of the output projection that reads channel c, [heads, width, outputs].

    Returns:
        Non-negative, [heads].
    """
    return (variance * columns.square().sum(dim=-1)).sum(dim=-1)


def standardized(values: Tensor) -> Tensor:
    """Deviation from the mean in standard deviations (of all values, not of a sample); 0 where all are alike, [n]."""
    differ = (values != values[:1]).any()  # equal values may deviate by rounding
    return torch.where(differ, (values - values.mean()) / values.std(correction=0), 0.0)

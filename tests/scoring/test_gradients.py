"""Gradients that would lack a part of the model are refused, not scored."""

import warnings

import pytest
import torch
from tiny_models import make, make_batch
from torch.utils.checkpoint import checkpoint

import hies
from hies import UnsupportedModelError
from hies.scoring.gradients import differentiated

SILENT = torch.library.Library("hies_tests", "DEF")
SILENT.define("doubled(Tensor x) -> Tensor")
SILENT.impl("doubled", lambda x: x * 2, "CPU")  # torch only warns, as it does of kernels of quantised layers


@torch.library.custom_op("hies_tests::loud", mutates_args=())
def loud(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@pytest.mark.parametrize("need", [("his",), ("his_token",)])
def test_an_operator_that_passes_no_gradient_on_is_named(need):
    model, batch = make("bert").eval(), make_batch("bert")
    inner = model.bert.encoder.layer[1].intermediate
    hook = inner.register_forward_hook(lambda module, inputs, output: torch.ops.hies_tests.doubled(output))
    with pytest.raises(UnsupportedModelError, match=r"hies_tests::doubled passes no gradient on, .*need=\('ae',\)"):
        hies.collect(model, [batch], need)
    assert hies.collect(model, [batch], ("ae",)).examples == len(batch["labels"])
    hook.remove()
    inner.register_forward_hook(lambda module, inputs, output: loud(output))
    with pytest.raises(UnsupportedModelError, match="cannot be differentiated"):
        hies.collect(model, [batch], need)


def test_layers_that_are_computed_again_in_the_old_way_are_refused():
    model, batch = make("bert").eval(), make_batch("bert")
    inner = model.bert.encoder.layer[1].intermediate
    forward = inner.forward
    inner.forward = lambda states: checkpoint(forward, states, use_reentrant=True)
    with pytest.raises(UnsupportedModelError, match=r"cannot be differentiated .*checkpoint"):
        hies.collect(model, [batch])


def test_other_warnings_of_a_backward_pass_are_given_on():
    class Warns(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * 2

        @staticmethod
        def backward(context, gradient):
            warnings.warn("said on the way back", UserWarning, stacklevel=1)
            return gradient * 2

    x = torch.ones(3, requires_grad=True)
    with pytest.warns(UserWarning, match="said on the way back"):
        assert differentiated(Warns.apply(x).sum(), [x])[0].tolist() == [2, 2, 2]

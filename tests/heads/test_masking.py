"""A mask belongs to who opened it: threads, tasks, and backward passes that compute layers again."""

import asyncio
import contextvars
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import checks
import pytest
import torch
from tiny_models import assert_same_state, make, make_batch, state_of

from hies import HiesError, collect, find_sites, masked, prune

OTHER = "by another thread or task"
COPIED = "belongs to a copy that was made while its model was being masked"


@torch.no_grad()
def logits_of(model, batch):
    return model(**batch).logits


@pytest.fixture
def masks():
    """A model, its batch, and {head: its logits with that head of the first site masked}."""
    model, batch = make("llama").eval(), make_batch("llama")
    site = next(iter(find_sites(model, batch)))
    answers = {}
    for head in range(3):
        with masked(model, {site: [head]}):
            answers[head] = logits_of(model, batch)
    return model, batch, site, answers


def in_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


# --- threads and tasks ------------------------------------------------------------------------------------------------


def test_threads_that_mask_one_model_get_their_own_mask_or_a_refusal(masks):
    model, batch, site, answers = masks
    dense, before, found = logits_of(model, batch), state_of(model), []
    start = threading.Barrier(3)

    def work(head):
        start.wait()
        for _ in range(10):
            try:
                with masked(model, {site: [head]}):
                    found.append(torch.equal(logits_of(model, batch), answers[head]))
            except HiesError as error:
                found.append(OTHER in str(error))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, answers))
    assert len(found) == 30 and all(found)
    assert torch.equal(logits_of(model, batch), dense)
    assert_same_state(model, before)


def test_tasks_that_mask_one_model_get_their_own_mask_or_a_refusal(masks):
    model, batch, site, answers = masks

    async def work(head):
        with masked(model, {site: [head]}):
            await asyncio.sleep(0)
            return torch.equal(logits_of(model, batch), answers[head])

    async def work_together():
        return await asyncio.gather(*map(work, answers), return_exceptions=True)

    first, *others = asyncio.run(work_together())
    assert first is True and all(isinstance(other, HiesError) and OTHER in str(other) for other in others)
    assert asyncio.run(work(1))  # later it may


@pytest.mark.parametrize("run", [logits_of, lambda model, batch: collect(model, [batch]), find_sites])
def test_another_thread_is_refused_while_a_mask_is_open(masks, run):
    model, batch, site, answers = masks
    with masked(model, {site: [1]}):
        before = state_of(model)
        with pytest.raises(HiesError, match=OTHER):
            in_thread(run, model, batch)
        assert state_of(model)["requires_grad"] == before["requires_grad"]
        assert torch.equal(logits_of(model, batch), answers[1])


def test_threads_and_tasks_that_take_the_context_over_see_the_mask(masks):
    model, batch, site, answers = masks

    async def work():
        with masked(model, {site: [2]}):
            return await asyncio.gather(asyncio.to_thread(logits_of, model, batch), as_task())

    async def as_task():
        return logits_of(model, batch)

    with masked(model, {site: [2]}):
        found = [in_thread(partial(contextvars.copy_context().run, logits_of, model, batch)), *asyncio.run(work())]
    assert all(torch.equal(one, answers[2]) for one in found)


def test_copies_are_masked_side_by_side_and_models_of_one_configuration_are_not(masks):
    model, batch, site, answers = masks
    twin = type(model)(model.config).eval()
    other = copy.deepcopy(model)

    def answers_of(one, head):
        with masked(one, {site: [head]}):
            return logits_of(one, batch)

    with masked(model, {site: [0]}):
        assert torch.equal(in_thread(answers_of, other, 1), answers[1])
        with pytest.raises(HiesError, match=OTHER):  # it would switch the configuration of both
            in_thread(answers_of, twin, 1)
        assert answers_of(twin, 1).shape == answers[1].shape


@pytest.mark.parametrize("name", ["llama", "gpt2", "swinv2"])
def test_a_copy_that_is_made_inside_the_block_does_not_run_without_its_mask(name):
    model, batch = make(name).eval(), checks.inputs_of(name, dtype=torch.float32)
    site = next(iter(find_sites(model, batch)))
    before = state_of(model)
    with masked(model, {site: [0]}):
        expected = logits_of(model, batch)
        other = copy.deepcopy(model)
        with pytest.raises(HiesError, match=COPIED):
            logits_of(other, batch)
        assert torch.equal(logits_of(model, batch), expected)
    assert_same_state(model, before)
    with pytest.raises(HiesError, match=COPIED):  # not after it, either
        logits_of(other, batch)


def test_a_copy_of_a_pruned_model_that_is_made_inside_the_block_is_refused_too(masks):
    model, batch, site, _ = masks
    small = prune(model, {site: [0]})
    dense = logits_of(small, batch)
    with masked(small, {site: [0]}):
        other = copy.deepcopy(small)
        with pytest.raises(HiesError, match=COPIED):
            logits_of(other, batch)
    assert torch.equal(logits_of(small, batch), dense)


def test_a_copy_of_a_module_that_is_watched_is_not_watched_twice():
    model, batch = make("swinv2").eval(), make_batch("swinv2")
    with masked(model, {}):
        other = copy.deepcopy(model)
    with pytest.raises(HiesError, match=COPIED):
        collect(other, [batch], need=("ae",))
    collect(model, [batch], need=("ae",))


def test_a_model_of_the_same_configuration_is_dense_inside_the_block(masks):
    model, batch, site, _ = masks
    twin = type(model)(model.config).eval()
    dense = logits_of(twin, batch)
    with masked(model, {site: [0]}):
        assert torch.equal(logits_of(twin, batch), dense)


@pytest.mark.parametrize("name", ["llama", "llava"])
def test_an_implementation_that_is_set_inside_the_block_is_refused(name):
    model, batch = make(name).eval(), make_batch(name)
    site = next(iter(find_sites(model, batch)))
    before = state_of(model)
    with pytest.raises(HiesError, match=r"was set to 'eager' while .* before the block"), masked(model, {site: [0]}):
        model.set_attn_implementation("eager")
        logits_of(model, batch)
    assert_same_state(model, before)
    with pytest.raises(ZeroDivisionError), masked(model, {site: [0]}):  # an error inside is not hidden by it
        model.set_attn_implementation("eager")
        _ = 1 / 0
    assert_same_state(model, before)


def test_copies_of_data_parallel_are_refused(masks):
    model, batch, site, _ = masks
    module = model.get_submodule(site)
    replica = copy.copy(module)
    replica._is_replica = True  # as torch.nn.parallel.replicate leaves it
    with pytest.raises(HiesError, match=r"^torch\.nn\.DataParallel copies the model"), masked(model, {site: [0]}):
        model.model.layers[0].self_attn = replica
        try:
            logits_of(model, batch)
        finally:
            model.model.layers[0].self_attn = module


# --- backward passes --------------------------------------------------------------------------------------------------


def trained(reentrant):
    """A model in training without dropout, with gradient checkpointing if `reentrant` is not None."""
    model = make("llama").train()
    model.model.embed_tokens.weight.requires_grad_(True)
    model.enable_input_require_grads()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


def gradients(model, batch, removed, inside):
    with masked(model, removed):
        loss = model(**batch).loss
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_pass_that_would_forget_the_mask_is_refused(masks, reentrant):
    _, batch, site, _ = masks
    expected = gradients(trained(None), batch, {site: [1]}, inside=True)
    for found in (
        gradients(trained(None), batch, {site: [1]}, False),
        gradients(trained(reentrant), batch, {site: [1]}, True),
    ):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    model = trained(reentrant)
    with pytest.raises(HiesError, match=r"after the hies\.masked block ended, .* run it inside the block"):
        gradients(model, batch, {site: [1]}, inside=False)
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_layer_that_a_caller_computes_again_is_noticed_and_an_evaluation_is_not(masks):
    from torch.utils.checkpoint import checkpoint

    model, batch, site, _ = masks
    layer = model.model.layers[0]
    forward = layer.forward
    layer.forward = lambda hidden, **kwargs: checkpoint(partial(forward, **kwargs), hidden, use_reentrant=True)
    model.enable_input_require_grads()
    with masked(model, {site: [1]}):
        late = model(**batch).loss
    with pytest.raises(HiesError, match="after the hies"):
        late.backward()
    layer.forward = forward
    with masked(model, {site: [1]}):
        logits_of(model, batch)  # records no graph, and says nothing of the next pass
        loss = model(**batch).loss
    loss.backward()


def test_a_part_called_without_gradients_is_not_computed_again(masks):
    model, batch, site, _ = masks
    layer = model.model.layers[0]
    layer.forward = torch.no_grad()(layer.forward)
    with masked(model, {site: [1]}):
        loss = model(**batch).loss
    loss.backward()

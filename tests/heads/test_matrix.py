"""The architecture matrix: every family is found, scored, masked, pruned and saved, or refused before anything changes.

The checks, and what each compares with, are in `checks.py`.
"""

import copy
import re

import checks
import pytest
import torch
from architectures import ARCHITECTURES
from tiny_models import MATRIX, SAMPLE, assert_same_state, built, make, make_batch, some_heads, state_of
from torch.nn.utils.prune import l1_unstructured
from unsupported_models import PARTLY, UNPRUNABLE

import hies
from hies.heads import conventions

PARTS = (
    *(*conventions.SEPARATE, *conventions.BESIDE.items(), conventions.LATENT_QUERIES, (conventions.LATENT,)),
    *(conventions.FUSED, conventions.OUTPUTS),
    *(conventions.BY_HEAD, conventions.PARAMETERS, conventions.NORMS, conventions.WHOLE),
)


def case(name, *values):
    """The arguments of a test, which an ordinary run leaves out if the architecture is not in the sample."""
    return pytest.param(name, *values, marks=[] if name in (*SAMPLE, *UNPRUNABLE) else pytest.mark.beyond_sample)


SIDES = [case(name, side) for name in MATRIX for side in checks.sides(name)]
SCORED = [*SIDES, *(case(name, "right") for name in UNPRUNABLE)]


def test_every_part_that_the_conventions_name_is_in_a_sampled_architecture():
    modules = [module for name in (*SAMPLE, *UNPRUNABLE) for module in built(name, 0).modules()]
    found = {part for module in modules for part in (*module._modules, *module._parameters)}
    assert {part for names in PARTS for part in names} - found == {"q_layer_norm", "k_layer_norm"}  # Idefics, by choice


@pytest.mark.parametrize("name", [name for name in MATRIX if name not in ARCHITECTURES])  # those: test_attention.py
def test_every_head_is_found(name):
    checks.check_found(name)


@pytest.mark.parametrize(("name", "side"), SCORED)
def test_scores_are_finite_differences_and_entropies_of_eager_weights(name, side):
    checks.check_scored(name, side)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_masking_is_zeroing_the_columns_of_the_output_projection(name, side):
    checks.check_masked(name, side)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_pruned_logits_are_masked_logits(name, side):
    checks.check_pruned(name, side)


@pytest.mark.parametrize("name", map(case, MATRIX))
def test_what_is_saved_is_loaded(name, tmp_path):
    checks.check_saved(name, tmp_path)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_what_cannot_be_cut_is_masked(name):
    checks.check_silenced(name)


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_what_cannot_be_cut_is_refused_by_name_before_anything_changes(name):
    model = make(name)
    removed = some_heads(hies.find_sites(model, checks.inputs_of(name, dtype=torch.float32)), "some")
    before, config = state_of(model), model.config.to_dict()
    kinds = "|".join({type(model.get_submodule(site)).__name__ for site in removed})
    with pytest.raises(
        hies.UnsupportedModelError, match=rf"^The heads of site '.*' \(({kinds})\) cannot be cut out: \S+"
    ):
        hies.prune(model, removed)
    assert_same_state(model, before)
    assert model.config.to_dict() == config
    assert hies.pruned_heads(model) == {}


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_every_site_can_be_cut_or_says_why_not(name):
    model, batch = make(name), checks.inputs_of(name, dtype=torch.float32)
    every = hies.find_sites(model, batch)
    before = state_of(model)  # the first pass left hooks of transformers' own
    found = hies.prunable(model, batch)
    assert found == {site: every[site] for site in every if site not in found.refused}
    assert len(found) == PARTLY.get(name, 0) and len(found) + len(found.refused) == len(every)
    for site, reason in found.refused.items():
        says = f"^The heads of site '{site}' .* cannot be cut out: {re.escape(reason)}\\.$"
        with pytest.raises(hies.UnsupportedModelError, match=says):
            hies.prune(model, {site: [0]})
    assert_same_state(model, before)


@pytest.mark.parametrize("name", PARTLY)
def test_what_can_be_cut_of_a_model_is_what_masking_it_gives(name, tmp_path):
    checks.check_partly(name, tmp_path)


class Doubled(torch.nn.Linear):
    def forward(self, hidden):
        return 2 * super().forward(hidden)


def change(attribute, part):
    return lambda module: setattr(module, attribute, part(getattr(module, attribute, None)))


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("afmoe", change("gate_proj", torch.nn.Sequential), "part 'gate_proj'"),
        ("llama", change("k_proj", torch.nn.Sequential), "naming convention"),
        ("llama", change("v_proj", lambda old: Doubled(48, 48, bias=False)), "its v_proj is a Doubled, and what that"),
        (
            "llama",
            change("o_proj", torch.nn.utils.parametrizations.weight_norm),
            "weight of its o_proj is made of other",
        ),
        ("llama", change("q_proj", lambda old: l1_unstructured(old, "weight", 0.3)), "its q_proj .*nn.utils.prune"),
        ("llama", change("extra", lambda old: torch.nn.Linear(48, 48)), "part 'extra'"),
        ("llama", change("extra", lambda old: torch.nn.Parameter(torch.ones(6))), "parameter 'extra'"),
        ("gpt_oss", change("sinks", lambda old: torch.nn.Parameter(torch.ones(3))), "sinks is for 3 heads, not 6"),
        (
            "qwen3",
            change("q_norm", lambda old: torch.nn.LayerNorm((6, 8))),
            r"norm q_norm has weights of shape \(6, 8\)",
        ),
        ("qwen3", change("v_norm", lambda old: torch.nn.RMSNorm(16)), "norm v_norm has weights"),
    ],
)
def test_parts_that_could_give_wrong_numbers_are_refused(name, changed, says):
    model = make(name)
    site = list(hies.find_sites(model, make_batch(name)))[1]
    changed(model.get_submodule(site))
    before = state_of(model)
    with pytest.raises(hies.UnsupportedModelError, match=says):
        hies.prune(model, {site: [0]})
    assert_same_state(model, before)


@pytest.mark.parametrize("name", ["phi3", "umt5", "gpt_oss", "deepseek_v3", "moonshine", "dbrx", "stablelm"])
def test_pruning_leaves_the_given_model_as_it_is(name):
    model, batch = make(name), checks.inputs_of(name, dtype=torch.float32)
    removed = some_heads(hies.find_sites(model, batch), "a layer")
    before, config = state_of(model), model.config.to_dict()
    small = hies.prune(model, removed)
    checks.run(small, batch)
    assert_same_state(model, before)
    assert model.config.to_dict() == config
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in small.parameters() if parameter.numel()}


@pytest.mark.parametrize("name", ["phi3", "parakeet", "moonshine"])  # whose forwards look head counts up there
def test_a_layer_has_counts_of_its_own_in_a_configuration_that_is_otherwise_the_models(name):
    model, batch = make(name).eval(), checks.inputs_of(name, dtype=torch.float32)
    removed = {site: list(range(3, found.heads)) for site, found in hies.find_sites(model, batch).items()}
    small = copy.deepcopy(hies.prune(model, removed))
    expected = checks.run(small, batch)
    small.set_attn_implementation("eager")
    names = {module.config._attn_implementation for module in small.modules() if hasattr(module, "config")}
    assert names == {"eager", "hies_eager"}  # of the model, and of the modules that were pruned
    torch.testing.assert_close(checks.run(small, batch), expected, atol=1e-4, rtol=1e-4)
    assert small.config.to_dict() == model.config.to_dict()

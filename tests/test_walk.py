"""The walk over the model types: on a few it runs here, and the page is what it wrote of all."""

import json

import pytest
import transformers
from checks import CASES  # noqa: F401 - of tests/support, which the walk needs

from tests.walk import catalogue, page, shrinking
from tests.walk.matrix import row_of

DATA = json.loads(page.DATA.read_text())
of_this_version = pytest.mark.skipif(DATA["transformers"] != transformers.__version__, reason="another transformers")


@pytest.mark.parametrize("name", ["gpt-sw3", "blip", "chinese_clip", "albert"])  # the last stands in tests/support
def test_a_type_is_built_by_rule_and_passes_the_matrix(name):
    row = row_of(name)
    assert not row["faults"]
    assert (row["scored"], row["masked"]) == ("yes", "yes")
    assert (row["entry"] is None) == (name != "albert")


def test_what_has_no_heads_says_what_it_is_made_of():
    row = row_of("resnet")
    assert row["why"] == "convolutions" and row["found"].startswith("refused: ") and not row["faults"]
    assert page.group_of(row) == "without"


def test_a_small_configuration_keeps_kinds_of_layers_tokens_and_what_divides():
    config = shrinking.small_config(transformers.Qwen3NextConfig(), shrinking.RUNGS[0])
    assert config.layer_types == ["linear_attention", "full_attention"]
    assert (
        config.hidden_size % config.num_attention_heads == 0 == config.num_attention_heads % config.num_key_value_heads
    )
    pair = shrinking.small_config(transformers.LlavaConfig(image_token_index=31999), shrinking.RUNGS[0])
    assert 0 < pair.image_token_index < pair.text_config.vocab_size


@of_this_version
def test_every_model_type_stands_in_the_data():
    assert sorted(DATA["types"]) == sorted(catalogue.types())
    parts = {name for name, row in DATA["types"].items() if "part" in row}
    assert all(DATA["types"][name]["part"] in DATA["types"] for name in parts)


def test_the_page_is_what_the_data_say():
    assert page.PAGE.read_text() == page.rendered(DATA)


def test_every_type_is_on_the_page():
    text = page.PAGE.read_text()
    assert [name for name in DATA["types"] if f"`{name}`" not in text] == []


def test_the_readme_says_what_the_walk_counted():
    counts = dict(page.counts(DATA["types"]))
    said = (
        f"{counts['heads found, scored and masked']} are scored and masked, {counts['pruned and loaded again']} pruned"
    )
    assert said in " ".join((page.DOCS.parent / "README.md").read_text().split())

"""Texts beyond a model's positions are refused with the option's name, where there is a table of positions at all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_folders import SIZES, write_folder
from transformers import AutoConfig, AutoModel

from hies.errors import ParameterError
from hies.evaluation.checkpoints import TaskModel
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.evaluation.positions import check_positions, positions_of
from hies.tasks import TASKS
from hies.tasks.splits import Split, Splits

SMALL = {"vocab_size": 23, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
KINDS = {
    "bert": (SMALL, 19),
    "roberta": (SMALL, 19 - 2),  # the first two rows are padding's
    "gpt2": ({"vocab_size": 23, "n_embd": 8, "n_head": 2, "n_layer": 1}, 19),
    "opt": ({**SMALL, "ffn_dim": 8, "word_embed_proj_dim": 8}, 19),
    "distilbert": ({"vocab_size": 23, "dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8}, 19),
    "llama": (SMALL, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_positions_are_those_that_a_forward_pass_takes(kind):
    options, positions = KINDS[kind]
    network = AutoModel.from_config(AutoConfig.for_model(kind, max_position_embeddings=19, **options))
    assert positions_of(network) == positions

    def tokens(count):
        return torch.full((1, count), 3)

    with torch.no_grad():
        network(tokens(positions or 29))
        if positions:
            with pytest.raises((IndexError, RuntimeError)):
                network(tokens(positions + 1))


@pytest.mark.parametrize(("kind", "tokens"), [("roberta", 17), ("bert", 19), ("llama", 19)])
def test_what_a_model_costs_is_counted_on_as_many_tokens_as_it_has_positions(kind, tokens):
    network = AutoModel.from_config(AutoConfig.for_model(kind, max_position_embeddings=19, **SMALL))
    model = Model("small", source="anywhere", max_length=31)
    evaluator = SimpleNamespace(model=model, network=network, device=torch.device("cpu"))
    assert Evaluator._longest_example(evaluator)["input_ids"].shape == (1, tokens)


def test_only_a_text_that_is_too_long_is_refused():
    network = AutoModel.from_config(AutoConfig.for_model("bert", max_position_embeddings=19, **SMALL))
    check_positions(network, 19, lambda: pytest.fail("it is not looked at"))
    check_positions(network, 20, lambda: 19)
    with pytest.raises(ParameterError, match="max_length is 31; the model has 19 positions and the longest text 20"):
        check_positions(network, 31, lambda: 20)


def test_a_model_is_not_trained_on_texts_beyond_its_positions(tmp_path):
    config = AutoConfig.for_model("bert", **{**SIZES, "max_position_embeddings": 19})
    write_folder(tmp_path, AutoModel.from_config(config))
    longer = TaskModel(
        Model(source=str(tmp_path), max_length=31), TASKS["apidocs"](), None, tmp_path, torch.device("cpu")
    )
    split = Split({"text": ["a" * 23, "b"]}, np.array([0, 1]))
    longer.splits = Splits(split, split, split)
    with pytest.raises(ParameterError, match="max_length is 31; the model has 19 positions and the longest text 23"):
        longer._finetuned()

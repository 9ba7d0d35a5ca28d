"""Tiny models with a tokenizer, as folders that `from_pretrained` reads."""

import string

import torch
import transformers as tf
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as Decoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer

from hies.heads import projections

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
VOCABULARY = {
    word: i for i, word in enumerate((*SPECIAL, *CHARACTERS, *(f"##{letter}" for letter in string.ascii_lowercase)))
}
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 13,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}


def spelling_tokenizer():
    """A tokenizer that spells every word."""
    spelling = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    spelling.normalizer, spelling.pre_tokenizer, spelling.decoder = Lowercase(), BertPreTokenizer(), Decoder()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=spelling,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def write_folder(folder, model):
    """Save a model, its weights redrawn so that every head matters, and a tokenizer that spells every word."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    spelling_tokenizer().save_pretrained(folder)
    return folder


def causal_folder(folder):
    """A LLaMA that reads texts on, and whose tokenizer knows where a text ends."""
    write_folder(folder, tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED, bos_token_id=None, eos_token_id=3)))
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    return folder


def keep_middle_layer_whole(monkeypatch):
    """Lets the heads of the second layer be refused, as where layers share their keys."""
    check = projections._check_kind

    def refusing(module):
        if getattr(module, "layer_idx", None) == 1:
            raise projections.CannotPruneError("it is sewn together")
        check(module)

    monkeypatch.setattr(projections, "_check_kind", refusing)

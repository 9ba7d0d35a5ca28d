"""Prunes a language model so that plain from_pretrained and generate_batch take it, and says what that costs.

python examples/plain.py --model FOLDER --texts docs/results.md --out plain
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder or name of a language model")
parser.add_argument("--texts", required=True, help="file; lines of more than eight words are read, 64 at most")
parser.add_argument("--out", required=True, help="folder for the smaller model")
parser.add_argument("--ratio", type=float, default=0.3)


def main(words: list[str] | None = None) -> dict[str, float]:
    """Runs the example; returns the losses."""
    options = parser.parse_args(words)
    model = AutoModelForCausalLM.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    lines = Path(options.texts).read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if len(line.split()) > 8][:64]
    batches = list(hies.batches(tokenizer, texts, model=model, batch_size=1, max_length=64))

    scores = hies.HIES(alpha=0.9)(hies.collect(model, batches[::2]))
    plain = hies.select(scores, options.ratio, sites=hies.prunable(model, batches[0]), plain=True)
    print(plain.note)
    free = hies.select(scores, sum(map(len, plain.values())) / sum(map(len, scores.values())))
    losses = {}
    for name, removed in {"dense": {}, "chosen freely": free, "plain": plain}.items():
        with hies.masked(model, removed):
            losses[name] = hies.evaluate(model, batches[1::2]).loss
        print(f"{name:<14} loss {losses[name]:.3f}")

    assert hies.save_pruned(hies.prune(model, plain), options.out)  # True: plain from_pretrained loads it
    tokenizer.save_pretrained(options.out)
    small = AutoModelForCausalLM.from_pretrained(options.out)  # no code of this library
    prompts = tokenizer(["Attention is", "The heads of a layer"])["input_ids"]
    greedy = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    cache = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64, use_cuda_graph=False)
    for answer in small.generate_batch(prompts, generation_config=greedy, continuous_batching_config=cache).values():
        print(repr(tokenizer.decode(answer.generated_tokens)))
    return losses


if __name__ == "__main__":
    main()

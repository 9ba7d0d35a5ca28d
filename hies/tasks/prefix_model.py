"""lm-eval's wrapper of a network, which computes each token once where several texts begin alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel

from hies.batch_size import is_out_of_memory
from hies.heads.attention import handling
from hies.heads.branches import Branches, branching, predicting_only
from hies.heads.forwards import INTERFACE, names_reached_by
from hies.tasks.base import TOKENS
from hies.tasks.prefix_tree import OPEN, Group, Text, Tree, grow

TRIED = 4  # texts of a row at most, at even distances, whose answers are compared with the plain way's
NATS = 1e-3  # nats that log-likelihoods may differ by, besides the rounding of low precision
Request = tuple[Any, list[int], list[int]]  # the texts, the tokens of the context, and those of the continuation
Likelihood = tuple[float, bool]  # log-likelihood of a continuation, and whether each token is the likeliest one
Stem = list[tuple[Tensor, Tensor]]  # keys and values [1, heads, tokens, width] of each layer

# network -> with a stem or without -> tokens of the longest row whose answers were right; 0: they were wrong
_proven: WeakKeyDictionary[PreTrainedModel, dict[bool, int]] = WeakKeyDictionary()


class PrefixLM(HFLM):
    """Gives HFLM's log-likelihoods, computed from trees of tokens where that is right for the network.

    It is not for recurrent layers, say, or for models that make masks or biases from the places of tokens in a row. So
    a network is asked both ways about some texts, and again when rows are longer than before. Where attention modules
    choose the keys that they see, few texts are wrong, those where scores of keys are as good as equal: no trees then.
    """

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Likelihood]:
        texts = [self._text(context, continuation) for _, context, continuation in requests]
        TOKENS["plain"] += _distinct_tokens(texts)
        answers = None if _chooses_keys(self.model) else self._compared(requests, grow(texts), disable_tqdm)
        return self._plainly(requests, disable_tqdm) if answers is None else answers

    def _plainly(self, requests: Sequence[Request], disable_tqdm: bool = True) -> list[Likelihood]:
        TOKENS["computed"] += _distinct_tokens(self._text(*tokens) for _, *tokens in requests)
        return super()._loglikelihood_tokens(list(requests), disable_tqdm=disable_tqdm)

    def _text(self, context: list[int], continuation: list[int]) -> Text:
        """Returns what the network reads of a request, cut on the left where it is too long, as HFLM cuts it."""
        assert context and 0 < len(continuation) <= self.max_length
        whole = (context + continuation)[-(self.max_length + 1) :]
        return Text(tuple(whole[:-1]), len(continuation))

    def _compared(
        self, requests: Sequence[Request], groups: Sequence[Group], disable_tqdm: bool
    ) -> list[Likelihood] | None:
        """Returns the answers from trees; None where they are, or were, not those of the plain way."""
        proven = _proven.setdefault(self.model, {})
        if any(proven.get(bool(group.stem)) == 0 for group in groups):
            return None
        answers = [(math.nan, False)] * len(requests)
        try:
            self._answer_in_trees(answers, requests, groups, disable_tqdm)
        except Exception as error:  # each architecture has its own way to say that it cannot read such rows
            if is_out_of_memory(error):
                raise
        for group in sorted(groups, key=lambda group: -group.longest):
            if proven.get(bool(group.stem), 0) < group.longest:
                proven[bool(group.stem)] = group.longest * self._agrees(answers, requests, group)
        return answers if all(proven[bool(group.stem)] for group in groups) else None

    def _agrees(self, answers: Sequence[Likelihood], requests: Sequence[Request], group: Group) -> bool:
        """Returns whether some texts of the longest, the fullest and the shortest row have the plain way's answers."""
        fullest = max(group.rows, key=lambda row: len(row.asked))
        texts = [[*row.asked] for row in (group.rows[0], fullest, group.rows[-1])]
        tried = sorted({number for of_row in texts for number in of_row[:: -(-len(of_row) // TRIED)]})
        plain = self._plainly([requests[number] for number in tried])
        step = torch.finfo(self.mixed_precision_dtype or self.model.dtype).eps
        pairs = [(answers[number][0], likelihood) for number, (likelihood, _) in zip(tried, plain, strict=True)]
        return all(abs(one - other) <= NATS + 8 * step * abs(other) for one, other in pairs)

    def _answer_in_trees(
        self, answers: list[Likelihood], requests: Sequence[Request], groups: Sequence[Group], disable_tqdm: bool
    ) -> None:
        """Puts the answers to all requests in their places."""
        longest = max(len(context) + len(continuation) for _, context, continuation in requests)
        most = self.batch_size * min(longest, self.max_length)  # tokens of lm-eval's largest batch
        computing = torch.autocast(self.device.type, self.mixed_precision_dtype, self.mixed_precision_dtype is not None)
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="log-likelihoods")
        with bar, torch.no_grad(), computing, handling(self.model, lambda name, call, output: output):
            for group in groups:
                stem = self._stem(group.stem) if group.stem else None
                for rows in group.batches(most):
                    for number, likelihood in self._answers(requests, rows, len(group.stem), stem):
                        answers[number] = likelihood
                        bar.update()

    def _stem(self, tokens: Sequence[int]) -> Stem:
        """Returns keys and values of what all rows of a group begin with."""
        TOKENS["computed"] += len(tokens)
        ids = torch.tensor([tokens], device=self.device)
        cache = DynamicCache()  # without a window: the mask hides what is too far away
        with predicting_only(self.model.get_output_embeddings(), torch.zeros(1, dtype=torch.int64)):
            self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        return [(keys, values) for keys, values, _ in cache]

    def _answers(
        self, requests: Sequence[Request], rows: Sequence[Tree], length: int, stem: Stem | None
    ) -> Iterator[tuple[int, Likelihood]]:
        """Yields the numbers and answers of the requests in a batch of rows behind a stem of `length` tokens."""
        size = len(rows[0].tokens)
        places = {n: [i * size + place for place in at] for i, row in enumerate(rows) for n, at in row.asked.items()}
        distinct = sorted({place for at in places.values() for place in at})
        log_probabilities = torch.log_softmax(self._logits(rows, length, stem, distinct), -1, self.softmax_dtype)
        likeliest = log_probabilities.argmax(-1)
        index = {place: i for i, place in enumerate(distinct)}
        where = torch.tensor([index[place] for at in places.values() for place in at], device=self.device)
        said = torch.tensor([token for number in places for token in requests[number][2]], device=self.device)
        lengths = [len(at) for at in places.values()]
        sums = torch.stack([part.sum() for part in log_probabilities[where, said].split(lengths)]).tolist()
        greedy = torch.stack([part.all() for part in (likeliest[where] == said).split(lengths)]).tolist()
        return zip(places, zip(sums, greedy, strict=True), strict=True)

    def _logits(self, rows: Sequence[Tree], length: int, stem: Stem | None, places: Sequence[int]) -> Tensor:
        """Returns logits [places, vocabulary] of some tokens, counted over all rows with their padding."""
        TOKENS["computed"] += sum(len(row.tokens) for row in rows)
        ids, depths = self._padded([row.tokens for row in rows], 0), self._padded([row.depths for row in rows], 0)
        ends = self._padded([row.ends for row in rows], OPEN)
        before = torch.arange(length, device=self.device).expand(len(rows), -1)
        trees = Branches(torch.cat([before, depths], 1), torch.cat([torch.full_like(before, OPEN), ends + length], 1))
        cache = stem and DynamicCache([tuple(one.expand(len(rows), -1, -1, -1) for one in layer) for layer in stem])
        head, chosen = self.model.get_output_embeddings(), torch.tensor(places)
        with branching(trees), predicting_only(head, chosen):
            # With a mask, nobody takes positions that begin again for those of separate texts.
            outputs = self.model(
                input_ids=ids, attention_mask=torch.ones_like(trees.depths), position_ids=depths,
                past_key_values=cache, use_cache=cache is not None,
            )  # fmt: skip
        return outputs.logits[0]

    def _padded(self, lists: Sequence[list[int]], filler: int) -> Tensor:
        size = len(lists[0])
        return torch.tensor([[*one, *[filler] * (size - len(one))] for one in lists], device=self.device)


def _chooses_keys(network: PreTrainedModel) -> bool:
    """Returns whether attention modules, or parts of them, take the best of something (sparse attention of keys)."""
    attention = (
        m for m in network.modules() if not isinstance(m, PreTrainedModel) and INTERFACE in names_reached_by(m)
    )
    return any("topk" in names_reached_by(part) for module in attention for part in module.modules())


def _distinct_tokens(texts: Iterable[Text]) -> int:
    """Returns the tokens that HFLM reads: it asks once where texts are the same but for the last, predicted, token."""
    return sum(map(len, {text.tokens for text in texts}))

"""Texts of tokens as trees: what several of them begin with is written once.

Texts in the order of their tokens are a tree that is read branch by branch, so that each adds to its row what it does
not share with the one before. All of this is lists; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

STEM = 64  # tokens from which on a common beginning may be worth a pass of its own, whose keys and values texts share
LONGEST = 1024  # tokens that a row grows to, besides its stem and what the next text shares with it
PAIRS = 2048  # pairs of tokens that attention compares in the time that one token takes in all other layers
ALIKE = 0.8  # of the longest row's tokens that each row of its batch has, so that there is little padding
OPEN = 2**31  # the end of a branch that nothing follows


class Text(NamedTuple):
    """What a model reads, and at how many of its last tokens it is asked what comes next."""

    tokens: tuple[int, ...]
    asked: int


@dataclass
class Tree:
    """A tree of tokens, one branch after the other.

    Attributes:
        tokens: without the stem.
        depths: the position of each in its text, the stem included.
        ends: of each, the place in this row behind the branch that it begins.
        asked: number of a text -> the places of those of its tokens that are asked about.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    asked: dict[int, list[int]] = field(default_factory=dict)
    _path: list[int] = field(default_factory=list)  # places of the last text's tokens

    def add(self, number: int, text: Text, stem: int, shared: int) -> None:
        """Adds a text whose first `shared` tokens behind the stem are those of the one before."""
        start, new = len(self.tokens), text.tokens[stem + shared :]
        for place in self._path[shared:]:
            self.ends[place] = start
        self._path = [*self._path[:shared], *range(start, start + len(new))]
        self.tokens += new
        self.depths += range(stem + shared, len(text.tokens))
        self.ends += [OPEN] * len(new)
        self.asked[number] = self._path[-text.asked :]


@dataclass(frozen=True)
class Group:
    """Rows behind one stem, which may be empty, from the longest on."""

    stem: tuple[int, ...]
    rows: list[Tree]

    @property
    def longest(self) -> int:
        """Tokens of the longest row and its stem."""
        return len(self.stem) + len(self.rows[0].tokens)

    def batches(self, tokens: int) -> Iterator[list[Tree]]:
        """Yields rows of like length, so many at a time that with padding and stems they hold at most N tokens."""
        start = 0
        while start < len(self.rows):
            longest = len(self.rows[start].tokens)
            most = max(1, tokens // (len(self.stem) + longest))
            batch = [row for row in self.rows[start : start + most] if len(row.tokens) >= ALIKE * longest]
            yield batch
            start += len(batch)


def grow(texts: Sequence[Text]) -> list[Group]:
    """Returns the texts as trees; in `Tree.asked` they go by their numbers here."""
    runs: list[list[int]] = []  # of texts that share a possible stem
    for number in sorted(range(len(texts)), key=lambda i: texts[i].tokens):
        if runs and _shared(texts[runs[-1][-1]].tokens, texts[number].tokens) >= STEM:
            runs[-1].append(number)
        else:
            runs.append([number])
    rest, groups = [], []
    for run in runs:
        first, last = texts[run[0]].tokens, texts[run[-1]].tokens
        # A token of the stem is not asked about: it has no place in a row.
        stem = min(_shared(first, last), *(len(texts[i].tokens) - texts[i].asked for i in run))
        rows = _rows(run, texts, stem) if stem >= STEM else []
        if sum(len(row.tokens) for row in rows) > LONGEST:
            groups.append(Group(first[:stem], rows))
        else:
            rest += run
    return [Group((), _rows(rest, texts, 0)), *groups] if rest else groups


def _rows(order: Sequence[int], texts: Sequence[Text], stem: int) -> list[Tree]:
    """Returns the texts behind their stem in rows, from the longest on; a text joins one where that takes less time."""
    rows = [Tree()]
    before: tuple[int, ...] = ()
    for number in order:
        tokens = texts[number].tokens[stem:]
        shared, size = _shared(before, tokens), len(rows[-1].tokens)
        # Attention compares all pairs of tokens of a row, also those of different branches.
        pays = 2 * size * (len(tokens) - shared) <= PAIRS * shared and size - shared <= LONGEST
        if size and not pays:
            rows.append(Tree())
            shared = 0
        rows[-1].add(number, texts[number], stem, shared)
        before = tokens
    return sorted(rows, key=lambda row: -len(row.tokens))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many tokens two texts have in common before they differ."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(place for place in range(size) if one[place] != other[place])

"""Texts as trees, against the set of all their beginnings."""

import numpy as np
import pytest

from hies.tasks import prefix_tree
from hies.tasks.prefix_tree import Text, grow


def branching_texts(seed=0, count=23):
    """Texts that begin alike for a while, some the same, some the beginning of another."""
    draw = np.random.default_rng(seed)
    stems = [draw.integers(9, size=draw.integers(1, 7)).tolist() for _ in range(5)]
    texts = [(*stems[draw.integers(5)], *draw.integers(3, size=draw.integers(1, 6)).tolist()) for _ in range(count)]
    texts += [texts[0], texts[1][:-1] or (1,)]
    return [Text(text, int(draw.integers(1, len(text) + 1))) for text in texts]


def beginnings(texts, longer_than=0):
    return {text.tokens[:size] for text in texts for size in range(longer_than + 1, len(text.tokens) + 1)}


def way_to(row, place):
    """The places of a row between its root and this one, by the definition of `ends`."""
    return [before for before in range(place + 1) if place < row.ends[before]]


def check_rows(texts, group):
    """Each text is the way to its last token, stem first, and asked at its last tokens; gives the texts' numbers."""
    for row in group.rows:
        for number, places in row.asked.items():
            way = way_to(row, places[-1])
            assert group.stem + tuple(row.tokens[place] for place in way) == texts[number].tokens
            assert [row.depths[place] for place in way] == list(range(len(group.stem), len(texts[number].tokens)))
            assert places == way[-texts[number].asked :] and len(places) == texts[number].asked
        assert len(row.tokens) == len(row.depths) == len(row.ends)
    return [number for row in group.rows for number in row.asked]


@pytest.mark.parametrize("pairs, seed", [(10**9, 0), (2048, 1), (40, 2), (0, 3)])
def test_every_text_is_a_way_through_a_row(pairs, seed, monkeypatch):
    monkeypatch.setattr(prefix_tree, "PAIRS", pairs)
    texts = branching_texts(seed)
    (group,) = grow(texts)
    assert group.stem == () and sorted(check_rows(texts, group)) == [*range(25)]
    assert [len(row.tokens) for row in group.rows] == sorted((len(row.tokens) for row in group.rows), reverse=True)
    computed = sum(len(row.tokens) for row in group.rows)
    if pairs == 10**9:  # one row at most for each first token; what two texts share is there once
        assert computed == len(beginnings(texts)) and len(group.rows) == len({text.tokens[0] for text in texts})
    if pairs == 0:  # no text joins another unless the two are the same
        assert computed == sum(map(len, {text.tokens for text in texts}))


def test_what_many_long_texts_begin_with_is_a_stem_and_is_not_asked_about(monkeypatch):
    monkeypatch.setattr(prefix_tree, "STEM", 5)
    monkeypatch.setattr(prefix_tree, "LONGEST", 11)
    long = [Text((7, 7, 7, 7, 7, 7, *text.tokens), len(text.tokens)) for text in branching_texts(4)]
    few = [Text((8, 8, 8, 8, 8, 8, place), 1) for place in range(3)]
    asked_early = [Text((9, 9, 9, 9, 9, 9, place, *range(11)), 14) for place in range(2)]
    texts = long + few + asked_early
    rest, stemmed = grow(texts)
    assert (rest.stem, stemmed.stem) == ((), (7,) * 6)
    assert sorted(check_rows(texts, stemmed)) == [*range(25)] and sorted(check_rows(texts, rest)) == [*range(25, 30)]
    assert sum(len(row.tokens) for row in stemmed.rows) >= len(beginnings(long, longer_than=6))


def test_batches_hold_no_more_tokens_than_they_may_and_every_row_once():
    (group,) = grow(branching_texts(5))
    batches = list(group.batches(31))
    assert [row for rows in batches for row in rows] == group.rows and len(batches) > 1
    for rows in batches:
        sizes = [len(row.tokens) for row in rows]
        assert (len(rows) * max(sizes) <= 31 or len(rows) == 1) and min(sizes) >= 0.8 * max(sizes)
    assert all(len(rows) == 1 for rows in group.batches(1))


def test_no_text_gives_no_tree():
    assert grow([]) == []

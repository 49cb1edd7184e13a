"""Pairs without a list of them are those of the list."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from store_samples import sample_entries, write_store

from ecgtwin_fast.data.pairs import Pairs


@pytest.fixture(scope="module", params=[(40, 3), (24, 1), (30, 25), (1, 1)], ids=str)
def store(request, tmp_path_factory):
    count, people = request.param
    return write_store(tmp_path_factory.mktemp("store"), sample_entries(count, seed=count, people=people))


def listed(store, rows, both_orders=False):
    """All pairs, one by one, as the paper states them."""
    pairs = []
    for first, second in permutations(rows, 2):
        never = np.datetime64("9999-01-01")
        ages = [(never if np.isnat(store.time[row]) else store.time[row], row) for row in (first, second)]
        same_condition = store.heart_rate[first] == store.heart_rate[second] and store.report(first) == store.report(
            second
        )
        if (
            store.person[first] == store.person[second]
            and (ages[0] < ages[1] or both_orders)
            and not same_condition
            and not np.array_equal(store.signals(first), store.signals(second))
            and store.target[second]
        ):
            pairs.append((store.person[first], *ages[1], *ages[0]))
    return [(pair[-1], pair[2]) for pair in sorted(pairs)]


def all_of(pairs, size=7):
    batches = list(pairs.batches(size))
    assert all(len(batch) == size for batch in batches[:-1])
    return [tuple(pair) for batch in batches for pair in batch.tolist()]


@pytest.mark.parametrize("both_orders", [False, True])
def test_pairs_are_those_of_the_list(store, both_orders):
    for rows in (np.arange(len(store)), store.rows(False), store.rows(True), np.arange(len(store))[::-2]):
        expected = listed(store, rows, both_orders)
        pairs = Pairs(store, rows, both_orders=both_orders)
        assert all_of(pairs) == expected
        assert len(pairs) == len(expected)


def test_draws_are_uniform_and_repeatable(store):
    pairs = Pairs(store, np.arange(len(store)))
    count = 200 * len(pairs)
    drawn = pairs.draw(np.random.default_rng(3), count)
    assert drawn.shape == (count, 2) and drawn.dtype == np.int64
    assert np.array_equal(drawn, pairs.draw(np.random.default_rng(3), count))
    values, counts = np.unique(drawn, axis=0, return_counts=True)
    assert sorted(map(tuple, values.tolist())) == sorted(all_of(pairs))
    # Binomial: five standard deviations.
    assert np.abs(counts - 200).max(initial=0) < 5 * np.sqrt(200)


@pytest.mark.parametrize("both_orders", [False, True])
def test_a_cap_keeps_evenly_spaced_pairs_of_each_person(store, both_orders):
    everything = Pairs(store, np.arange(len(store)), both_orders=both_orders)
    for cap in (1, 3, 1000):
        pairs = Pairs(store, np.arange(len(store)), per_patient=cap, both_orders=both_orders)
        expected = []
        for person in range(int(store.person.max()) + 1):
            own = [pair for pair in all_of(everything) if store.person[pair[0]] == person]
            kept = min(cap, len(own))
            expected += [own[number * len(own) // kept] for number in range(kept)]
        assert all_of(pairs) == expected and len(pairs) == len(expected)
        assert set(map(tuple, pairs.draw(np.random.default_rng(0), 50).tolist())) <= set(expected)


def test_people_are_drawn_once_each(store):
    pairs = Pairs(store, np.arange(len(store)))
    everything = set(all_of(pairs))
    people = {store.person[pair[0]] for pair in everything}
    seen = set()
    for seed in range(60):
        drawn = pairs.draw_people(np.random.default_rng(seed), 2)
        assert len(drawn) == min(2, len(people)) and {tuple(pair) for pair in drawn.tolist()} <= everything
        assert len(set(store.person[drawn[:, 0]])) == len(drawn)
        seen |= set(map(tuple, drawn.tolist()))
    assert {store.person[pair[0]] for pair in seen} == people
    assert len(pairs.draw_people(np.random.default_rng(0), 1000)) == len(people)


def test_no_rows_no_pairs(store):
    pairs = Pairs(store, np.array([], int))
    assert len(pairs) == 0 and list(pairs.batches(4)) == []
    assert pairs.draw(np.random.default_rng(0), 5).shape == (0, 2)
    assert pairs.draw_people(np.random.default_rng(0), 5).shape == (0, 2)

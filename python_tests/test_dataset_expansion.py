"""Conditions, listed and drawn, and the items that a plan becomes."""

from __future__ import annotations

import math
import pickle
import time
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from plan_samples import SMALLEST, plan_of

from ecgtwin_fast.dataset.conditions import Draw, Drawn, Normal, Statement, Uniform, Weighted, open_conditions, shares
from ecgtwin_fast.dataset.expansion import Expansion
from ecgtwin_fast.dataset.items import Asked, Item
from ecgtwin_fast.dataset.plan import Plan, ReferencePlan
from ecgtwin_fast.dataset.references import open_references

# --- conditions

DRAW = Draw(
    4000,
    (
        Statement("sinus rhythm", 3.0),
        Statement("sinus tachycardia", 1.0, {"heart_rate": Uniform(100.0, 150.0)}),
        Statement("left bundle branch block", 0.5, {"age": None, "sex": "M"}),
    ),
    {
        "heart_rate": Normal(75.0, 12.0, (20.0, 300.0)),
        "age": Normal(110.0, 10.0, (0.0, 120.0)),
        "sex": Weighted(("F", "M"), (0.2, 0.6)),
    },
)


@pytest.fixture(scope="module")
def drawn():
    """Those of reference 3."""
    conditions = Drawn(DRAW, seed=7)
    return [conditions.asked(3, number) for number in range(len(conditions))]


def test_statements_come_by_weight(drawn):
    counts = Counter(asked.report for asked in drawn)
    for statement in DRAW.statements:
        share = statement.weight / 4.5
        # Five standard deviations of a binomial count.
        assert counts[statement.report] == pytest.approx(4000 * share, abs=5 * math.sqrt(4000 * share * (1 - share)))


def test_a_normal_rate_has_its_mean_and_deviation(drawn):
    rates = np.array([asked.heart_rate for asked in drawn if asked.report == "sinus rhythm"])
    assert rates.mean() == pytest.approx(75, abs=5 * 12 / math.sqrt(len(rates)))
    assert rates.std() == pytest.approx(12, rel=5 / math.sqrt(2 * len(rates)))


def test_a_uniform_rate_of_a_statement_goes_before_the_common_one(drawn):
    rates = np.array([asked.heart_rate for asked in drawn if asked.report == "sinus tachycardia"])
    assert 100 <= rates.min() < 101 and 149 < rates.max() <= 150
    assert rates.mean() == pytest.approx(125, abs=5 * 50 / math.sqrt(12 * len(rates)))
    quarters = np.histogram(rates, 4, (100, 150))[0] / len(rates)
    assert quarters == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / len(rates)))


def test_what_lies_beyond_the_range_becomes_the_limit(drawn):
    ages = np.array([asked.age for asked in drawn if asked.age is not None])
    assert ages.max() == 120.0
    beyond = 0.158655  # above one deviation
    assert (ages == 120).mean() == pytest.approx(beyond, abs=5 * math.sqrt(beyond / len(ages)))
    assert Normal(21.0, 100.0, (20.0, 300.0)).at(1e-9) == 20.0


def test_sexes_come_by_weight_and_a_statement_may_say_otherwise(drawn):
    other = [asked for asked in drawn if asked.report == "left bundle branch block"]
    assert {(asked.age, asked.sex) for asked in other} == {(None, "M")}
    sexes = [asked.sex for asked in drawn if asked.report == "sinus rhythm"]
    assert sexes.count("F") / len(sexes) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / len(sexes)))


def test_a_draw_depends_on_nothing_but_seed_reference_and_number(drawn):
    fewer = Drawn(replace(DRAW, count=100), seed=7)
    assert [fewer.asked(3, number) for number in reversed(range(100))] == drawn[99::-1]
    again = pickle.loads(pickle.dumps(fewer))
    assert again.asked(3, 50) == drawn[50]
    assert len({fewer.asked(3, 0), fewer.asked(0, 3), fewer.asked(4, 0), Drawn(DRAW, seed=8).asked(3, 0)}) == 4


def test_a_statements_own_rate_leaves_the_other_draws_as_they_were(drawn):
    plain = Drawn(replace(DRAW, statements=tuple(replace(one, own={}) for one in DRAW.statements)), seed=7)
    for number, asked in enumerate(drawn[:200]):
        other = plain.asked(3, number)
        assert other.report == asked.report
        assert asked.age in (None, other.age)
        assert asked.report != "sinus rhythm" or other == asked


def philox_4x64(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds of Philox 4x64, as Salmon et al. (2011) print them."""
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        high, low = [product >> 64 for product in (first, second)], [product % 2**64 for product in (first, second)]
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]]
        key = [(word + weyl) % 2**64 for word, weyl in zip(key, (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B), strict=True)]
    return counter


@pytest.mark.parametrize("numbers", [(0, 0, 0), (7, 3, 1), (2**64 - 1, 5, 2**63)])
def test_shares_are_a_block_of_philox(numbers):
    """Whatever NumPy does, they must stay, for a data set that was begun goes on with them."""
    seed, reference, condition = numbers
    block = philox_4x64([1, 0, condition, reference], [seed, 0x65636774])
    assert shares(*numbers) == [(word // 2**12 + 0.5) / 2**52 for word in block]


def test_shares_are_uniform_and_independent():
    drawn = np.array([shares(1, reference, condition) for reference in range(60) for condition in range(60)])
    assert 0 < drawn.min() and drawn.max() < 1
    deviation = 1 / math.sqrt(12 * len(drawn))
    assert drawn.mean(0) == pytest.approx(0.5, abs=5 * deviation)
    correlation = np.corrcoef(np.column_stack([drawn[1:], drawn[:-1]]).T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(len(drawn))
    assert len(np.unique(drawn)) == drawn.size


def test_listed_conditions_are_the_same_for_each_reference():
    plan = Plan("p", "", ReferencePlan("simulated", simulated=2), (Asked("a"), Asked("b", 70.0)))
    conditions = open_conditions(plan)
    assert len(conditions) == 2
    assert [conditions.asked(r, 1) for r in range(3)] == [Asked("b", 70.0)] * 3


def test_no_condition_beyond_the_count():
    with pytest.raises(IndexError):
        Drawn(DRAW, 0).asked(0, 4000)


# --- expansion


def expansion_of(references: int, conditions: int, twins: int, per_shard: int) -> Expansion:
    draw = Draw(conditions, (Statement("a"),), {"heart_rate": Uniform(60.0, 70.0)})
    wanted = ReferencePlan("simulated", simulated=references)
    plan = Plan("p", "", wanted, draw, twins, records_per_shard=per_shard)
    return Expansion(plan, open_references(plan), open_conditions(plan))


@pytest.mark.parametrize("per_shard", [1, 4, 7, 1000])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 1, 1), (1, 4, 1), (1, 1, 5), (2, 3, 4), (5, 2, 3)])
def test_each_reference_condition_and_twin_is_one_item_in_one_shard(sizes, per_shard):
    expansion = expansion_of(*sizes, per_shard)
    items = [item for shard in range(expansion.shards) for item in expansion.items(shard)]
    assert [item.index for item in items] == list(range(expansion.total))
    assert [(item.reference, item.condition, item.twin) for item in items] == list(product(*map(range, sizes)))
    assert items == [expansion.item(index) for index in range(expansion.total)]
    lengths = [len(expansion.range_of(shard)) for shard in range(expansion.shards)]
    assert set(lengths[:-1]) <= {per_shard} and 1 <= lengths[-1] <= per_shard


def test_twins_of_one_pair_are_asked_the_same_and_other_pairs_another():
    expansion = expansion_of(3, 4, 5, 1000)
    by_pair = {}
    for item in expansion.items(0):
        by_pair.setdefault((item.reference, item.condition), set()).add(item.asked)
    assert all(len(asked) == 1 for asked in by_pair.values())
    assert len(set.union(*by_pair.values())) == 12


@pytest.mark.parametrize("index", [-1, 24])
def test_no_item_and_no_shard_beyond_the_last(index):
    expansion = expansion_of(2, 3, 4, 10)
    with pytest.raises(IndexError, match=r"expected 0\.\.23"):
        expansion.item(index)
    for shard in (-1, 3):
        with pytest.raises(IndexError, match=r"expected 0\.\.2"):
            expansion.range_of(shard)


def test_a_million_items_cost_nothing_to_open(tmp_path):
    text = "references: {simulated: 25_000}\nconditions: {draw: {count: 8, statements: [{report: a}], age: {uniform: "
    text += "[20, 90]}}}\ntwins: 5\nseed: 3\n"
    plan_of(tmp_path, SMALLEST)  # loads what knows backends and samplers
    began = time.perf_counter()
    plan = plan_of(tmp_path, text)
    references, conditions = open_references(plan), open_conditions(plan)
    expansion = Expansion(plan, references, conditions)
    last = expansion.item(999_999)
    first_of_last_shard = next(expansion.items(expansion.shards - 1))
    seconds = time.perf_counter() - began
    assert (expansion.total, expansion.shards) == (1_000_000, 977)
    assert last == Item(999_999, 24_999, 7, 4, Drawn(plan.conditions, 3).asked(24_999, 7))
    assert first_of_last_shard.index == 976 * 1024
    assert seconds < 0.5

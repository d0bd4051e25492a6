"""When enough was seen: the bounds against sums and brute force, exact at the end, and wrong as rarely as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.search import sequential
from snnc.search.sequential import FIRST, RISK, Tally, looks


@given(st.integers(1, 40), st.data())
def test_the_chance_is_the_hypergeometric_sum(total: int, data: st.DataObject) -> None:
    hits, seen = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    most = data.draw(st.integers(max(0, seen - (total - hits)), min(seen, hits)))
    ways = sum(math.comb(hits, i) * math.comb(total - hits, seen - i) for i in range(most + 1))
    assert sequential._chance(total, hits, seen, most) == pytest.approx(ways / math.comb(total, seen), rel=1e-9)


@given(st.integers(1, 40), st.sampled_from([0.2, 0.01, 1e-4]), st.data())
def test_the_bounds_are_the_largest_and_smallest_likely_numbers(total: int, risk: float, data: st.DataObject) -> None:
    seen = data.draw(st.integers(0, total))
    hits = data.draw(st.integers(0, seen))
    possible = range(hits, total - (seen - hits) + 1)

    def ways(k: int, drawn: range) -> float:
        return sum(math.comb(k, i) * math.comb(total - k, seen - i) for i in drawn) / math.comb(total, seen)

    assert sequential._at_most(total, seen, hits, risk) == max(k for k in possible if ways(k, range(hits + 1)) > risk)
    least = min(k for k in possible if ways(k, range(hits, seen + 1)) > risk)
    assert sequential._at_least(total, seen, hits, risk) == least


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 0.3), st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]))
def test_all_samples_seen_is_exact(total: int, good: float, change: float, points: float) -> None:
    rng = np.random.default_rng(total)
    ann = rng.random(total) < good
    snn = ann ^ (rng.random(total) < change)
    tally = Tally.of(ann, snn)
    lost = int(ann.sum()) - int(snn.sum())
    assert tally.drop == pytest.approx(100 * lost / total)
    assert tally.within(points) is (100 * lost <= points * total + 1e-6)


def test_looks_double_up_to_all() -> None:
    assert looks(129) == (64, 128, 129)
    assert looks(64) == (64,)
    assert looks(10) == (10,)
    assert looks(1000) == (64, 128, 256, 512, 1000)


def test_far_off_is_settled_by_the_first_look_and_near_is_not() -> None:
    ann = np.ones(1000, bool)
    assert Tally.of(ann, np.arange(FIRST) % 8 != 0).within(1.0) is False
    assert Tally.of(ann, np.arange(FIRST) % 64 != 0).within(1.0) is None
    assert Tally.of(ann, np.ones(512, bool)).within(2.0) is True


@pytest.mark.parametrize(("lost", "truth"), [(6, False), (5, True)])
def test_early_answers_are_wrong_at_most_as_often_as_promised(lost: int, truth: bool) -> None:
    """At the budget's very edge: 5 of 500 are allowed; the ANN is wrong on 50, of which the network wins 3."""
    ann, snn = np.ones(500, bool), np.ones(500, bool)
    ann[:50] = False
    snn[:47] = False
    snn[50 : 50 + lost + 3] = False
    runs, wrong = 400, 0
    for seed in range(runs):
        order = np.random.default_rng(seed).permutation(500)
        answers = (Tally.of(ann[order], snn[order][:end]).within(1.0) for end in looks(500))
        wrong += next(a for a in answers if a is not None) is not truth
    assert wrong <= RISK * runs

"""ONNX's own backend tests: what is imported is right, and what is refused stands in a list with the reason.

`python benchmarks/conformance.py` prints the counts of all scopes, `--list` writes tests/importer/refused.txt anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.importer.conformance import SCOPES, Case, cases, counts, difference, judge, listed, outcomes, refusals, scope

TESTED = [name for name in SCOPES if name != "all node tests"]


@pytest.mark.parametrize("name", TESTED)
def test_nothing_is_wrong_or_crashes(name: str) -> None:
    found = outcomes(scope(name))
    bad = [f"{o.case.name} is {o.verdict}: {o.why}" for o in found if o.verdict in ("wrong", "crashed")]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("name", TESTED)
def test_as_many_are_equal_as_promised(name: str) -> None:
    assert counts(outcomes(scope(name)))["equal"] >= SCOPES[name].floor


def test_the_scopes_are_those_of_the_promise() -> None:
    sizes = {name: len(scope(name)) for name in TESTED}
    assert sizes == {
        "27 operators, float32": 210,
        "27 operators, other types": 30,
        "50 operators": 551,
        "pytorch-converted": 82,
        "pytorch-operator": 35,
    }


def test_the_list_of_refusals_is_complete_and_true() -> None:
    refused, known = {outcome.case.name for outcome in refusals()}, listed()
    assert not (new := sorted(refused - set(known))), f"not in refused.txt: {new}"
    assert not (gone := sorted(set(known) - refused)), f"no longer refused, still in refused.txt: {gone}"
    assert all(reason.strip() for reason in known.values())


def _case(name: str) -> Case:
    return next(case for case in cases("node") if case.name == name)


def test_the_loop_sees_a_wrong_number_a_wrong_shape_and_a_crash() -> None:
    """The loop itself can fail: it is given tests that expect something else."""
    good = _case("test_relu")
    assert judge(good).verdict == "equal"
    assert judge(replace(good, expected=[good.expected[0] + 1e-3])).verdict == "wrong"
    assert judge(replace(good, expected=[good.expected[0][None]])).verdict == "wrong"
    assert judge(replace(good, expected=[])).verdict == "wrong"
    assert judge(replace(good, x={})).verdict == "crashed"


def test_integers_are_compared_to_the_bit() -> None:
    expected = np.array([1000000, -3])
    assert not difference([expected.astype(np.float32)], [expected], 1e-3, 0)
    assert difference([expected.astype(np.float32) + 0.5], [expected], 1e-3, 0)
    assert difference([np.array([np.nan, -3], np.float32)], [expected], 1e-3, 0)
    assert not difference([np.array([np.nan], np.float32)], [np.array([np.nan])], 1e-3, 0)

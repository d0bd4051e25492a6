"""Constraints with a set of levels of their own: projection, products, verification, text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import GraphError, TargetError
from snnc.ir import Array, Constraint, Graph, Stage, parse, to_text, verify
from snnc.passes import QuantizeWeights
from snnc.pipeline import Context
from snnc.targets.dynap_sim import place
from tests.graphs import Builder

ODD = np.array([-2.5, -1, 0, 0.5, 3], np.float32)


def graph(levels: Array | None, bits: int = 4, weight: object = None) -> Graph:
    b = Builder({"x": (4,)}, 4)
    b("lif0", "lif", b("in", "scale", b("current", "encode", "x"), factor=1.0))
    b("dense", "dense", "lif0", weight=[[0.0, 1, 6, -2]] if weight is None else weight)
    made = b.graph(b("count", "decode", b("lif", "lif", "dense")))
    rows = made.params["dense.weight"]
    constraint = Constraint(bits, np.full((1, 1), 2, np.float32), None, levels)
    one = Constraint(4, np.ones((), np.float32))
    made = made.edit(
        params={"dense.weight": constraint.project(rows)},
        constraints={"dense.weight": constraint, "in.factor": one},
        stage=Stage.CONSTRAINED,
    )
    verify(made)
    return made


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20), st.floats(0.125, 3, width=32))
def test_projection_is_nearest_and_idempotent(values: list[float], scale: float) -> None:
    constraint = Constraint(4, np.asarray(scale, np.float32), None, ODD)
    made = constraint.project(np.array(values))
    away = np.abs(np.array(values, np.float32)[:, None] - np.float32(scale) * ODD)
    np.testing.assert_allclose(np.abs(made - np.array(values, np.float32)), away.min(axis=1), atol=1e-5)
    np.testing.assert_array_equal(constraint.project(made), made)


def test_halfway_is_the_lower_level() -> None:
    made = Constraint(4, np.ones(1, np.float32), None, ODD).project(np.array([-1.75, -0.5, 0.25, 1.75]))
    np.testing.assert_array_equal(made, [-2.5, -1, 0, 0.5])


def test_a_factor_keeps_levels_unless_it_turns_a_lopsided_set() -> None:
    constraint = Constraint(4, np.full((1, 1), 2, np.float32), None, ODD)
    weight = constraint.project(np.array([[-5.0, 1, 6]]))
    made, kept = constraint.times(weight, np.full((1, 1), 3.0))
    assert kept is not None
    np.testing.assert_array_equal(kept.project(made), made)
    np.testing.assert_array_equal(made, weight * 3)
    assert constraint.times(weight, np.full((1, 1), -3.0))[1] is None
    even = Constraint(4, np.ones((1, 1), np.float32), None, np.array([-2, 0, 2], np.float32))
    made, kept = even.times(np.array([[2.0, -2, 0]]), np.array([[-1.0, 1, 1]]))
    np.testing.assert_array_equal(made, [[-2, -2, 0]])
    assert kept is not None


def test_text_carries_levels() -> None:
    before = graph(ODD)
    assert '{"bits":4,"levels":true,"mask":false,"scale":true}' in to_text(before)
    assert [k for k in before.arrays() if "@" in k] == [
        "dense.weight@levels",
        "dense.weight@scale",
        "in.factor@scale",
    ]
    again = parse(to_text(before), before.arrays())
    np.testing.assert_array_equal(again.constraints["dense.weight"].levels, ODD)
    assert to_text(again) == to_text(before)


@pytest.mark.parametrize(
    ("levels", "bits", "why"),
    [
        (ODD[::-1], 4, "do not ascend, or lack 0"),
        (np.array([-1, 1], np.float32), 4, "do not ascend, or lack 0"),
        (ODD.astype(np.float64), 4, "are no finite float32 vector"),
        (np.array([0, np.inf], np.float32), 4, "are no finite float32 vector"),
        (ODD, 2, "are 5 magnitudes: 2 bits tell 4 apart"),
    ],
)
def test_wrong_levels_are_refused(levels: Array, bits: int, why: str) -> None:
    with pytest.raises(GraphError, match=f"the levels on 'dense.weight' {why}"):
        graph(levels, bits, weight=np.zeros((1, 4)))


def test_a_weight_off_its_levels_is_refused() -> None:
    fine = graph(ODD)
    with pytest.raises(GraphError, match=r"1 of 4 values of 'dense.weight' break its constraint"):
        verify(fine.edit(params={"dense.weight": np.array([[0.0, 1, 6, 2]], np.float32)}))


def test_a_level_set_has_no_top_level() -> None:
    with pytest.raises(GraphError, match="a set of their own"):
        _ = Constraint(4, np.ones(1, np.float32), None, ODD).top_level


def test_the_chip_takes_integers_within_its_bits_and_sums_of_currents() -> None:
    placed = place(graph(np.array([-4, -1, 0, 1, 2, 4], np.float32), weight=[[2.0, -2, 8, -8]]))
    np.testing.assert_array_equal(placed.params["dense.weight"], [[1, -1, 4, -4]])
    assert placed.constraints["dense.weight"].levels is None
    for levels in (ODD, np.array([0, 1, 8], np.float32)):
        with pytest.raises(TargetError) as caught:
            place(graph(levels))
        assert "the levels of 'dense.weight' are not integers up to 7" in str(caught.value)
        assert "dense (dense)" in str(caught.value)
    made = QuantizeWeights(levels="base-currents", per="tensor").run(graph(None), Context())
    currents = place(made).constraints["dense.weight"].levels
    assert currents is not None
    assert len(currents) == 31


# --- a set of levels for each row


def sets(rows: int, rng: np.random.Generator, currents: int = 3) -> Array:
    """Sums of currents of its own for each row, both signs; the first two currents of row 0 are equal."""
    own = rng.uniform(0.1, 3, (rows, currents)).astype(np.float32)
    own[0, 1] = own[0, 0]
    masks = np.arange(1, 2**currents)[:, None] >> np.arange(currents) & 1
    sums = np.sort((masks @ own.T).T.astype(np.float32), axis=1)
    return np.concatenate([-sums[:, ::-1], np.zeros((rows, 1), np.float32), sums], axis=1)


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([(), (2,), (3, 2, 2)]))
def test_every_row_is_projected_on_its_own_set(seed: int, rows: int, rest: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 4, (rows, *rest)).astype(np.float32)
    scale = rng.uniform(0.5, 2, (rows, *[1] * len(rest))).astype(np.float32)
    levels = sets(rows, rng)
    constraint = Constraint(3, scale, None, levels)
    made = constraint.project(values)
    for row in range(rows):
        alone = Constraint(3, np.asarray(scale[row]), None, np.unique(levels[row])).project(values[row])
        np.testing.assert_array_equal(made[row], alone)
    np.testing.assert_array_equal(constraint.project(made), made)


def by_row(levels: Array, bits: int = 3, shape: tuple[int, ...] = (2, 4)) -> Graph:
    """A graph with a layer of two neurons, and these levels on its weights (all 0), or on its one scalar weight."""
    b = Builder({"x": (4,)}, 4)
    b("lif0", "lif", b("in", "scale", b("current", "encode", "x"), factor=1.0))
    b("dense", "dense", "lif0", weight=np.zeros((2, 4)))
    made = b.graph(b("count", "decode", b("lif", "lif", "dense")))
    name = "dense.weight" if shape else "in.factor"
    constraint = Constraint(bits, np.ones((1,) * len(shape), np.float32), None, levels)
    params = {name: np.zeros(shape, np.float32)}
    made = made.edit(params=params, constraints={name: constraint}, stage=Stage.CONSTRAINED)
    verify(made)
    return made


ROWS = np.array([[-2, -0.5, 0, 0.5, 2], [-3, -3, 0, 3, 3]], np.float32)


@pytest.mark.parametrize(
    ("levels", "bits", "shape", "why"),
    [
        (ROWS[:1], 3, (2, 4), "are 1 sets for 2 rows"),
        (ROWS, 3, (), "are 2 sets for no rows"),
        (ROWS[None], 3, (2, 4), "are no finite float32 vector, nor one for each row"),
        (ROWS[:, ::-1], 3, (2, 4), "do not ascend, or lack 0"),
        (np.array([[-1, 0, 1], [1, 2, 3]], np.float32), 3, (2, 4), "do not ascend, or lack 0"),
        (np.array([[-2, 0, 2], [0, 1, 2]], np.float32), 1, (2, 4), "are 3 magnitudes: 1 bits tell 2 apart"),
        (ROWS[1], 3, (2, 4), "do not ascend, or lack 0"),
    ],
)
def test_wrong_sets_of_rows_are_refused(levels: Array, bits: int, shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(GraphError, match=why):
        by_row(levels, bits, shape)


def test_text_carries_the_sets_of_rows() -> None:
    before = by_row(ROWS)
    again = parse(to_text(before), before.arrays())
    np.testing.assert_array_equal(again.constraints["dense.weight"].levels, ROWS)


def test_text_carries_a_bit() -> None:
    """What limit-biases makes of a switched current."""
    before = by_row(np.array([0, 1], np.float32), bits=1)
    assert '{"bits":1,"levels":true,"mask":false,"scale":true}' in to_text(before)
    assert parse(to_text(before), before.arrays()).constraints["dense.weight"].bits == 1
    for bits in (0, 25):
        with pytest.raises(GraphError, match=f"malformed: bits={bits}"):
            parse(to_text(before).replace('"bits":1', f'"bits":{bits}'), before.arrays())


def test_a_weight_on_the_level_of_another_row_is_refused() -> None:
    fine = by_row(ROWS).edit(params={"dense.weight": np.array([[2, 0, 0, 0], [3, 0, 0, 0]], np.float32)})
    verify(fine)
    with pytest.raises(GraphError, match=r"1 of 8 values of 'dense.weight' break its constraint"):
        verify(fine.edit(params={"dense.weight": np.array([[2, 0, 0, 0], [2, 0, 0, 0]], np.float32)}))


@given(st.integers(0, 10**6))
def test_factors_of_rows_keep_their_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    constraint = Constraint(3, rng.uniform(0.5, 2, (4, 1)).astype(np.float32), None, sets(4, rng))
    weight = constraint.project(rng.normal(0, 4, (4, 5)))
    factor = 2.0 ** rng.integers(-2, 3, (4, 1)) * rng.choice([-1, 1], (4, 5))
    made, kept = constraint.times(weight, factor)
    np.testing.assert_array_equal(made, np.asarray(weight * factor, np.float32))
    assert kept is not None
    np.testing.assert_array_equal(kept.project(made), made)

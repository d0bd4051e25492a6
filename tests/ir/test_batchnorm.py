"""The algebra of folding, held to what it says: layer and factors one after the other, and in one."""

from __future__ import annotations

import numpy as np
import pytest

from snnc.ir import Array
from snnc.ir.batchnorm import affine, before, behind, spread
from snnc.sim.reference import run
from tests.graphs import Builder, samples, statistics

RNG = np.random.default_rng(0)


def conv(x: Array, params: dict[str, Array], group: int) -> Array:
    """A conv by the reference executor, in which batch norms are nowhere folded."""
    b = Builder({"x": x.shape[1:]})
    b("c", "conv", "x", group=group, **params)
    return run(b.graph("c"), {"x": x})["out_c"]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_behind_and_before_a_conv(group: int, bias: bool) -> None:
    params = {"weight": RNG.normal(size=(6, 4 // group, 3, 3)), **({"bias": RNG.normal(size=6)} if bias else {})}
    x = RNG.normal(size=(2, 4, 5, 5))
    s, t = RNG.normal(size=(2, 6, 1, 1))
    made = conv(x, behind(params, s.reshape(-1), t.reshape(-1)), group)
    np.testing.assert_allclose(made, conv(x, params, group) * s + t, rtol=1e-5, atol=1e-5)
    s, t = RNG.normal(size=(2, 4, 1, 1))
    made = conv(x, before(params, group, s.reshape(-1), t.reshape(-1)), group)
    np.testing.assert_allclose(made, conv(x * s + t, params, group), rtol=1e-5, atol=1e-5)


def test_one_number_for_all_channels() -> None:
    params = {"weight": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=3)}
    made = behind(params, np.asarray(2.0), np.asarray(-1.0))
    np.testing.assert_array_equal(made["weight"], 2 * params["weight"])
    np.testing.assert_array_equal(made["bias"], 2 * params["bias"] - 1)


def test_the_affine_form_is_the_batch_norm() -> None:
    b = Builder({"x": (3, 2, 2)})
    params = statistics(RNG, 3)
    graph = b.graph(b("n", "batchnorm", "x", epsilon=0.01, **params))
    x = samples(graph, 2)
    s, t = affine(params, 0.01)
    expected = x["x"] * s.reshape(3, 1, 1) + t.reshape(3, 1, 1)
    np.testing.assert_allclose(run(graph, x)["out_n"], expected, rtol=1e-5, atol=1e-6)


def test_a_fold_by_one_changes_no_bit() -> None:
    weight = RNG.normal(size=(5, 7)).astype(np.float32)
    made = behind({"weight": weight}, np.ones(()), np.zeros(()))
    np.testing.assert_array_equal(made["weight"].astype(np.float32), weight)


@pytest.mark.parametrize(("shape", "first"), [((), 2.0), ((3,), [0.0, 1.0, 2.0]), ((3, 2), [0.0, 2.0, 4.0])])
def test_params_spread_over_the_shape(shape: tuple[int, ...], first: object) -> None:
    param = np.arange(np.prod(shape, dtype=int)).reshape(shape) if shape else np.asarray(2)
    made = spread(param, (3, 2))
    assert made.shape == (3, 2)
    np.testing.assert_array_equal(made[:, 0], np.broadcast_to(np.asarray(first), 3))

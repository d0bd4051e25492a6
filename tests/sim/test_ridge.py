"""Ridge regression of what a read-out lacks."""

from __future__ import annotations

import torch

from snnc.sim.ridge import remedy


def draw(samples: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_linear_is_found() -> None:
    """With 200 samples of 5 inputs and with 40 of 60, that is by both systems of equations."""
    weight, offset = draw(3, 5, 1), draw(1, 3, 2)[0]
    c = draw(200, 5)
    change, bias = remedy(c, c @ weight.T + offset)
    torch.testing.assert_close(change.double(), weight, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(bias.double(), offset, rtol=5e-3, atol=5e-3)


def test_more_inputs_than_samples() -> None:
    """Inputs that lie in a plane: the smaller system gives what the normal equations give."""
    plane, c = draw(2, 60, 3), draw(40, 2)
    c = c @ plane
    r = c @ draw(60, 1, 4) / 8
    change, bias = remedy(c, r)
    left = r - c @ change.double().T - bias.double()
    assert float(left.square().mean()) < 1e-3 * float(r.square().mean())


def test_chance_is_not_fitted() -> None:
    """What does not follow from the inputs goes into the bias alone."""
    change, bias = remedy(draw(60, 30), draw(60, 2, 5) + 3)
    assert not change.any()
    torch.testing.assert_close(bias, torch.full((2,), 3.0), rtol=0.2, atol=0.0)


def test_inputs_that_never_change() -> None:
    change, bias = remedy(torch.ones(10, 4), torch.full((10, 2), 0.5))
    assert not change.any()
    torch.testing.assert_close(bias, torch.full((2,), 0.5))


def test_one_sample_is_no_regression() -> None:
    change, bias = remedy(torch.ones(1, 4), torch.full((1, 2), 0.5))
    assert not change.any()
    torch.testing.assert_close(bias, torch.full((2,), 0.5))

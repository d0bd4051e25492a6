"""SI-SDR in closed form, and sources in an order that nobody knows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from snnc.errors import PipelineError
from snnc.signals import MOST_SOURCES, as_sources, permutation_invariant, separation, si_sdr


def signals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_si_sdr_in_closed_form() -> None:
    """Orthogonal noise of a tenth of the amplitude: 20 dB; all noise: no dB to speak of."""
    time = torch.arange(1000, dtype=torch.float64) / 1000
    signal, noise = torch.sin(2 * np.pi * 5 * time), torch.sin(2 * np.pi * 9 * time)
    assert float(si_sdr(signal + 0.1 * noise, signal)) == pytest.approx(20, abs=1e-5)
    assert float(si_sdr(noise, signal)) < -70
    assert float(si_sdr(signal, signal)) > 100
    assert bool(si_sdr(torch.zeros(9), torch.zeros(9)).isfinite())


@pytest.mark.parametrize(("factor", "offset"), [(3.0, 0.0), (0.1, -7.0), (-2.0, 1.0)])
def test_si_sdr_knows_neither_scale_nor_offset(factor: float, offset: float) -> None:
    estimate, target = signals(4, 2, 300), signals(4, 2, 300, seed=1) + signals(4, 2, 300)
    wanted = si_sdr(estimate, target)
    assert wanted.shape == (4, 2)
    torch.testing.assert_close(si_sdr(estimate * factor + offset, target), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(si_sdr(estimate, target * factor + offset), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_order_of_sources_changes_nothing(sources: int) -> None:
    targets = signals(5, sources, 200)
    estimates = targets.flip(1) + 0.5 * signals(5, sources, 200, seed=1)
    loss, order = permutation_invariant(estimates, targets)
    assert order.tolist() == [list(range(sources))[::-1]] * 5
    assert float(loss) == pytest.approx(-float(si_sdr(estimates, targets.flip(1)).mean()))
    for shuffled in itertools.permutations(range(sources)):
        found, other = permutation_invariant(estimates, targets[:, list(shuffled)])
        assert float(found) == pytest.approx(float(loss))
        assert [[shuffled[i] for i in row] for row in other.tolist()] == order.tolist()


def test_the_order_is_chosen_by_utterance_and_by_the_mean() -> None:
    """Not every estimate's own best: two that both like the same target share what there is."""
    targets = signals(2, 2, 500)
    estimates = torch.stack([targets[0], targets[1].flip(0)])
    assert permutation_invariant(estimates, targets)[1].tolist() == [[0, 1], [1, 0]]
    greedy = torch.stack([targets[:, 0] + 0.1 * targets[:, 1], targets[:, 0] + 0.5 * targets[:, 1]], 1)
    assert permutation_invariant(greedy, targets)[1].tolist() == [[0, 1]] * 2


def test_a_separation_is_learned() -> None:
    """Gradient descent on a mixing matrix finds the sources, in whichever order."""
    targets = signals(3, 2, 400)
    mixed = torch.einsum("ij,njt->nit", torch.tensor([[1.0, 0.6], [0.5, 1.0]], dtype=torch.float64), targets)
    matrix = torch.tensor([[0.2, 1.0], [1.0, 0.1]], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([matrix], 0.01)
    first = None
    for _ in range(200):
        optimizer.zero_grad()
        loss, order = permutation_invariant(torch.einsum("ij,njt->nit", matrix, mixed), targets)
        first = float(loss.detach()) if first is None else first
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < first - 15  # type: ignore[operator]
    assert order.tolist() == [[1, 0]] * 3


@pytest.mark.parametrize("shape", [(2, 300), (2, 3, 300)])
def test_signals_that_do_not_compare(shape: tuple[int, ...]) -> None:
    with pytest.raises(PipelineError, match=r"signals \[N, sources, samples\] are compared, not"):
        permutation_invariant(torch.zeros(shape), torch.zeros(2, 2, 300))


def test_too_many_sources_to_try_all_orders() -> None:
    many = torch.zeros(1, MOST_SOURCES + 1, 4)
    with pytest.raises(PipelineError, match="7 sources: the orders of 1 to 6 are tried"):
        permutation_invariant(many, many)


def test_one_source_may_have_no_axis_of_its_own() -> None:
    one, other = signals(4, 50), signals(4, 50, seed=1)
    assert as_sources(one).shape == (4, 1, 50)
    best, order = separation(as_sources(one), as_sources(other))
    torch.testing.assert_close(best, si_sdr(one, other))
    assert order.tolist() == [[0]] * 4
    assert as_sources(signals(4, 2, 50)).shape == (4, 2, 50)

"""Average pools of events beside torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from snnc.sim.pooling import apart, pool
from tests.graphs import Builder


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (1, 2), (4, 1), (1, 1)])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_it_is_torchs_own_to_the_bit_on_spikes(kernel: tuple[int, int], size: tuple[int, int]) -> None:
    """And so is its gradient, of rows and columns that belong to no window too."""
    rng = torch.Generator().manual_seed(0)
    spikes = (torch.rand(3, 2, *size, generator=rng) < 0.4).float()
    found = []
    for run in (pool, F.avg_pool2d):
        x = spikes.clone().requires_grad_()
        made = run(x, kernel)
        error = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad(made, x, error)
        found.append((made.detach(), gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert float(found[0][0].sum()) > 0
    assert float(found[0][1].abs().sum()) > 0


def test_it_keeps_nothing_and_does_not_touch_what_it_reads() -> None:
    x = torch.ones(1, 1, 4, 4)
    for kernel in ((1, 1), (2, 2)):
        pool(x, kernel).add_(1)
    assert torch.equal(x, torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({}, True),
        ({"strides": (1, 1)}, False),
        ({"pads": (0, 0, 1, 1)}, False),
        ({"dilations": (2, 2)}, False),
    ],
)
def test_windows_side_by_side(parts: dict[str, tuple[int, ...]], wanted: bool) -> None:
    b = Builder({"image": (1, 6, 6)})
    assert apart(b.graph(b("pool", "avgpool", "image", **parts))["pool"]) == wanted

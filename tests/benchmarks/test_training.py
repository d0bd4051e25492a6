"""The benchmark of training speed: equal gradients on both sides, and its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from benchmarks import training
from benchmarks.training import Row, case, likeness, main, ours, saved
from benchmarks.training_peers import TEXTBOOK, Case, Update, chain
from benchmarks.training_spikingjelly import SPIKINGJELLY
from snnc.train.units import weights_of


@pytest.fixture(scope="module")
def small() -> Case:
    return case(4, 4, 4)


def test_every_layer_fires_and_learns(small: Case) -> None:
    """A silent network would make every comparison one of zeros."""
    layers = chain(small.graph)
    assert [layer.pooled for layer in layers] == [False, True, True, False, True, False, True, False, False]
    assert {layer.weight for layer in layers} == set(weights_of(small.graph))
    for name, gradient in ours("bptt", small)().items():
        assert float(gradient.abs().sum()) > 0, name


def sides() -> list[tuple[str, Callable[[Case], Update]]]:
    return [*TEXTBOOK.items(), *(SPIKINGJELLY.items() if find_spec("spikingjelly") else ())]


@pytest.mark.parametrize(("rule", "peer"), sides(), ids=lambda value: value if isinstance(value, str) else "")
def test_both_sides_have_one_gradient(small: Case, rule: str, peer: Callable[[Case], Update]) -> None:
    update = peer(small)
    wanted = {name: gradient.clone() for name, gradient in update().items()}
    cosine, apart = likeness(ours(rule, small)(), wanted)
    assert wanted.keys() == set(weights_of(small.graph))
    assert cosine > 1 - 1e-6
    assert apart < 1e-5
    assert likeness(wanted, update())[1] == 0, "an update begins anew"


def test_how_alike_gradients_are() -> None:
    one: Mapping[str, Tensor] = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    cosine, apart = likeness(one, {"a": torch.tensor([0.0, 3.0]), "b": torch.tensor([4.0])})
    assert cosine == pytest.approx(16 / 25)
    assert apart == pytest.approx(18**0.5 / 5)


def test_bytes_do_not_grow_with_time() -> None:
    few, many = (saved(ours("sltt", case(steps, 2, 4))) for steps in (4, 8))
    assert few == many > 0


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    row = Row("ltl", 8, "SJ", [1.0, 2.0, 1.0], [2.0, 3.0, 4.0], (5_000_000, 10_000_000), 1.0, 1e-7)
    assert str(row) == "| `ltl` | 8 | 1000 | 5.0 | SJ | 3000 | 10.0 | 2.00 (1.50 to 4.00) | 1.000000 | 1e-07 |"


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(training.torch, "set_num_threads", threads.append)
    main(["--steps", "2", "--rounds", "1", "--batch", "2", "--width", "4", "ltl", "tandem"])
    lines = capsys.readouterr().out.splitlines()
    assert threads == [1]
    assert lines[0] == "batch of 2, 4 channels in the first layer, 1 rounds, 1 thread"
    assert [line.split(" | ")[:2] for line in lines[3:]] == [["| `ltl`", "2"], ["| `tandem`", "2"]]
    assert " | textbook | " in lines[3]
    assert lines[4].endswith(" | - | - | - | - | - | - |")
    assert {line.count("|") for line in lines[1:]} == {11}

"""The benchmark against other converters: its arithmetic, and the converters themselves where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.converters import BATCH, PEERS, Case, Converted, levels, peer, sinabs_normalized
from benchmarks.peers import Cell, by_step, cells, readouts, summary
from benchmarks.twin import Twin
from snnc.data import Data, Split
from snnc.ir import Array, Graph
from snnc.passes import FoldBatchNorm
from snnc.pipeline import Context, single
from snnc.sim import torch as executor
from tests.graphs import Builder, data_for, lenet, mlp, residual


class Counter:
    """A network whose score is x times the number of the step since the last reset."""

    def __init__(self) -> None:
        self.count, self.resets = 0, 0

    def reset(self) -> None:
        self.count, self.resets = 0, self.resets + 1

    def step(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


def cell(refined: str, **others: str) -> Cell:
    """A cell from strings of 0 and 1, an image each."""
    columns = {"refined": refined, **{name.replace("_", " "): bits for name, bits in others.items()}}
    right = {name: np.array([bit == "1" for bit in bits]) for name, bits in columns.items()}
    return Cell("net", 8, right, {"SJ layer": "w"})


def test_every_batch_starts_anew_and_sees_the_image_itself_at_every_step() -> None:
    counter = Counter()
    x = torch.arange(2.0 * BATCH + 1).reshape(-1, 1)
    found = by_step(Converted(counter.step, counter.reset), x, 3)
    np.testing.assert_array_equal(found, x * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1))
    assert counter.resets == 3


def test_the_steps_that_a_peer_waits_are_among_its_steps() -> None:
    scores = torch.tensor([1.0, 10.0, 100.0, 1000.0]).reshape(4, 1, 1)
    made = Converted(lambda x: x, lambda: None, lambda steps: 1 if steps > 2 else 0)
    for steps, wanted in ((2, {"": 11}), (3, {"": 111, "w": 110}), (4, {"": 1111, "w": 1110})):
        assert {mark: float(array[0, 0]) for mark, array in readouts(scores, made, steps)} == wanted


def test_the_best_peer_is_found_with_and_without_many_spikes_a_step() -> None:
    one = cell("1100", SJ_layer="1000", Si_channel="0111", **{"Si_plain*": "1111"})
    assert (one.best(True), one.best(False)) == ("Si plain*", "Si channel")
    assert one.behind(True)[0] == 50
    assert one.behind(False)[0] == 25


def test_what_is_more_than_chance_depends_on_the_images_that_only_one_knows() -> None:
    assert cell("0" * 4, SJ_layer="1" * 4).behind(True) == (100, True)
    assert cell("0" * 3, SJ_layer="1" * 3).behind(True) == (100, False)
    assert cell("0" * 10 + "1" * 6, SJ_layer="1" * 10 + "0" * 6).behind(True) == (25, False)
    assert cell("11", SJ_layer="01").behind(True) == (-50, False)


def test_the_summary_names_every_cell_that_is_lost() -> None:
    found = [cell("1100", SJ_layer="1000", **{"Si_plain*": "1111"}), cell("0" * 9, SJ_layer="1" * 9)]
    assert summary(found).splitlines() == [
        "  net at T = 8: 50.00 below Si plain*, by chance",
        "  net at T = 8: 100.00 below SJ layer",
        "refined is at or above the best peer of all in 0 of 2 cells, below by more than chance in 1",
        "  net at T = 8: 100.00 below SJ layer",
        "refined is at or above the best peer of those with one spike a step in 1 of 2 cells, "
        "below by more than chance in 1",
    ]


def test_a_row_shows_marks_and_refusals() -> None:
    shown = cell("1100", SJ_layer="1000").row(["refined", "SJ layer", "SJ LTB"])
    assert shown.split() == ["net", "8", "50.00", "25.00w", "refused"]


def test_levels_are_percentiles_of_every_channel() -> None:
    b = Builder({"image": (2, 3, 3)})
    b("conv1", "conv", "image", weight=[[[[1.0]], [[0.0]]], [[[0.0]], [[2.0]]], [[[0.0]], [[0.0]]]])
    b("relu1", "relu", "conv1")
    x = np.random.default_rng(0).normal(size=(50, 2, 3, 3)).astype(np.float32)
    ((name, found),) = levels(Twin(b.graph("relu1")), torch.from_numpy(x), 90).items()
    assert name == "relu_1"
    wanted = [np.percentile(np.maximum(x[:, 0], 0), 90), 2 * np.percentile(np.maximum(x[:, 1], 0), 90), 1]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_missing_peer_ends_with_what_to_install() -> None:
    with pytest.raises(SystemExit, match=r"no nowhere_at_all .*pip install spikingjelly sinabs"):
        peer("nowhere_at_all")


def test_a_peer_that_refuses_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(case: Case) -> Converted:
        raise ValueError("not this one")

    def answer(case: Case) -> Converted:
        return Converted(Twin(case.graph), lambda: None)

    monkeypatch.setattr(peers, "PEERS", {"SJ layer": answer, "SJ LTB": refuse})
    graph = mlp()
    (found,) = cells(Case("net", graph, data_for(graph)), [4])
    assert capsys.readouterr().err == "net: SJ LTB refused: not this one\n"
    assert list(found.right) == ["ANN", "percentile", "refined", "SJ layer"]
    np.testing.assert_array_equal(found.right["SJ layer"], found.right["ANN"])


def positive(graph: Graph) -> Case:
    """The network with samples of one sign, as images are."""
    x: Array = np.abs(data_for(graph, 40).train.raw)
    split = Split(x, np.arange(len(x)) % 3)
    return Case("net", graph, Data(split, split, split))


@pytest.mark.parametrize("column", [column for column in PEERS if column != "Si norm*"])
def test_peers_near_the_network_with_more_steps(column: str) -> None:
    """So the benchmark uses them as they are meant: inputs, biases, resets and read-outs."""
    pytest.importorskip("spikingjelly" if column.startswith("SJ") else "sinabs", reason="pip install '.[peers]'")
    case = positive(FoldBatchNorm().run(lenet(), Context()))
    wanted = torch.from_numpy(single(executor.run(case.graph, {"image": case.samples.test.x()})))
    scores = by_step(PEERS[column](case), torch.from_numpy(case.samples.test.x()), 64)
    few, many = (float((scores[:steps].mean(0) - wanted).norm() / wanted.norm()) for steps in (2, 64))
    assert many < 0.3, (few, many)
    assert many < 0.5 * few, (few, many)


def test_normalize_weights_is_told_every_layer_and_refuses_branches() -> None:
    pytest.importorskip("sinabs", reason="pip install '.[peers]'")
    made = sinabs_normalized(positive(FoldBatchNorm().run(lenet(), Context())))
    x = torch.from_numpy(positive(lenet()).samples.test.x())
    assert isinstance(made.step, nn.Module)
    assert by_step(made, x, 4).shape == (4, 40, 4)
    with pytest.raises(ValueError, match="branches of an add apart"):
        sinabs_normalized(positive(residual()))

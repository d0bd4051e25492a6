"""What outputs are judged by: by hand, in parts, and which of two figures is the better one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snnc import score
from snnc.data import Data, Split
from snnc.errors import DataError
from snnc.ir import Array
from snnc.score import ACCURACY, MSE, SCORES, SI_SDR, Score, accuracy, no_signals
from snnc.signals import si_sdr


def test_the_table_names_them() -> None:
    assert {name: s.name for name, s in SCORES.items()} == {name: name for name in ("accuracy", "mse", "si-sdr")}


def test_accuracy_counts_the_largest_scores() -> None:
    scores = np.array([[1, 2, 0], [5, 1, 1], [0, 0, 9], [3, 4, 3]])
    assert accuracy(scores, np.array([1, 0, 2, 0])) == 0.75


def test_squared_errors_by_hand() -> None:
    outputs = np.array([[[1.0, 2.0]], [[0.0, 0.0]]], np.float32)
    targets = np.array([[[0.0, 4.0]], [[3.0, 0.0]]], np.float32)
    assert MSE.measure(outputs, targets) == (1 + 4 + 9 + 0) / 4
    assert MSE.measure(targets, targets) == 0


def test_sums_are_in_double_precision() -> None:
    """In float32 the square of 1 + 1e-4 against 1 would be off by a thousandth."""
    outputs = np.full((1, 1), 10001.0, np.float32)
    assert MSE.measure(outputs, np.full((1, 1), 10000.5, np.float32)) == 0.25


def test_separated_sources_are_judged_in_their_best_order() -> None:
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(6, 2, 80)).astype(np.float32)
    estimates = (sources[:, ::-1] * 3 + 0.1 * rng.normal(size=sources.shape)).astype(np.float32)
    wanted = float(si_sdr(torch.tensor(estimates[:, ::-1].copy()).double(), torch.tensor(sources).double()).mean())
    assert SI_SDR.measure(estimates, sources) == pytest.approx(wanted)
    assert wanted > 20
    assert SI_SDR.measure(estimates[:, 0], sources[:, 1]) == pytest.approx(wanted, abs=2), "one source, no axis"


@pytest.mark.parametrize("judge", [MSE, SI_SDR], ids=lambda s: s.name)
def test_targets_are_read_in_parts(judge: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(2, 25, 40)).astype(np.float32)
    whole = judge.measure(outputs, targets)
    asked: list[int] = []

    class Watched:
        shape = targets.shape

        def __len__(self) -> int:
            return len(targets)

        def __getitem__(self, index: slice | Array) -> Array:
            asked.append(len(targets[index]))
            return targets[index]

    monkeypatch.setattr(score, "CHUNK", 10)
    assert judge.measure(outputs, Watched()) == pytest.approx(whole)
    assert asked == [10, 10, 5]


def test_which_figure_is_better() -> None:
    assert ACCURACY.better(0.9, 0.8)
    assert not ACCURACY.better(0.9, 0.9)
    assert MSE.better(0.1, 0.2)
    assert not MSE.better(0.2, 0.2)
    assert SI_SDR.better(-3, -10)
    assert (ACCURACY.ends([0.9, 0.7]), MSE.ends([0.9, 0.7, 0.8]), SI_SDR.ends([1.0])) == (
        (0.7, 0.9),
        (0.9, 0.7),
        (1.0, 1.0),
    )


def test_how_figures_read() -> None:
    assert [ACCURACY.text(0.97314), ACCURACY.brief(0.97314), ACCURACY.change(0.9, 0.866)] == [
        "97.31 %", "97.31%", "+3.40",
    ]  # fmt: skip
    assert [MSE.text(0.006623), MSE.brief(0.006623), MSE.change(0.25, 1.5)] == ["0.006623", "0.006623", "-1.25"]
    assert [SI_SDR.text(12.314), SI_SDR.brief(12.314), SI_SDR.change(12.3, 12.8)] == ["12.31 dB", "12.31 dB", "-0.50"]
    assert ACCURACY.rounded(0.0123456789) == 0.012346
    assert MSE.rounded(0.00000123456789) == 1.23457e-06


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(DataError, match="the network's outputs cannot be judged: mse is"):
        MSE.measure(np.array([[bad]]), np.zeros((1, 1)))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((20,), ""),
        ((6, 20), ""),
        ((7, 20), "at most 6 sources, not of 7"),
        ((1, 1, 20), "not [1, 1, 20]"),
        ((1,), "not [1]"),
    ],
)
def test_which_shapes_are_signals(shape: tuple[int, ...], text: str) -> None:
    assert text in no_signals(shape)
    assert bool(no_signals(shape)) == bool(text)


def test_labels_and_score_must_suit_each_other() -> None:
    x, y = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    for labels, judge in ((y, ACCURACY), (np.arange(3), MSE)):
        with pytest.raises(DataError, match="are not judged by"):
            Split(x, labels, score=judge)
    split = Split(x, y, score=MSE)
    assert split.take(2).score is split.pick(np.array([0])).score is MSE
    assert Data(split, split, split).train.labels is y

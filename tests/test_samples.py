"""Samples that are read when they are asked for: torch's data sets, and no more of anything at once than is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import snnc
from snnc import api, data, trial
from snnc.data import Scaling
from snnc.errors import DataError
from snnc.importer import DEFAULT
from snnc.ir import Array
from snnc.pipeline import Pipeline
from snnc.samples import Stored
from snnc.search import Goal, search
from tests.train.conftest import teacher

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST = 256
"""Samples that anything reads at once, at most."""


class Pairs(Dataset[Any]):
    """Pairs as torch has them; tells what is read."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return torch.as_tensor(self.x[index]), self.y[index]


def numbered(count: int, start: int = 0) -> Pairs:
    """Samples that carry their own number."""
    return Pairs(np.arange(start, start + count, dtype=np.float32)[:, None], list(range(count)))


# --- data sets


def test_a_dataset_is_held_out_as_the_same_arrays_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=numbered(40).x, y=np.arange(40))
    ours, theirs = data.from_dataset(numbered(40), scaling=Scaling(0.5)), data.load(tmp_path / "data.npz")
    for part in ("train", "validation", "test"):
        one, other = getattr(ours, part), getattr(theirs, part)
        np.testing.assert_array_equal(one.x(), other.x() * 0.5)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.x().dtype == np.float32
    found = data.from_dataset(numbered(40), numbered(7, 1000))
    assert found.test.x()[:, 0].tolist() == list(range(1000, 1007))
    assert len(found.train) + len(found.validation) == 40


def test_labels_may_be_tensors(tmp_path: Path) -> None:
    made = TensorDataset(torch.arange(12.0)[:, None], torch.arange(12))
    np.testing.assert_array_equal(data.from_dataset(made).train.labels, data.from_dataset(numbered(12)).train.labels)


def test_with_labels_only_what_the_digest_needs_is_read_and_then_what_is_asked_for() -> None:
    source = numbered(3000)
    found = data.from_dataset(source, labels=np.arange(3000))
    assert len(source.asked) < 600, "256 of the test part, 256 of the rest, and some twice"
    source.asked.clear()
    x = found.train.pick(slice(10, 90)).take(50).x(np.array([5, 2]))
    assert source.asked == x[:, 0].tolist() == found.train.raw.numbers[[15, 12]].tolist()  # type: ignore[attr-defined]
    assert found.train.x(slice(0, 0)).shape == (0, 1)


def test_targets_of_a_dataset_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    x = np.arange(400, dtype=np.float32)[:, None]
    source = Pairs(x, [torch.full((2, 3), i + 0.5) for i in range(400)])
    found = data.from_dataset(source, score="si-sdr")
    assert found.train.score.name == "si-sdr"
    source.asked.clear()
    part = found.train.pick(slice(10, 20))
    np.testing.assert_array_equal(part.labels[np.array([4, 2])][:, 1, 2], part.x(np.array([4, 2]))[:, 0] + 0.5)
    assert len(source.asked) == 4, "two samples, two targets"
    given = data.from_dataset(source, labels=np.full((400, 2), 0.5))
    assert (given.train.score.name, given.train.labels.shape[1:]) == ("mse", (2,))
    numbers = data.from_dataset(Pairs(x, [float(v) + 0.5 for v in range(400)]))
    assert numbers.train.labels.shape == (324,)
    source.y[9] = torch.zeros(7)
    with pytest.raises(DataError, match=r"target 9 of train is float32\[7\], target 0 is float32\[2, 3\]"):
        data.from_dataset(source).train.labels[:]


class Flipping(Pairs):
    """Another sample every time."""

    def __getitem__(self, index: int) -> Any:
        return np.array([float(len(self.asked))]), super().__getitem__(index)[1]


class Endless(IterableDataset[Any]):
    """Samples one after the other, nobody knows how many."""

    def __iter__(self) -> Any:
        return iter(())


class Single(Pairs):
    """Samples without labels."""

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3)


def uneven() -> Pairs:
    return Pairs([np.zeros(2), np.zeros(2), *(np.zeros(3) for _ in range(9))], [0] * 11)


def with_nan() -> Pairs:
    return Pairs([np.zeros(1), *(np.full(1, np.nan) for _ in range(9))], [0] * 10)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Endless(), "train has no length"),
        (numbered(0), "train is empty"),
        (numbered(1), "0 training and 1 test samples are too few"),
        (Single([0] * 9, [0] * 9), "sample 0 of train cannot be read: ValueError"),
        (Flipping([0] * 9, [0] * 9), "samples of train are not the same when they are read again"),
        (uneven(), "sample 2 of train is float64[3], sample 0 is float64[2]"),
        (with_nan(), "train has NaN or infinity in sample 1"),
        (Pairs(np.zeros((9, 1)), np.zeros(9)), "the labels of train is float64: labels are class numbers from 0"),
        (Pairs(np.zeros((9, 1)), -np.arange(9)), "labels are class numbers from 0"),
        (Pairs(np.zeros((9, 1)), np.zeros((9, 2), int)), "the labels of train has shape [9, 2]"),
        (Pairs(np.zeros((9, 1), complex), np.zeros(9, int)), "sample 0 of train is complex128[1], not numbers"),
        (Pairs(np.zeros(9), np.zeros(9, int)), "sample 0 of train is float64[], not numbers"),
    ],
)
def test_datasets_that_cannot_be_used(source: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        data.from_dataset(source)
    assert message in caught.value.message
    assert caught.value.at == type(source).__name__


def test_labels_that_are_given_are_checked() -> None:
    with pytest.raises(DataError, match=r"the labels of train has shape \[3\], not one label for each of 9 samples"):
        data.from_dataset(numbered(9), labels=np.arange(3))


def test_a_dataset_that_fails_says_where() -> None:
    source = numbered(9)
    found = data.from_dataset(source, labels=np.zeros(9, int))
    source.x = source.x[:2]
    with pytest.raises(DataError, match=r"sample \d of train cannot be read: IndexError"):
        found.train.x()


# --- no more at once than is needed


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples every single read has."""
    found: list[int] = []
    real = Stored.__getitem__

    def watched(self: Stored, index: slice | Array, /) -> Array:
        made = real(self, index)
        found.append(len(made))
        return made

    monkeypatch.setattr(Stored, "__getitem__", watched)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,800 training and 300 test samples that the tiny teacher labels nearly right."""
    path = tmp_path_factory.mktemp("stored")
    x = np.random.default_rng(6).random((3100, 8), np.float32)
    y = snnc.simulate(teacher(), x).argmax(1)
    for name, array in {"x_train": x[:2800], "y_train": y[:2800], "x_test": x[2800:], "y_test": y[2800:]}.items():
        np.save(path / f"{name}.npy", array)
    return path


RECIPES = [
    "threshold-layernorm{steps=4},bias-per-step,refine-thresholds{samples=200},limit-fan-in{k=6 method=auto},"
    "quantize-weights,ltl{epochs=1},tet{epochs=1}",
    "threshold-layernorm{steps=2},bias-per-step,tandem{epochs=1},ltl{epochs=1 order=sequential},"
    "constrain-then-train{epochs=1},quantize-weights,quantize-neurons",
    "replace-activation,ptl{steps=2 epochs=1 bits=4}",
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_pass_reads_more_than_a_batch(folder: Path, reads: list[int], recipe: str) -> None:
    found = data.load(folder)
    assert len(found.validation) > MOST, "or nobody would have to read it in parts"
    Pipeline.parse(recipe)(teacher(), data=found)
    assert sum(reads) > 2800
    assert max(reads) <= MOST


def test_no_part_of_a_compile_reads_more_than_a_batch(folder: Path, reads: list[int], tmp_path: Path) -> None:
    found = data.load(folder)
    built = api.build(teacher(), data=found, out=tmp_path / "build", pipeline=RECIPES[0], chips=1)
    api.run(built.artifact, found.test)
    api.run(built.artifact, found.test, built.artifact.load(0))
    api.explain(built.artifact, found.test)
    search(Pipeline.parse("threshold-layernorm{steps=4},bias-per-step"), teacher(), found, Goal(5.0))
    assert max(reads) <= MOST


def test_a_folder_gives_what_the_same_arrays_give(folder: Path, tmp_path: Path) -> None:
    """The same network and the same judgements; only what the data are known by differs."""
    np.savez(tmp_path / "data.npz", **{path.stem: np.load(path) for path in folder.glob("*.npy")})  # type: ignore[arg-type]
    made = [Pipeline.parse(RECIPES[0])(teacher(), data=data.load(path)) for path in (folder, tmp_path / "data.npz")]
    for name, array in made[0][0].params.items():
        assert array.tobytes() == made[1][0].params[name].tobytes(), name
    rows = [[replace(row, seconds=0.0) for row in ledger.rows] for _, ledger in made]
    assert rows[0] == rows[1]


def test_the_original_model_is_judged_in_parts(monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> None:
    model = EXAMPLES / "digits_cnn.onnx"
    split = data.load(EXAMPLES / "digits.npz", test_samples=300).test
    whole = trial._original(model, DEFAULT, snnc.load(model), split)
    monkeypatch.setattr(trial, "HELD", 1)
    stored = replace(
        split,
        raw=Stored(lambda index: split.raw[index], np.arange(300), split.shape[1:], np.dtype("f4"), "x", "here"),
    )
    np.testing.assert_array_equal(trial._original(model, DEFAULT, snnc.load(model), stored), whole)
    assert reads == [256, 44]


def test_a_command_takes_a_folder(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """And gives what it gives for the npz file."""
    (tmp_path / "digits").mkdir()
    with np.load(EXAMPLES / "digits.npz", allow_pickle=False) as file:
        for name in file.files:
            np.save(tmp_path / "digits" / f"{name}.npy", file[name])
    rows = []
    for given in (tmp_path / "digits", EXAMPLES / "digits.npz"):
        ended = snnc(
            "compile", str(EXAMPLES / "digits_cnn.onnx"), "--data", str(given), "--quiet", "--chips", "0", "--json",
            "--target", "dynap-sim{steps=4 epochs=1}", "--train-samples", "200", "--test-samples", "50",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        rows.append([(row["step"], row["accuracy"]) for row in json.loads(ended.out)["ledger"]])
    assert rows[0] == rows[1]

"""Data files: scaling by hand, three parts that never overlap, and every way in which a file can be wrong."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc import data
from snnc.data import Data, Scaling, Split
from snnc.errors import DataError
from snnc.ir import Graph, Node, TensorType
from snnc.score import MSE, SI_SDR

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str = "data.npz", **arrays: Any) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def numbered(count: int, start: int = 0) -> dict[str, Any]:
    """Samples that carry their own number."""
    return {"x": np.arange(start, start + count, dtype=np.float32)[:, None], "y": np.arange(count) % 3}


def ids(split: Split) -> set[int]:
    return {int(v) for v in split.raw[:][:, 0]}


# --- scaling


def test_scaling_by_hand() -> None:
    raw = np.array([[[[0, 255]], [[51, 102]]]], np.uint8)  # [1, 2, 1, 2]
    made = Scaling(1 / 255, (0.5, 0.1), (0.5, 0.2))(raw)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, np.array([[[[-1, 1]], [[0.5, 1.5]]]]), rtol=1e-6)
    np.testing.assert_array_equal(Scaling()(raw), raw)
    np.testing.assert_allclose(Scaling(2.0, (1.0,), (4.0,))(np.array([[3.0]])), [[1.25]])


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4,)])
def test_channels_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="2 means or deviations for samples of shape"):
        Scaling(1.0, (0.0, 0.0))(np.zeros(shape))


@pytest.mark.parametrize(
    "options",
    [
        {"std": (1.0, 0.0)},
        {"std": ()},
        {"mean": ()},
        {"mean": (float("nan"),)},
        {"scale": float("inf")},
        {"scale": 0.0},
    ],
)
def test_impossible_scalings(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="scale nothing"):
        Scaling(**options)


def test_samples_are_scaled_where_they_are_read() -> None:
    split = Split(np.array([[2], [4], [6]], np.uint8), np.arange(3), Scaling(0.5))
    np.testing.assert_array_equal(split.x(np.array([2, 0])), [[3], [1]])
    np.testing.assert_array_equal(split.x(slice(1, None)), [[2], [3]])
    assert split.raw.dtype == np.uint8
    assert len(split.take(2)) == 2
    assert split.take(None) is split


# --- parts


@given(st.integers(4, 300), st.booleans())
def test_parts_are_disjoint_and_complete(tmp_path_factory: pytest.TempPathFactory, count: int, own: bool) -> None:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    given = {"x_train": numbered(count)["x"], "y_train": numbered(count)["y"]} if own else numbered(count)
    test = {"x_test": numbered(7, 1000)["x"], "y_test": numbered(7)["y"]} if own else {}
    np.savez(path, **given, **test)
    found = data.load(path)
    parts = [ids(found.train), ids(found.validation), ids(found.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == count + (7 if own else 0)
    assert set.union(*parts) == {*range(count), *(range(1000, 1007) if own else ())}
    for split in (found.train, found.validation, found.test):
        np.testing.assert_array_equal(split.labels, split.raw[:, 0] % 1000 % 3)


def test_parts_are_fixed(save: Save) -> None:
    one, two = data.load(save(**numbered(100))), data.load(save("again.npz", **numbered(100)))
    assert ids(one.validation) == ids(two.validation)
    assert one.digest == two.digest
    assert len(one.test) == 10
    assert len(one.validation) == 9
    assert ids(one.validation) != set(range(min(ids(one.validation)), min(ids(one.validation)) + 9)), "not one block"


def test_at_most_a_thousand_are_held_out(save: Save) -> None:
    found = data.load(save(**numbered(30_000)))
    assert (len(found.test), len(found.validation)) == (1000, 1000)


def test_the_digest_depends_on_everything(save: Save) -> None:
    base = numbered(20)
    other = {**base, "y": base["y"][::-1].copy()}
    digests = {
        data.load(save(**base)).digest,
        data.load(save(**other)).digest,
        data.load(save(**base), scaling=Scaling(2.0)).digest,
        data.load(save(**base), train_samples=10).digest,
        data.load(save(x=base["x"].astype(np.float64), y=base["y"])).digest,
    }
    assert len(digests) == 5


def test_first_samples_and_other_test_files(save: Save) -> None:
    path, other = save(**numbered(50)), save("test.npz", **numbered(9, 500))
    found = data.load(path, test=other, train_samples=30, test_samples=4)
    assert ids(found.train) | ids(found.validation) == set(range(30)), "with a test file nothing is held out for it"
    assert ids(found.test) == {500, 501, 502, 503}
    both = save(
        "both.npz", x_train=np.zeros((5, 1)), y_train=np.zeros(5, int), x_test=np.ones((3, 1)), y_test=np.ones(3, int)
    )
    assert ids(data.load_test(both, Scaling())) == {1}
    assert len(data.load_test(other, Scaling(), 2)) == 2


def test_too_few(save: Save) -> None:
    for count in (0, 1, 2):
        with pytest.raises(DataError, match="too few"):
            data.load(save(**numbered(count)))
    assert len(data.load(save(**numbered(3))).train) == 1


# --- files


def text_file(path: Path) -> None:
    path.write_text("x,y\n1,2\n")


def truncated(path: Path) -> None:
    np.savez(path, **numbered(50))
    path.write_bytes(path.read_bytes()[:-40])


def pickled(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}], dtype=object), y=np.zeros(1, int))


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2)))


def not_an_array_inside(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", b"hello")


def spoilt_header(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (,    \n")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text_file, "cannot be read as npz"),
        (Path.touch, "cannot be read as npz"),
        (truncated, "cannot be read as npz"),
        (pickled, "cannot be read as npz: Object arrays cannot be loaded"),
        (one_array, "is one array, not an npz file"),
        (not_an_array_inside, "which is no array"),
        (spoilt_header, "cannot be read as npz"),
        (folder, "holds nothing, not x_train, y_train or x, y"),
        (lambda path: None, "there is no such file"),
    ],
)
def test_files_that_are_no_npz(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "data.npz"
    make(path)
    with pytest.raises(DataError) as caught:
        data.load(path)
    assert message in caught.value.message
    assert caught.value.at == str(path)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "bomb.npz"
    np.savez(path, x=np.array([Bomb()], dtype=object), y=np.zeros(1, int))
    with pytest.raises(DataError):
        data.load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_data_errors_whatever_the_damage(tmp_path: Path, compressed: bool) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **numbered(30))
    whole, path = buffer.getvalue(), tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged[: rng.integers(1, len(whole))] if rng.random() < 0.3 else damaged))
        try:
            data.load(path)
        except DataError:
            refused += 1
    assert refused > 300, "the CRC finds nearly all of it"


X, Y = np.zeros((4, 2), np.float32), np.arange(4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing, not x_train, y_train or x, y"),
        ({"a": X}, "holds a, not x_train, y_train or x, y"),
        ({"x": X}, "holds x, not"),
        ({"x": X, "y": Y[:3]}, r"y has shape [3], not one label for each of 4 samples"),
        ({"x": X, "y": np.eye(4)}, r"y has shape [4, 4], not one label"),
        ({"x": X, "y": Y.astype(float)}, "y is float64: labels are class numbers from 0"),
        ({"x": X, "y": Y - 1}, "labels are class numbers from 0"),
        ({"x": X, "y": np.full(4, 2**63, np.uint64)}, "labels are class numbers from 0"),
        ({"x": Y, "y": Y}, "x is int64[4], not numbers [samples, ...]"),
        ({"x": np.float32(1), "y": Y}, "x is float32[], not numbers"),
        ({"x": X.astype(str), "y": Y}, "x is <U32[4, 2], not numbers"),
        ({"x": X.astype(complex), "y": Y}, "not numbers"),
        ({"x": np.where([[0, 1]] * 4, np.nan, X), "y": Y}, "x has NaN or infinity in 4 of 4 samples"),
        ({"x": np.array([[np.inf, np.nan], [0, 0]]), "y": Y[:2]}, "x has NaN or infinity in 1 of 2 samples"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "not x_test, y_test"),
        ({"x_train": X, "y_train": Y, "x_test": X * np.nan, "y_test": Y}, "x_test has NaN"),
    ],
)
def test_arrays_that_cannot_be_used(save: Save, arrays: dict[str, Any], message: str) -> None:
    path = save(**arrays)
    with pytest.raises(DataError) as caught:
        data.load(path)
    assert message in caught.value.message
    assert caught.value.at == str(path)


# --- folders of npy files


@pytest.fixture
def save_folder(tmp_path: Path) -> Save:
    def write(name: str = "folder", **arrays: Any) -> Path:
        (tmp_path / name).mkdir()
        for key, array in arrays.items():
            np.save(tmp_path / name / f"{key}.npy", array)
        return tmp_path / name

    return write


def test_a_folder_has_the_parts_of_an_npz_file(save: Save, save_folder: Save) -> None:
    ours, theirs = data.load(save_folder(**numbered(100)), test_samples=5), data.load(save(**numbered(100)))
    for one, other in ((ours.train, theirs.train), (ours.validation, theirs.validation), (ours.test, theirs.test)):
        np.testing.assert_array_equal(one.x(), other.x(slice(len(one))))
        np.testing.assert_array_equal(one.labels, other.labels[: len(one)])
    both = save_folder("b", x_train=X, y_train=Y, x_test=X + 1, y_test=Y)
    assert ids(data.load(both).test) == {1}
    np.testing.assert_array_equal(data.load_test(both, Scaling(2.0), 3).x(), X[:3] * 2 + 2)
    assert ids(data.load(save("own.npz", **numbered(9)), test=both).test) == {1}


def test_of_a_folder_nothing_is_read_before_it_is_asked_for(save_folder: Save) -> None:
    """NaN in a sample that the digest does not look at is found, and named, when a batch has it."""
    x = numbered(3000)["x"]
    x[1001] = np.nan
    path = save_folder(x_train=x, y_train=np.zeros(3000, int), x_test=X, y_test=Y)
    found = data.load(path)
    place = int(np.flatnonzero(found.train.raw.numbers == 1001)[0])  # type: ignore[attr-defined]
    assert found.train.x(np.array([place - 1, place + 1])).shape == (2, 1)
    with pytest.raises(DataError) as caught:
        found.train.x(np.array([0, place, 1]))
    assert caught.value.message == "x_train has NaN or infinity in sample 1001"
    assert caught.value.at == str(path)


def test_the_digest_of_a_folder_is_of_labels_shapes_and_some_samples(save_folder: Save) -> None:
    base, many = numbered(3000), numbered(3000)
    seen, unseen = base["x"].copy(), base["x"].copy()
    unseen[1001] += 0.5
    seen[-1] += 0.5
    labels = np.array(base["y"])
    labels[1001] += 1
    found = [
        data.load(save_folder(f"{i}", x_train=x, y_train=y, x_test=seen[:4], y_test=Y), scaling=scaling).digest
        for i, (x, y, scaling) in enumerate(
            [
                (many["x"], many["y"], None),
                (unseen, base["y"], None),
                (seen, base["y"], None),
                (base["x"], labels, None),
                (base["x"].reshape(-1, 1, 1), base["y"], None),
                (base["x"][:-1], base["y"][:-1], None),
                (base["x"], base["y"], Scaling(2.0)),
            ]
        )
    ]
    assert found[0] == found[1]
    assert len(set(found[1:])) == 6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:3]}, "y has shape [3], not one label for each of 4 samples"),
        ({"x": X, "y": Y.astype(float)}, "y is float64: labels are class numbers from 0"),
        ({"x": Y, "y": Y}, "x is int64[4], not numbers [samples, ...]"),
        ({"x": np.array([[{}]]), "y": Y[:1]}, "cannot be read as npy: Array can't be memory-mapped"),
        ({"x": X[:0], "y": Y[:0]}, "0 training and 0 test samples are too few"),
        ({"x": X[:1], "y": Y[:1]}, "0 training and 1 test samples are too few"),
    ],
)
def test_folders_that_cannot_be_used(save_folder: Save, arrays: dict[str, Any], message: str) -> None:
    path = save_folder(**arrays)
    with pytest.raises(DataError) as caught:
        data.load(path)
    assert message in str(caught.value)
    assert str(caught.value.at).startswith(str(path))


def test_a_file_of_a_folder_that_is_cut_short(save_folder: Save) -> None:
    path = save_folder(**numbered(50))
    (path / "x.npy").write_bytes((path / "x.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot be read as npy"):
        data.load(path)
    (path / "x.npy").write_text("x,y")
    with pytest.raises(DataError, match="cannot be read as npy"):
        data.load(path)


# --- targets that are arrays


def pairs(count: int, shape: tuple[int, ...] = (2, 3)) -> dict[str, Any]:
    """Samples that carry their number, and targets that carry it too."""
    number = np.arange(count, dtype=np.float64)
    return {"x": number[:, None].astype(np.float32), "y": number.reshape(-1, *[1] * len(shape)) + np.full(shape, 0.25)}


@pytest.mark.parametrize("asked", [None, "mse", "si-sdr"])
def test_floats_are_targets(save: Save, asked: str | None) -> None:
    found = data.load(save(**pairs(100)), score=asked)
    for split in (found.train, found.validation, found.test, found.train.take(5), found.test.pick(np.array([1]))):
        assert split.score.name == (asked or "mse")
        assert (split.labels[:].dtype, split.labels.shape[1:]) == (np.float32, (2, 3))
        np.testing.assert_array_equal(split.labels[:][:, 0, 0], split.raw[:][:, 0] + 0.25)
    assert len({data.load(save(**pairs(100)), score=s).digest for s in (None, "mse", "si-sdr")}) == 2


def test_the_test_part_of_a_file_has_the_score_it_is_asked_for(save: Save) -> None:
    path = save(**pairs(9))
    assert data.load_test(path, Scaling(), 4, "si-sdr").score.name == "si-sdr"
    with pytest.raises(DataError, match="y has shape"):
        data.load_test(path, Scaling(), 4, "accuracy")


def test_targets_of_a_folder_are_read_when_they_are_asked_for(save: Save, save_folder: Save) -> None:
    """As float32, in parts, and NaN is found, and named, where a batch has it."""
    many = pairs(3000)
    many["y"][1001, 1, 2] = np.nan
    found = data.load(save_folder(**many))
    assert type(found.train.labels).__name__ == "Stored"
    asked = np.flatnonzero(found.train.raw.numbers == 1001)  # type: ignore[attr-defined]
    good = found.train.pick(slice(0, 9))
    assert good.labels[:].dtype == np.float32
    np.testing.assert_array_equal(good.labels[:][:, 0, 0], good.raw[:][:, 0] + 0.25)
    with pytest.raises(DataError, match="y has NaN or infinity in sample 1001"):
        found.train.labels[asked]
    whole = data.load(save_folder("again", **pairs(40)))
    assert whole.train.labels[:].tobytes() == data.load(save("same.npz", **pairs(40))).train.labels[:].tobytes()


@pytest.mark.parametrize(
    ("y", "score", "message", "hint"),
    [
        (np.arange(4.0), None, "y is float64: labels are class numbers from 0, and floats are targets", "astype"),
        (np.arange(4.0)[:, None], None, "these may be either", "--score mse"),
        (np.eye(4)[[0, 2, 1, 1]], None, "its rows are one-hot", "y.argmax(1) for classes"),
        (np.arange(4), "mse", "mse judges targets that are floats, y is int64: classes", "as floats"),
        (np.arange(4), "si-sdr", "si-sdr judges targets that are floats", "as floats"),
        (np.arange(8).reshape(4, 2), None, "y has shape [4, 2], not one label for each of 4 samples", "are floats"),
        (np.zeros((3, 2)) + 0.5, None, "y has shape [3, 2], not one target for each of 4 samples", ""),
        (np.full((4, 2), 0.5) * [1, np.nan], None, "y has NaN or infinity in 4 of 4 samples", ""),
        (np.full((4, 2), 1e300), None, "y has NaN or infinity in 4 of 4 samples", ""),
        (np.arange(4), "loudness", "no score is named 'loudness'", "accuracy, mse, si-sdr"),
    ],
)
def test_targets_that_cannot_be_used(
    save: Save, y: Any, score: str | None, message: str, hint: str, save_folder: Save
) -> None:
    with pytest.raises(DataError) as caught:
        data.load(save(x=X, y=y), score=score)
    assert message in caught.value.message
    assert hint in caught.value.hint
    if "NaN" not in message:
        with pytest.raises(DataError) as again:
            data.load(save_folder(x=X, y=y), score=score)
        assert again.value.message == caught.value.message


def test_whole_numbers_are_targets_where_a_score_says_so(save: Save) -> None:
    """And where one of them is none."""
    for y in (np.arange(20.0), np.arange(20.0)[:, None], np.eye(20)):
        assert data.load(save(x=np.zeros((20, 1)), y=y), score="mse").train.labels.shape[1:] == y.shape[1:]
    assert data.load(save(x=np.zeros((20, 1)), y=np.arange(20) + 0.5)).train.score.name == "mse"


def against(shape: tuple[int, ...], target: tuple[int, ...], score: Any = MSE) -> None:
    """Check targets of shape `target` with a model whose output has `shape`."""
    part = Split(np.zeros((5, 4), np.float32), np.zeros((5, *target), np.float32), score=score)
    Data(part, part, part).check(model({"image": (4,)}, shape))


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 20), (2, 3, 4)])
def test_targets_are_as_the_output_is(shape: tuple[int, ...]) -> None:
    against(shape, shape)
    with pytest.raises(DataError) as caught:
        against(shape, (*shape, 1))
    first = caught.value.problems[0]
    assert first.message == f"train targets have shape {[*shape, 1]}, output 'logits' has {list(shape)}"
    assert first.hint == f"reshape the targets to {list(shape)} each"


def test_signals_that_si_sdr_cannot_tell_apart() -> None:
    against((2, 20), (2, 20), SI_SDR)
    against((20,), (20,), SI_SDR)
    with pytest.raises(DataError, match="train targets: si-sdr tries the orders of at most 6 sources, not of 7"):
        against((7, 20), (7, 20), SI_SDR)


def test_parts_that_are_judged_differently() -> None:
    one, other = (Split(np.zeros((5, 4), np.float32), np.zeros((5, 20), np.float32), score=s) for s in (MSE, SI_SDR))
    with pytest.raises(DataError, match="the train part is judged by mse, test by si-sdr"):
        Data(one, one, other).check(model({"image": (4,)}, (20,)))


# --- data against model


def model(inputs: dict[str, tuple[int, ...]], shape: tuple[int, ...]) -> Graph:
    types = {name: TensorType("analog", size) for name, size in inputs.items()}
    size = int(np.prod(shape))
    first = next(iter(inputs))
    params = {"w": np.zeros((size, int(np.prod(inputs[first]))), np.float32)}
    nodes = [
        Node("flat", "reshape", (first,), {"shape": (int(np.prod(inputs[first])),)}),
        Node("dense", "dense", ("flat", "w")),
        Node("scores", "reshape", ("dense",), {"shape": shape}),
    ]
    return Graph(types, (), {}, {}).edit(nodes, params=params, outputs={"logits": "scores"})


def made(shape: tuple[int, ...], classes: int, test: int = 3) -> Data:
    def split(count: int) -> Split:
        return Split(np.zeros((count, *shape), np.float32), np.arange(count) % classes)

    return Data(split(5), split(5), split(test))


def test_data_that_fits() -> None:
    made((1, 2, 2), 3).check(model({"image": (1, 2, 2)}, (3,)))


def test_data_that_does_not_fit_lists_everything() -> None:
    with pytest.raises(DataError) as caught:
        made((4,), 3, test=0).check(model({"image": (1, 2, 2)}, (3,)))
    assert str(caught.value) == (
        "the data does not fit the model\n"
        "  - train samples have shape [4], input 'image' takes [1, 2, 2]\n"
        "      try: reshape the samples to [1, 2, 2] each\n"
        "  - validation samples have shape [4], input 'image' takes [1, 2, 2]\n"
        "      try: reshape the samples to [1, 2, 2] each\n"
        "  - the test part is empty"
    )


def test_labels_outside_the_classes() -> None:
    with pytest.raises(DataError) as caught:
        made((4,), 3).check(model({"image": (4,)}, (2,)))
    assert [p.message for p in caught.value.problems] == [
        f"{part} labels go up to 2, the model has 2 classes" for part in ("train", "validation", "test")
    ]


def test_an_output_that_is_no_list_of_scores() -> None:
    with pytest.raises(DataError, match=r"output 'logits' has shape \[2, 2\]: accuracy needs one score per class"):
        made((4,), 2).check(model({"image": (4,)}, (2, 2)))


def test_several_inputs_are_named() -> None:
    with pytest.raises(DataError, match="feeds one input and judges one output; the model has a, b, logits"):
        made((4,), 2).check(model({"a": (4,), "b": (4,)}, (2,)))


# --- events in frames


def test_events_are_counted_by_equal_durations() -> None:
    """Ten microseconds in two frames: 100 to 104 and 105 to 109."""
    t = np.array([100, 104, 105, 109, 104, 100])
    p, x, y = np.array([0, 1, 1, 0, 1, 0]), np.array([0, 2, 2, 1, 2, 0]), np.array([1, 0, 0, 0, 0, 1])
    made = data.frames(t, p, x, y, 2, (2, 3))
    wanted = np.zeros((2, 2, 2, 3))
    wanted[0, 0, 1, 0], wanted[0, 1, 0, 2] = 2, 2
    wanted[1, 1, 0, 2], wanted[1, 0, 0, 1] = 1, 1
    np.testing.assert_array_equal(made, wanted)
    assert made.dtype == np.uint16


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 7), st.integers(1, 1500))
def test_every_event_is_counted_once_or_comes_too_late(times: list[int], steps: int, duration: int) -> None:
    t, zero = np.array(times, np.uint32), np.zeros(len(times), np.uint8)
    assert data.frames(t, zero, zero, zero, steps, (1, 1)).sum() == len(times)
    made = data.frames(t, zero, zero, zero, steps, (1, 1), duration)
    first = min(times)
    wanted = [sum(duration * k <= (at - first) * steps < duration * (k + 1) for at in times) for k in range(steps)]
    np.testing.assert_array_equal(made[:, 0, 0, 0], wanted)


def test_a_recording_without_events() -> None:
    none = np.zeros(0, np.int64)
    made = data.frames(none, none, none, none, 4, (2, 2))
    assert (made.shape, made.any()) == ((4, 2, 2, 2), False)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"p": [0, 2]}, "p of events goes from 0 to 2, not from 0 to 1"),
        ({"p": [-1, 1]}, "p of events goes from -1 to 1, not from 0 to 1"),
        ({"x": [0, 3]}, "x of events goes from 0 to 3, not from 0 to 2"),
        ({"y": [2, 0]}, "y of events goes from 0 to 2, not from 0 to 1"),
        ({"t": [1]}, "t, p, x and y of events are integers, as many of each"),
        ({"t": [0.5, 1.5]}, "t, p, x and y of events are integers, as many of each"),
        ({"steps": 0}, "events cannot be counted in steps=0 of duration=None"),
        ({"duration": 0}, "events cannot be counted in steps=2 of duration=0"),
    ],
)
def test_events_that_cannot_be_counted(change: dict[str, Any], text: str) -> None:
    parts: dict[str, Any] = {"t": [0, 1], "p": [0, 1], "x": [0, 2], "y": [1, 0], "steps": 2, "shape": (2, 3)}
    parts |= change
    with pytest.raises(DataError) as caught:
        data.frames(**{key: np.array(v) if key in "tpxy" else v for key, v in parts.items()})
    assert text in str(caught.value)


def test_more_events_than_a_count_holds() -> None:
    many = np.zeros(2**16, np.int64)
    with pytest.raises(DataError, match="65536 events of one pixel in one frame"):
        data.frames(many, many, many, many, 1, (1, 1))

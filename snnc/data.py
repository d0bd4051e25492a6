"""Data files -> arrays: npz with x_train, y_train, x_test, y_test (or x, y), read lazily scaled, never pickled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import DataError
from .ir import Array, Graph
from .ir.streams import is_stream, sample_shape

HELD_OUT = 0.1
"""Share of the training samples that is kept back to choose by; at most `MOST_HELD_OUT` samples."""
MOST_HELD_OUT = 1000
SAVE = "numpy.savez(path, x_train=..., y_train=...)"


@dataclass(frozen=True)
class Scaling:
    """What the model wants of the raw numbers: x = (raw * scale - mean) / std, mean and std per channel or single."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if (
            not self.mean
            or not self.std
            or 0.0 in (self.scale, *self.std)
            or not np.isfinite([self.scale, *self.mean, *self.std]).all()
        ):
            raise DataError(f"scale {self.scale}, mean {self.mean}, std {self.std} scale nothing")

    @property
    def one_factor(self) -> bool:
        """Whether nothing is subtracted, and all channels are scaled alike: the total then is scaled as every step."""
        return self.mean == (0.0,) and len(self.std) == 1

    def __call__(self, raw: Array) -> Array:
        """float32 [N, C, ...] from raw [N, C, ...]."""
        mean, std = (self._shaped(np.asarray(v, np.float32), raw) for v in (self.mean, self.std))
        return np.asarray((raw.astype(np.float32) * np.float32(self.scale) - mean) / std, np.float32)

    @staticmethod
    def _shaped(values: Array, raw: Array) -> Array:
        if values.size == 1:
            return values
        if raw.ndim < 2 or raw.shape[1] != values.size:
            raise DataError(f"{values.size} means or deviations for samples of shape {list(raw.shape[1:])}")
        return values.reshape(-1, *[1] * (raw.ndim - 2))


@dataclass(frozen=True, eq=False)
class Split:
    """Samples for one purpose: raw [N, ...], or streams of events [N, T, ...], labels [N], and how to scale."""

    raw: Array
    labels: Array
    scaling: Scaling = field(default_factory=Scaling)

    def __len__(self) -> int:
        return len(self.raw)

    def x(self, index: slice | Array = slice(None)) -> Array:
        """Scaled samples, float32 [n, ...]."""
        return self.scaling(self.raw[index])

    def take(self, count: int | None) -> Split:
        """The first `count` samples (all, if None)."""
        return self if count is None else Split(self.raw[:count], self.labels[:count], self.scaling)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts that do not overlap: `train` teaches, `validation` chooses, `test` is seen once."""

    train: Split
    validation: Split
    test: Split
    digest: str = ""

    def check(self, graph: Graph) -> None:
        """Refuse data that does not fit the model.

        Raises:
            DataError: lists all: sample shape, steps of a stream, its scaling, labels outside the model's classes.
        """
        problems: list[DataError] = []
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            names = ", ".join([*graph.inputs, *graph.outputs])
            raise DataError(
                f"an npz file of samples and labels feeds one input and judges one output; the model has {names}",
                hint="keep one output: --output NAME, or outputs=('NAME',) of snnc.load",
            )
        [name], [(user, output)] = graph.inputs, graph.outputs.items()
        shape = graph.type(output).shape
        if len(shape) != 1:
            problems.append(DataError(f"output '{user}' has shape {list(shape)}: accuracy needs one score per class"))
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            if len(split) == 0:
                problems.append(DataError(f"the {part} part is empty"))
            elif (found := split.raw.shape[1:]) != (wanted := sample_shape(graph, name, found)):
                got, want = list(found), list(wanted)
                hint = f"reshape the samples to {want} each" if np.prod(got) == np.prod(want) else ""
                problems.append(DataError(f"{part} samples have shape {got}, input '{name}' takes {want}", hint=hint))
            elif is_stream(graph, name, found) and not split.scaling.one_factor:
                problems.append(DataError(f"{part} samples are streams of events, which are scaled by one factor only"))
            elif len(shape) == 1 and int(split.labels.max()) >= shape[0]:
                problems.append(
                    DataError(f"{part} labels go up to {split.labels.max()}, the model has {shape[0]} classes")
                )
        if problems:
            raise DataError.gather("the data does not fit the model", problems)


def load(
    path: str | Path,
    *,
    test: str | Path | None = None,
    scaling: Scaling | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
) -> Data:
    """Read an npz file with x_train, y_train, x_test, y_test, or with x, y.

    Where there is no test part (and no `test` file, with x, y or x_test, y_test), a tenth of the samples becomes it.
    The validation part is a fixed random tenth of the training samples, at most 1,000.

    Args:
        test: another file for the test part.
        scaling: what the model wants of the raw numbers.
        train_samples, test_samples: use only the first so many.

    Raises:
        DataError: unreadable file, missing arrays, wrong dtypes, NaN, lengths that differ.
    """
    scaling = scaling or Scaling()
    arrays = read(path)
    x, y = _pick(path, arrays, ("x_train", "y_train"), ("x", "y"))
    if test is not None:
        test_x, test_y = _pick(test, read(test), ("x_test", "y_test"), ("x", "y"))
    elif "x_test" in arrays:
        test_x, test_y = _pick(path, arrays, ("x_test", "y_test"))
    else:
        rest, held = _hold_out(len(x), 1)
        test_x, test_y, x, y = x[held], y[held], x[rest], y[rest]
    x, y, test_x, test_y = x[:train_samples], y[:train_samples], test_x[:test_samples], test_y[:test_samples]
    if len(x) < 2 or len(test_x) < 1:
        raise DataError(f"{len(x)} training and {len(test_x)} test samples are too few", at=str(path))
    rest, held = _hold_out(len(x), 0)
    return Data(
        Split(x[rest], y[rest], scaling),
        Split(x[held], y[held], scaling),
        Split(test_x, test_y, scaling),
        _digest(scaling, x, y, test_x, test_y),
    )


def load_test(path: str | Path, scaling: Scaling, samples: int | None = None) -> Split:
    """Only the test part of a file: x_test, y_test if it has them, else x, y."""
    x, y = _pick(path, read(path), ("x_test", "y_test"), ("x", "y"))
    return Split(x[:samples], y[:samples], scaling)


def read(path: str | Path) -> dict[str, Array]:
    """All arrays of an npz file; never unpickles.

    Raises:
        DataError: says what is wrong with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file" if not path.exists() else "is not a file", at=str(path))
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError("is one array, not an npz file of named arrays", at=str(path), hint=SAVE)
        with file:
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # damaged files make numpy, zipfile, zlib, lzma and tokenize raise errors of any kind
        raise DataError(f"cannot be read as npz: {error}", at=str(path), hint=SAVE) from None
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"holds {', '.join(strange)}, which is no array", at=str(path), hint=SAVE)
    return arrays


def frames(
    t: Array, p: Array, x: Array, y: Array, steps: int, shape: tuple[int, int], duration: int | None = None
) -> Array:
    """Events of one recording, counted in `steps` frames of equal duration: uint16 [steps, 2, height, width].

    Frame k holds the events with k <= (t - first t) * steps / duration < k + 1, channel 0 those of polarity 0 (OFF).

    Args:
        t: time in microseconds, integers [n], in any order.
        p: polarity, 0 or 1, [n].
        x, y: column and row, from 0, [n].
        shape: height and width of the sensor, (34, 34) for N-MNIST (Orchard et al. 2015, arXiv 1507.07629).
        duration: of the whole recording in microseconds, later events are left out; by default up to the last event.

    Raises:
        DataError: no steps or duration, arrays that do not fit together, events outside of the sensor.
    """
    arrays = [np.asarray(array) for array in (t, p, x, y)]
    if any(a.ndim != 1 or a.dtype.kind not in "iub" or len(a) != len(arrays[0]) for a in arrays):
        raise DataError(
            "t, p, x and y of events are integers, as many of each", hint="frames(t, p, x, y, steps, shape)"
        )
    if steps < 1 or (duration is not None and duration < 1):
        raise DataError(f"events cannot be counted in steps={steps} of duration={duration}")
    made = np.zeros((steps, 2, *shape), np.int64)
    if not len(t):
        return made.astype(np.uint16)
    time, *place = (array.astype(np.int64) for array in arrays)
    for word, array, size in zip(("p", "y", "x"), (place[0], place[2], place[1]), (2, *shape), strict=True):
        if array.min() < 0 or array.max() >= size:
            raise DataError(f"{word} of events goes from {array.min()} to {array.max()}, not from 0 to {size - 1}")
    time -= time.min()
    frame = time * steps // (int(time.max()) + 1 if duration is None else duration)
    inside = frame < steps
    np.add.at(made, (frame[inside], place[0][inside], place[2][inside], place[1][inside]), 1)
    if made.max() > np.iinfo(np.uint16).max:
        raise DataError(f"{made.max()} events of one pixel in one frame", hint="more steps")
    return made.astype(np.uint16)


def _pick(path: str | Path, arrays: dict[str, Array], *pairs: tuple[str, str]) -> tuple[Array, Array]:
    for name_x, name_y in pairs:
        if name_x in arrays and name_y in arrays:
            return _checked(path, name_x, arrays[name_x]), _labels(path, name_y, arrays[name_y], len(arrays[name_x]))
    wanted = " or ".join(f"{a}, {b}" for a, b in pairs)
    raise DataError(f"holds {', '.join(arrays) or 'nothing'}, not {wanted}", at=str(path))


def _checked(path: str | Path, name: str, x: Array) -> Array:
    if x.ndim < 2 or x.dtype.kind not in "fiu":
        raise DataError(f"{name} is {x.dtype}{list(x.shape)}, not numbers [samples, ...]", at=str(path))
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.unique(np.nonzero(~np.isfinite(x))[0]).size)
        raise DataError(f"{name} has NaN or infinity in {bad} of {len(x)} samples", at=str(path))
    return x


def _labels(path: str | Path, name: str, y: Array, count: int) -> Array:
    if y.ndim != 1 or len(y) != count:
        raise DataError(f"{name} has shape {list(y.shape)}, not one label for each of {count} samples", at=str(path))
    if y.dtype.kind not in "iu" or (len(y) and (y.min() < 0 or y.max() > np.iinfo(np.int64).max)):
        raise DataError(f"{name} is {y.dtype}: labels are class numbers from 0", at=str(path))
    return y.astype(np.int64)


def _hold_out(count: int, stream: int) -> tuple[Array, Array]:
    """Sorted indices of the rest and of the held-out part; the same for every seed, so that seeds compare."""
    size = max(1, min(int(count * HELD_OUT), MOST_HELD_OUT))
    order = np.random.default_rng([stream, count]).permutation(count)
    return np.sort(order[size:]), np.sort(order[:size])


def _digest(scaling: Scaling, *arrays: Array) -> str:
    total = hashlib.sha256(repr(scaling).encode())
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()

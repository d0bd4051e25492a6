"""Events of a sensor -> frames: how many events each pixel had in each of a number of equal durations."""

from __future__ import annotations

import numpy as np

from .errors import DataError
from .ir import Array


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

"""Images that move by chance: how far, where zeros come in, and alike for whoever looks again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import snnc
from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.pipeline import Context, Pipeline
from snnc.train import Batch, parallel
from snnc.train.augment import PART, Augment
from snnc.train.loop import loop
from tests.graphs import Builder
from tests.train.test_checkpoint import Chancy
from tests.train.test_loop import nothing

EXAMPLES = Path(__file__).parents[2] / "examples"
Lower = Callable[..., Graph]


def images(shape: tuple[int, ...], channels_last: bool = False) -> Graph:
    b = Builder({"x": shape})
    source = b("front", "transpose", "x", perm=(2, 0, 1)) if channels_last else "x"
    return b.graph(b("r", "relu", source))


def test_images_move_by_up_to_an_eighth_and_zeros_come_in() -> None:
    augment = Augment("shift-flip", images((2, 16, 24)))
    drawn = augment.draw(500, np.random.default_rng(0))
    for column, most in enumerate((16 // PART, 24 // PART)):
        assert set(drawn[:, column]) == set(range(-most, most + 1))
    assert 200 < drawn[:, 2].sum() < 300
    raw = np.random.default_rng(1).integers(1, 255, (500, 2, 16, 24)).astype(np.uint8)
    made = augment.moved(raw, drawn)
    assert made.dtype == np.uint8
    for image, found, (down, right, mirrored) in zip(raw, made, drawn, strict=True):
        wide = np.pad(image, ((0, 0), (16, 16), (24, 24)))
        wanted = wide[:, 16 - down : 32 - down, 24 - right : 48 - right]
        np.testing.assert_array_equal(found, wanted[..., ::-1] if mirrored else wanted)


def test_channels_last_and_streams_move_in_height_and_width() -> None:
    raw = np.random.default_rng(1).random((40, 2, 16, 24), np.float32)
    first, last = (Augment("shift-flip", graph) for graph in (images((2, 16, 24)), images((16, 24, 2), True)))
    drawn = first.draw(40, np.random.default_rng(0))
    np.testing.assert_array_equal(last.draw(40, np.random.default_rng(0)), drawn)
    wanted = first.moved(raw, drawn)
    np.testing.assert_array_equal(last.moved(raw.transpose(0, 2, 3, 1), drawn), wanted.transpose(0, 2, 3, 1))
    stream = np.stack([raw, 2 * raw], axis=1)
    np.testing.assert_array_equal(first.moved(stream, drawn), np.stack([wanted, 2 * wanted], axis=1))


def test_shift_alone_does_not_mirror_and_none_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    assert not Augment("shift", images((1, 16, 16))).draw(100, rng)[:, 2].any()
    before = rng.bit_generator.state
    none = Augment("none", images((3,)))
    split = Split(np.arange(12).reshape(4, 3), np.zeros(4, np.int64))
    np.testing.assert_array_equal(none.x(split, np.array([2, 0]), none.draw(2, rng)), [[6, 7, 8], [0, 1, 2]])
    assert rng.bit_generator.state == before


def test_what_is_no_image_is_refused(lowered: Lower, data: Data) -> None:
    with pytest.raises(PipelineError, match=r"augment=shift moves images, but 'x' has shape \[8\]") as caught:
        loop(Chancy(augment="shift"), lowered(), Context(data, lowered().teacher), nothing)
    assert caught.value.hint == "augment=none"


def test_training_sees_moved_images_the_same_ones_each_time_and_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Judged are the images as they are; two processes see one half of each batch each."""
    data = snnc.data.load(EXAMPLES / "digits.npz", train_samples=60, test_samples=5)
    graph, _ = Pipeline.parse("fold-batchnorm,threshold-layernorm{steps=2}")(
        snnc.load(EXAMPLES / "digits_cnn.onnx"), data=data
    )
    few = replace(data, train=Split(data.train.raw[:30], data.train.labels[:30], data.train.scaling))

    def seen(kind: str) -> list[np.ndarray]:
        found: list[np.ndarray] = []

        def watch(batch: Batch) -> object:
            found.append(batch.x.numpy())
            return nothing(batch)

        rule = Chancy(epochs=2, batch=10, rate=1e-9, augment=kind)  # type: ignore[arg-type]
        loop(rule, graph, Context(few, graph.teacher), watch, judge=lambda made: 0.0)  # type: ignore[arg-type]
        return found

    plain, moved, again = seen("none"), seen("shift"), seen("shift")
    assert len(plain) == len(moved) == 6
    assert all(np.array_equal(a, b) for a, b in zip(moved, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(plain, moved, strict=True))
    monkeypatch.setattr(parallel, "share", lambda batch: batch[5:])
    monkeypatch.setattr(parallel, "add_up", lambda tensors, weight: None)
    assert all(np.array_equal(a[5:], b) for a, b in zip(moved, seen("shift"), strict=True))

"""Every example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_embedded_example_is_small() -> None:
    for name in ("digits_cnn.onnx", "digits.npz"):
        assert (EXAMPLES / name).stat().st_size < 300_000


def test_train_digits(tmp_path: Path) -> None:
    for module in ("sklearn", "onnxscript"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install snnc[examples]")
    subprocess.run(
        [sys.executable, EXAMPLES / "train_digits.py", "--out", tmp_path, "--epochs", "1"],
        check=True,
        capture_output=True,
    )
    with np.load(tmp_path / "digits.npz") as made, np.load(EXAMPLES / "digits.npz") as kept:
        assert all(np.array_equal(made[name], kept[name]) for name in kept.files)
    import snnc

    assert snnc.to_text(snnc.load(tmp_path / "digits_cnn.onnx")) == snnc.to_text(
        snnc.load(EXAMPLES / "digits_cnn.onnx")
    )


def test_autoencoder(tmp_path: Path) -> None:
    """The network learns to draw digits, and still does with spikes."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install snnc[examples]")
    made = subprocess.run(
        [sys.executable, EXAMPLES / "autoencoder.py", "--out", tmp_path, "--epochs", "15"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    ann, snn = (float(found) for found in re.findall(r"mean squared error ([\d.]+) on 500 test digits", made.stdout))
    with np.load(EXAMPLES / "digits.npz") as digits:
        x = digits["x_test"]
        blank = float(np.square(x - digits["x_train"].mean(0)).mean())
    assert ann < 0.6 * blank
    assert ann <= snn < 0.8 * blank, (ann, snn, blank)

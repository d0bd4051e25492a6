"""Every example runs."""

from __future__ import annotations

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

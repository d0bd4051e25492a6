"""Train the embedded example: a small CNN with batch norm on the 8x8 digits that scikit-learn ships.

    python examples/train_digits.py [--out examples] [--epochs 60]        (needs snnc[examples])

Writes digits_cnn.onnx and digits.npz. The first 1,297 digits teach, the last 500, of other writers,
test. Pixels go from 0 to 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

TEST = 500


def network() -> nn.Sequential:
    """Three convolutions (stride 2 instead of pooling), one hidden dense layer, batch norm everywhere."""

    def conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]

    dense = [nn.Flatten(), nn.Linear(384, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*conv(1, 12, 1), *conv(12, 24, 2), *conv(24, 24, 1), *dense)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    train(given.out, given.epochs)


def train(out: Path, epochs: int) -> None:
    """Train, print the test accuracy, export."""
    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    np.savez_compressed(
        out / "digits.npz",
        x_train=x[:-TEST],
        y_train=y[:-TEST].astype(np.uint8),
        x_test=x[-TEST:],
        y_test=y[-TEST:].astype(np.uint8),
    )
    torch.manual_seed(0)
    model = network()
    images, labels = torch.tensor(x[:-TEST]), torch.tensor(y[:-TEST])
    batch = 32
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs * -(-len(images) // batch))
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch):
            shifted = torch.roll(images[index], (int(torch.randint(-1, 2, ())), int(torch.randint(-1, 2, ()))), (2, 3))
            loss = nn.functional.cross_entropy(model(shifted), labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    model.eval()
    with torch.no_grad():
        share = (model(torch.tensor(x[-TEST:])).argmax(1) == torch.tensor(y[-TEST:])).float().mean()
    print(f"test accuracy {float(share):.2%}")
    torch.onnx.export(
        model,
        (images[:2],),
        out / "digits_cnn.onnx",
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        optimize=False,
    )
    strip(out / "digits_cnn.onnx")


def strip(path: Path) -> None:
    """Drop what the exporter says about the machine it ran on: stack traces, scopes, shapes of inner values."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    onnx.save(model, path)


if __name__ == "__main__":
    main()

"""A spiking autoencoder: targets that are arrays, judged by their mean squared error.

    python examples/autoencoder.py [--out build] [--epochs 100]        (needs snnc[examples])

Trains a small network that squeezes the 8x8 digits of digits.npz through 16 numbers, exports it to ONNX, and makes it
spike with progressive tandem learning. Prints the error on the test digits at every step. Where y are floats, snnc
judges by squared error, and the rules train by it; nothing else differs from a network of classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import snnc

RECIPE = "ptl{steps=8 epochs=4 patience=2}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with np.load(Path(__file__).parent / "digits.npz") as digits:
        x_train, x_test = (digits[name].reshape(-1, 64) for name in ("x_train", "x_test"))
    np.savez(given.out / "images.npz", x_train=x_train, y_train=x_train, x_test=x_test, y_test=x_test)
    export(train(torch.tensor(x_train), given.epochs), given.out / "autoencoder.onnx")

    data = snnc.data.load(given.out / "images.npz")
    ann = snnc.load(given.out / "autoencoder.onnx")
    snn, ledger = snnc.Pipeline.parse(RECIPE)(ann, data=data)
    print(ledger)
    for name, graph in (("ANN", ann), ("SNN", snn)):
        images = snnc.simulate(graph, x_test, "torch")
        print(f"{name}: mean squared error {np.square(images - x_test).mean():.5f} on {len(x_test)} test digits")


def train(images: torch.Tensor, epochs: int) -> nn.Module:
    """An autoencoder 64-48-16-48-64."""
    torch.manual_seed(0)
    layers = nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 48), nn.ReLU()
    model = nn.Sequential(*layers, nn.Linear(48, 64), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            loss = nn.functional.mse_loss(model(images[index]), images[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """One ONNX file, any batch size."""
    batch = torch.export.Dim("batch")
    torch.onnx.export(model, (torch.zeros(2, 64),), path, dynamic_shapes=({0: batch},), external_data=False)


if __name__ == "__main__":
    main()

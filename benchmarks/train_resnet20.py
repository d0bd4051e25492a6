"""Train the 20-layer residual CIFAR-10 network (He et al., 2015) for benchmarks/conversion.py, and write it as ONNX.

    python benchmarks/train_resnet20.py --out resnet20.onnx [--epochs 40] [--seed 0]

Needs SNNC_MODELS and SNNC_DATA. Only 10,000 training images are at hand: the network learns the scores of
`cifar10_vgg11_half.onnx` on shifted and mirrored images (Hinton et al., 2015), and no label. The test images are looked
at once, at the end. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snnc
from snnc.data import Scaling
from snnc.ir import Graph
from snnc.sim import torch as executor

SCALING = Scaling(1 / 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
TEMPERATURE = 4.0
BATCH = 128
RATE = 0.1


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, 3, stride), _conv(outputs, outputs, 3, 1)
        self.short = nn.Identity() if inputs == outputs else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]."""
        return F.relu(self.second(F.relu(self.first(x))) + self.short(x))


def resnet20(width: int = 16) -> nn.Module:
    """Three stages of three blocks: 19 convolutions in a row and a dense layer."""
    wide = [width, width, width, 2 * width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in zip([width, *wide], wide, strict=False)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(_conv(3, width, 3, 1), nn.ReLU(), *blocks, *head)


def _conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def augmented(raw: Tensor, rng: np.random.Generator) -> Tensor:
    """Images [N, C, H, W], each shifted by up to four pixels and mirrored by chance."""
    padded = F.pad(raw, (4, 4, 4, 4))
    moves = rng.integers(0, 9, (len(raw), 2))
    mirrored = rng.random(len(raw)) < 0.5
    made = [
        padded[i, :, y : y + raw.shape[2], x : x + raw.shape[3]].flip(-1 if mirrored[i] else ())
        for i, (y, x) in enumerate(moves)
    ]
    return torch.stack(made)


def scores(teacher: Graph, x: Tensor) -> Tensor:
    """What the teacher says of images [N, 3, 32, 32]."""
    return torch.from_numpy(next(iter(executor.run(teacher, {next(iter(teacher.inputs)): x.numpy()}).values())))


def main() -> None:
    """Train, judge, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    models, data = (os.environ.get(name) for name in ("SNNC_MODELS", "SNNC_DATA"))
    if models is None or data is None:
        sys.exit("set SNNC_MODELS and SNNC_DATA to the folders of the models and the data")
    teacher = snnc.load(f"{models}/cifar10_vgg11_half.onnx")
    images = torch.from_numpy(SCALING(np.load(f"{data}/cifar10_train_1.npz")["x"]))
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    net = resnet20(given.width)
    steps = given.epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.15)
    for epoch in range(given.epochs):
        order = torch.from_numpy(rng.permutation(len(images)))
        total = 0.0
        for at in range(0, len(images) - BATCH + 1, BATCH):
            x = augmented(images[order[at : at + BATCH]], rng)
            wanted = F.softmax(scores(teacher, x) / TEMPERATURE, 1)
            loss = F.cross_entropy(net(x) / TEMPERATURE, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (len(images) // BATCH):.4f}", flush=True)
    net.eval()
    torch.onnx.export(net, (images[:2],), given.out, input_names=["image"], output_names=["logits"], dynamo=False,
                      dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})  # fmt: skip
    test = np.load(f"{data}/cifar10_test.npz")
    with torch.inference_mode():
        found = torch.cat([net(torch.from_numpy(SCALING(test["x"][at : at + 500]))) for at in range(0, 10_000, 500)])
    print(f"test accuracy {float((found.argmax(1) == torch.from_numpy(test['y'])).float().mean()):.2%}")


if __name__ == "__main__":
    main()

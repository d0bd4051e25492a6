"""The teachers of the relations: small networks of three tasks, trained here in seconds, and imported from ONNX.

| task | network | images |
| --- | --- | --- |
| `mnist` | dense 784-200-200-200-10 | MNIST |
| `fashion` | conv 8 s2, 16 s2, 16, dense 64, 10 | Fashion-MNIST |
| `shallow`, `deep` | the same with no third convolution, and with six of them | Fashion-MNIST |
| `cifar` | LTL's VGG-11 at width 1/8, its first convolution with stride 2, dense layers of 64 | CIFAR-10 |

Convolutions are 3x3, layers with stride 2 stand in place of pools, a batch norm stands behind each, as in the papers.
The teachers see the training part alone, and are the same for all seeds: seeds vary the students.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snnc
from snnc import data as files
from snnc.data import Data, Scaling

BATCH = 64
RATE = 5e-3
CIFAR = Scaling(1 / 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
VGG11 = ((8, 2), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2), (64, 1), (64, 2))
"""Width and stride of the convolutions of VGG-11 at width 1/8."""

STEM = ((8, 2), (16, 2))


@dataclass(frozen=True)
class Task:
    """A network and its images.

    Attributes:
        file, test: of the images, in the folder SNNC_DATA; `test` "": the same file.
        shape: of an image.
        convolutions: width and stride of each.
        dense: widths of the hidden dense layers.
        epochs: of the teacher's training.
        moves: whether its training images are shifted and mirrored.
    """

    file: str
    test: str
    scaling: Scaling
    shape: tuple[int, int, int]
    convolutions: Sequence[tuple[int, int]]
    dense: Sequence[int]
    epochs: int
    moves: bool = False


TASKS = {
    "mnist": Task("mnist.npz", "", Scaling(1 / 255), (1, 28, 28), (), (200, 200, 200), 10),
    "fashion": Task("fashion_mnist.npz", "", Scaling(1 / 255), (1, 28, 28), (*STEM, (16, 1)), (64,), 10),
    "shallow": Task("fashion_mnist.npz", "", Scaling(1 / 255), (1, 28, 28), STEM, (64,), 10),
    "deep": Task("fashion_mnist.npz", "", Scaling(1 / 255), (1, 28, 28), (*STEM, *[(16, 1)] * 6), (64,), 10),
    "cifar": Task("cifar10_train_1.npz", "cifar10_test.npz", CIFAR, (3, 32, 32), VGG11, (64, 64), 20, True),
}


def samples(task: Task, folder: Path, train: int, test: int) -> Data:
    """The first images of a task, a tenth of the training images being the validation part."""
    return files.load(
        folder / task.file,
        test=folder / task.test if task.test else None,
        scaling=task.scaling,
        train_samples=train,
        test_samples=test,
    )


def network(task: Task) -> nn.Sequential:
    """[N, C, H, W] -> scores [N, 10]."""
    channels, high, wide = task.shape
    layers: list[nn.Module] = []
    for width, stride in task.convolutions:
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels, high, wide = width, -(-high // stride), -(-wide // stride)
    layers.append(nn.Flatten())
    inputs = channels * high * wide
    for width in task.dense:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def teacher(task: Task, data: Data) -> snnc.Graph:
    """Train the task's network on the training part, export it to ONNX, and import it."""
    torch.manual_seed(0)
    rng, net = np.random.default_rng(0), network(task)
    x, y = torch.from_numpy(data.train.x()), torch.from_numpy(data.train.labels)
    updates = len(x) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, task.epochs * updates)
    for _ in range(task.epochs):
        for index in torch.from_numpy(rng.permutation(len(x)))[: updates * BATCH].reshape(-1, BATCH):
            images = _moved(x[index], rng) if task.moves else x[index]
            loss = F.cross_entropy(net(images), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return imported(net.eval(), x[:2])


def _moved(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Images [N, C, H, W], each shifted by up to three pixels and mirrored by chance."""
    padded = F.pad(x, (3, 3, 3, 3))
    moves, mirrored = rng.integers(0, 7, (len(x), 2)), rng.random(len(x)) < 0.5
    made = [
        image[:, a : a + x.shape[2], b : b + x.shape[3]].flip(-1 if flip else ())
        for image, (a, b), flip in zip(padded, moves, mirrored, strict=True)
    ]
    return torch.stack(made)


def imported(net: nn.Module, example: Tensor) -> snnc.Graph:
    """A network exported to ONNX, and imported."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "teacher.onnx"
        torch.onnx.export(net, (example,), path, input_names=["image"], output_names=["scores"], dynamo=False,
                          dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}})  # fmt: skip
        return snnc.load(path)

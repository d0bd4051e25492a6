"""Conversion without training: accuracy of networks that others made, at few time steps.

    python benchmarks/conversion.py [--steps 8 32] [--images 10000] [--models NAME ...] [--resnet20 FILE]

Needs SNNC_MODELS and SNNC_DATA. Every model is converted twice: with thresholds from the 99.9 percentile of every layer
alone, and with those of every channel and refine-thresholds (better in the mean on training images held back). Both are
calibrated on the first 1,000 training images; max pools are exact on spikes. Accuracy on the first `--images` test
images, which calibration never sees; the ANN's on the same. Nothing here is random. `--resnet20` adds the 20-layer
network that benchmarks/train_resnet20.py trains.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

import snnc
from snnc.data import Data, Scaling, Split
from snnc.pipeline import single
from snnc.sim import torch as executor
from snnc.sim.judge import accuracy

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BYTES = Scaling(1 / 255)
NORMED = Scaling(1 / 255, (0.1307,), (0.3081,))
MODELS: dict[str, tuple[str, Scaling]] = {
    "mnist_cnn_bn_torch20_op16": ("mnist", NORMED),
    "mnist_cnn_bn_whitematter": ("mnist", NORMED),
    "mnist_cnn_small_keras2onnx17": ("mnist", BYTES),
    "mnist_cnn_torch111": ("mnist", BYTES),
    "mnist_cnn_torch27_op13": ("mnist", NORMED),
    "mnist_cnn_torch29_dynamo": ("mnist", Scaling(1 / 255, (0.5,), (0.5,))),
    "mnist_cntk_op12": ("mnist", BYTES),
    "mnist_convnet_maxpool_vnncomp": ("mnist", BYTES),
    "mnist_lenet_bn1d_torch13": ("mnist", BYTES),
    "mnist_lenet_residual_torch13": ("mnist", BYTES),
    "mnist_mlp_256x2_vnncomp": ("mnist", BYTES),
    "mnist_mlp_2x10_torch111": ("mnist", BYTES),
    "mnist_mlp_keras2onnx18": ("mnist", BYTES),
    "mnist_mlp_tf2onnx117": ("mnist", BYTES),
    "fashion_cnn_torch13": ("fashion_mnist", BYTES),
    "fashion_mlp_tf2onnx117": ("fashion_mnist", BYTES),
    "fashion_mlp_torch212_dynamo_op20": ("fashion_mnist", Scaling(1 / 255, (0.5,), (1.0,))),
    "cifar10_resnet8_mlperf_keras": ("cifar10", Scaling()),
    "cifar10_vgg11_half": ("cifar10", Scaling(1 / 255, *CIFAR)),
}
RESNET20 = "cifar10_resnet20"
OUTPUTS = {"fashion_cnn_torch13": ("output",)}
PLAIN = "fold-batchnorm,rectify,relu-before-max-pool,separate-layers,threshold-layernorm{{steps={steps}}},bias-per-step"
REFINED = PLAIN.replace("{{steps={steps}}}", "{{steps={steps} per=channel}}") + ",refine-thresholds"
CALIBRATION = 1000


def arrays(folder: Path, name: str, shape: tuple[int, ...], images: int) -> tuple[np.ndarray, ...]:
    """Training and test images in the layout of the model, and labels."""
    if name == "cifar10":
        train, test = (np.load(folder / f"cifar10_{part}.npz") for part in ("train_1", "test"))
        found = train["x"][:CALIBRATION], train["y"][:CALIBRATION], test["x"][:images], test["y"][:images]
    else:
        both = np.load(folder / f"{name}.npz")
        found = (
            *(both[k][:CALIBRATION] for k in ("x_train", "y_train")),
            *(both[k][:images] for k in ("x_test", "y_test")),
        )
    return tuple(a if a.ndim == 1 else fitted(a, shape) for a in found)


def fitted(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Channel-first images in another layout of the same numbers."""
    if len(shape) == 3 and shape[-1] in (1, 3):
        return x.transpose(0, 2, 3, 1)
    if shape[-2:] == (32, 32) and x.shape[-1] == 28:
        x = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return x.reshape(len(x), *shape)


def main() -> None:
    """One line a model and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    parser.add_argument("--resnet20", metavar="FILE")
    given = parser.parse_args()
    files = {name: f"{os.environ.get('SNNC_MODELS')}/{name}.onnx" for name in given.models}
    if given.resnet20:
        files[RESNET20] = given.resnet20
    folders = [os.environ.get(name) for name in ("SNNC_MODELS", "SNNC_DATA")]
    if None in folders:
        sys.exit("set SNNC_MODELS and SNNC_DATA to the folders of the models and the data")
    print(f"{'model':34} {'ANN':>7}  T  percentile      refined   drop")
    for name, file in files.items():
        graph = snnc.load(file, outputs=OUTPUTS.get(name, ()))
        [(source, kind)], (where, scaling) = graph.inputs.items(), MODELS.get(name, MODELS["cifar10_vgg11_half"])
        x, y, x_test, y_test = arrays(Path(str(folders[1])), where, kind.shape, given.images)
        train, test = Split(x, y, scaling), Split(x_test, y_test, scaling)
        samples = Data(train, train.take(1), test)

        def share(g: snnc.Graph, test: Split = test, source: str = source) -> float:
            chunk = 250
            made = [
                single(executor.run(g, {source: test.x(slice(at, at + chunk))})) for at in range(0, len(test), chunk)
            ]
            return 100 * accuracy(np.concatenate(made), test.labels)

        ann = share(graph)
        for steps in given.steps:
            plain, refined = (
                share(snnc.Pipeline.parse(recipe.format(steps=steps))(graph, data=samples)[0])
                for recipe in (PLAIN, REFINED)
            )
            print(f"{name:34} {ann:7.2f} {steps:2} {plain:10.2f} {refined:12.2f} {ann - refined:6.2f}", flush=True)


if __name__ == "__main__":
    main()

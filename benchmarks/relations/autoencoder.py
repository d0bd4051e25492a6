"""P4: an autoencoder of the paper's own size, 784-128-64-32-64-128-784 with a sigmoid at the end, on MNIST.

It is trained here on the mean squared error, and becomes spiking layer by layer (PTL section 6.2). The last layer and
the sigmoid stay on the host, as in the paper's code.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import snnc
from snnc.data import Data, Split
from snnc.pipeline import Pipeline, single
from snnc.score import MSE
from snnc.sim import torch as executor

from .networks import BATCH, imported
from .relation import Bound, Numbers, Relation
from .study import Study, tell

TASK = "autoencoder"
SIZES = (784, 128, 64, 32, 64, 128, 784)
EPOCHS, RATE = 60, 2e-3
"""Of the analog network."""
WINDOWS = (1, 2, 4, 8, 16, 32)
STAGE = "epochs=4 patience=2 batch=32"
CLOSE = 25
"""Percent that the error of the longest window may be above the analog network's."""


def error(study: Study, seed: int) -> Numbers:
    """The mean squared error on the test part, by window, relative to the analog network's."""
    graph, data = _adopted(study)
    ann = _error(graph, data)
    made = {}
    for steps in WINDOWS:
        start = time.perf_counter()
        snn, _ = Pipeline.parse(f"ptl{{steps={steps} {STAGE}}}")(graph, data=data, seed=seed)
        made[steps] = _error(snn, data)
        tell(f"{TASK}, seed {seed}, T = {steps}: {made[steps]:.5f}", start)
    falls = {f"N_s {a} - {b}, %": 100 * (made[a] - made[b]) / ann for a, b in itertools.pairwise(WINDOWS)}
    return {
        **falls,
        "N_s 32 above ANN, %": 100 * (made[WINDOWS[-1]] / ann - 1),
        "ANN": ann,
        **{f"N_s {steps}": value for steps, value in made.items()},
    }


def _adopted(study: Study) -> tuple[snnc.Graph, Data]:
    """The trained autoencoder and images that are their own targets."""
    if not study.knows(TASK):
        images = study.data("mnist")
        data = Data(_own(images.train), _own(images.validation), _own(images.test))
        study.adopt(TASK, data, _trained(data))
    return study.teacher(TASK), study.data(TASK)


def _own(split: Split) -> Split:
    """Pixels [N, 784], scaled, and the same as targets."""
    pixels = split.x().reshape(len(split), -1)
    return Split(pixels, pixels, score=MSE)


def _trained(data: Data) -> snnc.Graph:
    torch.manual_seed(0)
    rng, layers = np.random.default_rng(0), list[nn.Module]()
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    net = nn.Sequential(*layers[:-1], nn.Sigmoid())
    x = torch.from_numpy(data.train.x())
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for at in range(0, len(x), BATCH):
            images = x[order[at : at + BATCH]]
            loss = F.mse_loss(net(images), images)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return imported(net.eval(), x[:2])


def _error(graph: snnc.Graph, data: Data) -> float:
    """On the test part."""
    outputs = single(executor.run(graph, {next(iter(graph.inputs)): data.test}))
    return MSE.measure(outputs, data.test.labels)


RELATIONS = (
    Relation("P4", "an autoencoder's error falls with N_s, and gets near the analog network's: MNIST",
             "0.0403 (N_s 1) to 0.0066 (32); ANN 0.0067",
             (*(Bound(f"N_s {a} - {b}, %", 0) for a, b in itertools.pairwise(WINDOWS)),
              Bound("N_s 32 above ANN, %", most=CLOSE)), error, "falls in percent of the ANN's error"),
)  # fmt: skip

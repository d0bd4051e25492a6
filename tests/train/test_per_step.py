"""The loss of every single step: what is judged, and that the mean over the steps is what the network decodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph, Node
from snnc.pipeline import Pipeline
from snnc.sim.steps import Stepwise
from snnc.sim.torch import forward, tensors
from snnc.train import OTTT, SLTT, TET
from snnc.train.losses import Criterion
from snnc.train.per_step import counted, host, predictions
from snnc.train.readout import readout

Lower = Callable[..., Graph]


def delayed(graph: Graph, skip: int) -> Graph:
    """The read-out skips the first steps."""
    return graph.edit([replace(n, attrs={**n.attrs, "skip": skip}) if n.op == "decode" else n for n in graph.nodes])


def with_a_head(graph: Graph) -> Graph:
    """The host goes on behind the read-out: relu, dense and a sum with the input's own part."""
    rng = np.random.default_rng(1)
    extra = {"head.w": rng.normal(size=(3, 3)).astype(np.float32), "side.w": rng.normal(size=(3, 8)).astype(np.float32)}
    nodes = [
        *(n for n in graph.nodes if n.name != "probabilities"),
        Node("head", "relu", ("fc3.decoded",), {}),
        Node("mixed", "dense", ("head", "head.w"), {}),
        Node("side", "dense", ("x", "side.w"), {}),
        Node("total", "add", ("mixed", "side"), {}),
    ]
    return graph.edit(nodes, params=extra, outputs={"y": "total"})


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("text", ["threshold-layernorm{steps=8}", "threshold-layernorm{steps=8},bias-per-step"])
def test_the_mean_of_the_predictions_is_what_is_decoded(lowered: Lower, data: Data, text: str, skip: int) -> None:
    graph = delayed(lowered(text), skip)
    params, x = tensors(graph), torch.tensor(data.train.raw[:16])
    values = forward(graph, params, {"x": x})
    made = predictions(graph, params, values, "fc3.decoded")
    assert made.shape == (8 - skip, 16, 3)
    assert counted(graph) == range(skip + 1, 9)
    torch.testing.assert_close(made.mean(0), values["fc3.decoded"], rtol=1e-4, atol=1e-4)
    assert float((made - made.mean(0)).abs().max()) > 0.1


@pytest.mark.parametrize("change", [lambda graph: graph, with_a_head], ids=["plain", "head"])
def test_the_whole_window_and_step_by_step_predict_alike(
    lowered: Lower, data: Data, change: Callable[[Graph], Graph]
) -> None:
    graph = delayed(change(lowered()), 2)
    params, x = tensors(graph), torch.tensor(data.train.raw[:16])
    scores = readout(graph)
    made = predictions(graph, params, forward(graph, params, {"x": x}), scores)
    run = Stepwise(graph, params, {"x": x})
    for t in range(1, 9):
        run.step()
        if t > 2:
            torch.testing.assert_close(made[t - 3], run.head(run.present())[scores], rtol=1e-4, atol=1e-4)


def test_what_the_host_computes_is_a_graph_of_its_own(lowered: Lower) -> None:
    part = host(with_a_head(lowered()), "total")
    assert {node.name for node in part.nodes} == {"head", "mixed", "total"}
    assert set(part.inputs) == {"fc3.decoded", "side"}
    plain = host(lowered(), "fc3.decoded")
    assert (set(plain.inputs), plain.nodes) == ({"fc3.decoded"}, ())


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_the_loss_of_a_step(share: float) -> None:
    scores, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    wanted = (1 - share) * F.cross_entropy(scores, labels) + share * F.mse_loss(scores, torch.ones(6, 4))
    assert float(TET(mse=share).at_a_step(Criterion(), scores, labels)) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("rule", [TET, SLTT, OTTT])
@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"mse": 1.5}, {"epochs": 0}])
def test_impossible_options(rule: type[TET], wrong: dict[str, float]) -> None:
    [(key, value)] = wrong.items()
    with pytest.raises(PipelineError, match=rf"'{rule.name}' cannot work with {key}={value}"):
        rule(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["sltt{surrogate=sigmoid k=2}", "tet{mse=0.05}", "ottt{width=2.0}", "bptt{surrogate=boxcar}"]
)
def test_rules_are_written_as_text(text: str) -> None:
    assert str(Pipeline.parse(text)) == text

"""A network on several devices is the network on one, to the bit; what lies where; and devices that are not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph, Node, roles
from snnc.pipeline import Context, Pipeline
from snnc.sim import placement
from snnc.sim.torch import forward, run, tensors, to_tensor
from snnc.train import Batch, Checkpoints, parallel
from tests.graphs import Builder, residual, samples
from tests.sim.machine import DEVICES, Machine
from tests.train.conftest import labelled, teacher

CONVERSION = "threshold-layernorm{steps=4 percentile=90},bias-per-step"
RULES = (
    "ltl", "ltl{order=sequential}", "ltl{output=teacher}", "ltl-online", "bptt", "bptt{clip=0.1 loss=mse balance=true}",
    "tet", "sltt", "sltt{k=2}", "ottt", "tandem", "constrain-then-train", "ptl{steps=4}",
)  # fmt: skip


@pytest.fixture(scope="module")
def few() -> Data:
    """48 training samples."""
    data = labelled()
    return replace(data, train=data.train.take(48), validation=data.validation.take(20))


@pytest.fixture(scope="module")
def start(few: Data) -> Graph:
    """The analog network's spiking twin, spoilt, so that an epoch brings something in every layer."""
    graph = spoilt(Pipeline.parse(CONVERSION)(teacher(), data=few)[0])
    return Pipeline.parse("quantize-weights{bits=6}")(graph)[0]


def spoilt(graph: Graph) -> Graph:
    """Half the weights in the layers of neurons, scores turned over."""
    share = {"fc1": np.float32(0.5), "fc2": np.float32(0.5), "fc3": np.float32(-1)}
    params = {roles(graph[name], graph.params)["weight"]: factor for name, factor in share.items()}
    return graph.edit(params={name: graph.params[name] * factor for name, factor in params.items()})


def trained(rule: str, start: Graph, data: Data, device: str, **how: Any) -> tuple[Graph, list[str]]:
    """What one epoch makes of the start (PTL: of the teacher), and what was noted."""
    options = "epochs=1 batch=16 rate=0.02"
    text = f"{rule[:-1]} {options}}}" if rule.endswith("}") else f"{rule}{{{options}}}"
    (step,) = Pipeline.parse(text).passes
    ctx = Context(data, start.teacher, 3, device, **how)
    assert start.teacher is not None
    return step.run(spoilt(start.teacher) if rule.startswith("ptl") else start, ctx), ctx.notes


def between(machine: Machine) -> list[tuple[str, str, int]]:
    """What went from one of the two devices to the other."""
    return [move for move in machine.moves if "cpu" not in move[:2] and move[0] != move[1]]


def cut_elsewhere(graph: Graph, count: int) -> list[list[Node]]:
    """As `placement.parts`, with analog networks on the second device alone: teachers lie elsewhere than students."""
    return PARTS(graph, count) if graph.steps else [[], list(graph.nodes)]


PARTS = placement.parts


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_to_the_same_bits(
    rule: str, start: Graph, few: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = trained(rule, start, few, "cpu")
    monkeypatch.setattr(placement, "parts", cut_elsewhere)
    with Machine() as machine:
        two, notes = trained(rule, start, few, DEVICES)
    assert {name: array.tobytes() for name, array in one.params.items()} == {
        name: array.tobytes() for name, array in two.params.items()
    }
    layers = [name for node in one.nodes if node.op == "dense" for name in roles(node, one.params).values()]
    assert start.teacher is not None
    before = (spoilt(start.teacher) if rule.startswith("ptl") else start).params
    assert len(layers) == 6
    layers = [name for name in layers if name in before]  # PTL has scaled weights at the end, under other names
    assert len(layers) >= 4
    assert all((one.params[name] != before[name]).any() for name in layers), "equal bits of params that nothing moved"
    assert {move[:2] for move in between(machine)} == {("meta:0", "meta:1"), ("meta:1", "meta:0")}
    assert any("split over meta:0: x.current to relu1" in note and "meta:1: fc2 to" in note for note in notes)


def test_operands_on_two_devices_are_refused_by_the_machine() -> None:
    """The oracle of this file can fail."""
    with Machine():
        here, there = (torch.ones(2).to(device) for device in DEVICES.split(","))
        with pytest.raises(RuntimeError, match="operands on meta:0, meta:1"):
            here + there
        assert float((here.to(there.device) + there).sum()) == 4


@pytest.mark.parametrize("made", [residual, teacher], ids=["residual", "chain"])
def test_an_analog_network_runs_over_the_border(made: Callable[[], Graph]) -> None:
    graph = made()
    x = samples(graph, 5)
    with Machine() as machine:
        split = run(graph, x, DEVICES)
    for name, value in run(graph, x).items():
        np.testing.assert_array_equal(split[name], value)
    assert between(machine)


def test_a_value_moves_once() -> None:
    """Two readers on the other device: one transfer of its 5 * 3 * 4 * 4 elements."""
    b = Builder({"image": (3, 4, 4)})
    rng = np.random.default_rng(0)
    kernel = {"weight": rng.normal(size=(3, 3, 1, 1)).astype(np.float32)}
    b("conv1", "conv", "image", **kernel)
    b("relu1", "relu", "conv1")
    b("conv2", "conv", "relu1", **kernel)
    b("sum", "add", "conv2", "relu1")
    graph = b.graph("sum")
    x = samples(graph, 5)
    with Machine() as machine:
        split = run(graph, x, DEVICES)
    np.testing.assert_array_equal(split["out_sum"], run(graph, x)["out_sum"])
    assert between(machine) == [("meta:0", "meta:1", 5 * 3 * 4 * 4)]


def shared() -> Graph:
    """Two layers with one weight, and one behind."""
    b = Builder({"x": (6,)})
    rng = np.random.default_rng(1)
    b("d1", "dense", "x", weight=rng.normal(size=(6, 6)))
    b("r1", "relu", "d1")
    b("d2", "dense", "r1", weight=rng.normal(size=(6, 6)), bias=rng.normal(size=6))
    b("r2", "relu", "d2")
    b("d3", "dense", "r2", weight=rng.normal(size=(6, 6)))
    graph = b.graph("d3")
    nodes = [replace(n, inputs=("r2", "d1.weight")) if n.name == "d3" else n for n in graph.nodes]
    return graph.edit(nodes)


def test_a_shared_param_lies_with_its_first_user() -> None:
    graph = shared()
    assert placement.homes(graph, DEVICES) == {"d1.weight": "meta:0", "d2.weight": "meta:1", "d2.bias": "meta:1"}
    x = samples(graph, 4)
    with Machine() as machine:
        params = {name: value.requires_grad_() for name, value in tensors(graph, DEVICES).items()}
        values = forward(graph, params, {"x": to_tensor(x["x"], DEVICES)})
        assert str(values["d3"].device) == "meta:0", "it computes where its weight lies"
        values["d3"].square().sum().backward()
        split = {name: value.grad.cpu() for name, value in params.items() if value.grad is not None}
    whole = {name: value.requires_grad_() for name, value in tensors(graph).items()}
    forward(graph, whole, {"x": to_tensor(x["x"])})["d3"].square().sum().backward()
    assert all(torch.equal(split[name], value.grad) for name, value in whole.items() if value.grad is not None)
    assert len(split) == 3
    assert len(between(machine)) == 4


@pytest.mark.parametrize("rule", ["bptt", "sltt", "ottt"])
def test_layers_that_share_a_weight_learn_the_same(rule: str, few: Data) -> None:
    """The last layer of neurons lies on the second device, the weight that drives it on the first."""
    rng = np.random.default_rng(1)
    b = Builder({"x": (8,)}, 4)
    b("current", "encode", "x")
    for number, before in enumerate(("current", "n0", "n1")):
        b(f"d{number}", "dense", before, weight=rng.normal(size=(8, 8)) / 2)
        b(f"n{number}", "lif", f"d{number}", theta=0.5, u0=0.25)
    b("last", "dense", "n2", weight=rng.normal(size=(3, 8)))
    graph = b.graph(b("read", "decode", "last"))
    nodes = [replace(n, inputs=("n1", "d0.weight")) if n.name == "d2" else n for n in graph.nodes]
    graph = graph.edit(nodes)
    (step,) = Pipeline.parse(rule).passes

    def gradients(device: str) -> dict[str, bytes]:
        params = {name: value.requires_grad_(name.endswith("weight")) for name, value in tensors(graph, device).items()}
        x = to_tensor(few.train.x()[:8], device)
        learner = step.learner(graph, Context(few, None, 0, device))  # type: ignore[attr-defined]
        learner(Batch(params, x, torch.tensor(few.train.labels[:8]).to(x.device), rng))
        return {name: value.grad.cpu().numpy().tobytes() for name, value in params.items() if value.grad is not None}

    with Machine():
        assert placement.homes(graph, DEVICES)["n2.theta"] == "meta:1"
        split = gradients(DEVICES)
    assert split == gradients("cpu")
    assert len(split) == 3


@settings(max_examples=30, deadline=None)
@given(sizes=...)
def test_parts_are_contiguous_and_none_is_far_too_large(sizes: list[int]) -> None:
    """The largest part holds at most an equal share and one layer."""
    sizes = [1 + abs(size) % 50 for size in sizes[:12]] or [3]
    b, value = Builder({"x": (4,)}), "x"
    for number, size in enumerate(sizes):
        before = 4 if number == 0 else sizes[number - 1]
        value = b(f"d{number}", "dense", value, weight=np.ones((size, before)))
    graph = b.graph(value)
    for count in (2, 3):
        found = placement.parts(graph, count)
        assert [node.name for part in found for node in part] == [node.name for node in graph.nodes]
        bytes_of = [sum(placement.size(graph, node) for node in part) for part in found]
        largest = max(placement.size(graph, node) for node in graph.nodes)
        assert max(bytes_of) <= sum(bytes_of) / count + largest


def test_the_estimate_is_what_the_module_says(start: Graph) -> None:
    assert placement.size(start, start["fc1"]) == 4 * (4 * (16 * 8 + 16) + 64 * 4 * 16)
    assert placement.size(start, start["probabilities"]) == 4 * 64 * 3


def test_params_lie_where_their_layers_do(start: Graph) -> None:
    homes = placement.homes(start, DEVICES)
    assert {homes[name] for name in roles(start["relu1"], start.params).values()} == {"meta:0"}
    assert {homes[name] for name in roles(start["fc1"], start.params).values()} == {"meta:0"}
    for layer in ("fc2", "relu2", "fc3"):
        assert {homes[name] for name in roles(start[layer], start.params).values()} == {"meta:1"}
    assert homes.keys() == start.params.keys()


def test_a_checkpoint_does_not_depend_on_the_placement(start: Graph, few: Data, tmp_path: Path) -> None:
    """Begun on one device, ended on two."""
    whole, _ = trained("sltt", start, few, "cpu")

    class StopError(Exception):
        pass

    def interrupt(text: str, done: int, of: int) -> None:
        if done == 2:
            raise StopError

    with Machine(), pytest.raises(StopError):
        trained("sltt", start, few, "meta:0", checkpoints=Checkpoints(tmp_path, every=0), progress=interrupt)
    assert list(tmp_path.iterdir())
    with Machine():
        rest, _ = trained("sltt", start, few, DEVICES, checkpoints=Checkpoints(tmp_path, every=0))
    assert all((rest.params[name] == array).all() for name, array in whole.params.items())


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("tpu", "torch cannot compute on 'tpu'"),
        ("cuda", "torch cannot compute on 'cuda'"),
        ("", "torch cannot compute on ''"),
        ("meta", "torch cannot compute on 'meta'"),
        ("cuda:0,cuda:1", "torch cannot compute on 'cuda:0'; torch cannot compute on 'cuda:1'"),
        ("cpu,cpu", "'cpu' is named 2 times"),
    ],
)
def test_a_device_that_is_not_there(device: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "existing", lambda: ("cpu",))
    with pytest.raises(PipelineError) as caught:
        placement.check(device)
    assert str(caught.value) == f"{told}\n  try: cpu, the only one here"


def test_those_that_are_there_are_listed() -> None:
    with Machine():
        placement.check("meta")
        placement.check("cpu,meta:1")
        with pytest.raises(PipelineError, match="on 'meta:2'\n  try: there are cpu, meta:0, meta:1"):
            placement.check("meta,meta:2")
        with pytest.raises(PipelineError, match="'meta:0' is named 2 times"):
            placement.check("meta,meta:0")


def test_the_processor_is_always_there() -> None:
    assert placement.existing()[0] == "cpu"
    placement.check("cpu")


def test_several_processes_with_several_devices_each_are_refused(
    monkeypatch: pytest.MonkeyPatch, start: Graph, few: Data
) -> None:
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    with pytest.raises(PipelineError, match=r"2 processes share one training; each has one device.*\n  try: --device"):
        parallel.own_device(DEVICES)
    with Machine(), pytest.raises(PipelineError, match="each has one device"):
        trained("bptt", start, few, DEVICES)


@pytest.mark.parametrize("rule", ["bptt{batchnorm=true}", "ltl{norm=running}"])
def test_what_stands_beside_the_params_is_not_split(rule: str, few: Data) -> None:
    start = Pipeline.parse(CONVERSION)(teacher(), data=few)[0]
    with Machine(), pytest.raises(PipelineError, match="learns more than the network's params"):
        trained(rule, start, few, DEVICES)

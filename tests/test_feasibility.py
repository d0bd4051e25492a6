"""What check says of every node of the user's model, and that it says what the passes then do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from snnc.errors import ModelError
from snnc.feasibility import HELP, CheckFinding, judge, outline, rewrites
from snnc.importer import Finding
from snnc.ir import LINEAR, OPS, Graph
from snnc.passes import PASSES
from snnc.targets import DynapSim
from tests.graphs import Builder, lenet, residual, statistics
from tests.targets.wired import WIRED


def user(graph: Graph) -> tuple[Graph, list[Finding]]:
    """The graph as if every node came from a node of the user's model, /NAME of op OP."""
    nodes = tuple(n if n.origin else replace(n, origin=(f"/{n.name}",)) for n in graph.nodes)
    names = dict.fromkeys((name, n.op) for n in nodes for name in n.origin)
    return replace(graph, nodes=nodes), [Finding(name, op) for name, op in names]


def found(graph: Graph, nodes: Sequence[Finding] | None = None, **options: Any) -> dict[str, CheckFinding]:
    """By node, without the slash."""
    made, own = user(graph)
    return {f.node.lstrip("/"): f for f in judge(made, nodes or own, **options).findings}


def statuses(graph: Graph) -> dict[str, str]:
    return {name: f.status for name, f in found(graph).items()}


def test_a_network_of_layers_and_relus() -> None:
    made = found(lenet())
    assert {name: f.status for name, f in made.items()} == {
        "conv1": "spiking", "bn1": "rewrite", "relu1": "spiking", "pool1": "spiking", "flat": "spiking",
        "dense1": "spiking", "relu2": "spiking", "dense2": "host",
    }  # fmt: skip
    assert made["bn1"].why == "fold-batchnorm: goes into its neighbour, or becomes a scale (exact)"
    assert made["conv1"].why == "synapses"
    assert made["relu1"].why == "integrate-and-fire neurons"
    assert made["dense2"].why == "behind the last neurons: the host reads them out"
    assert set(statuses(residual()).values()) == {"spiking", "host"}


def one(op: str, values: int = 1, **parts: Any) -> Graph:
    """`op` between two layers with neurons."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(2, 2, 1, 1))))
    read = [b(f"conv{i}", "conv", "relu1", weight=rng.normal(size=(2, 2, 1, 1))) for i in range(2, 2 + values)]
    size = int(np.prod(b.graph(b("f", op, *read, **parts))["f"].type.shape))
    b("flat", "reshape", "f", shape=(size,))
    b("relu9", "relu", b("dense1", "dense", "flat", weight=rng.normal(size=(4, size))))
    return b.graph(b("out", "dense", "relu9", weight=rng.normal(size=(3, 4))))


@pytest.mark.parametrize(
    ("op", "parts", "text"),
    [
        ("leakyrelu", {"slope": 0.1}, "rectify: becomes two layers of neurons, one for each sign (exact)"),
        ("hardsigmoid", {"alpha": 0.2, "beta": 0.5}, "rectify: becomes one layer of neurons (exact)"),
        ("sigmoid", {}, "replace-activation: becomes a layer of neurons fitted to the data; a trainer must mend it"),
        ("tanh", {}, "replace-activation: becomes layers of neurons fitted to the data, one for each sign it takes"),
        ("maxpool", {}, "replace-max-pool: becomes an average pool with neurons of its own; a trainer must mend it"),
    ],
)
def test_rewrites_name_the_pass_and_say_whether_it_is_exact(op: str, parts: dict[str, Any], text: str) -> None:
    finding = found(one(op, **parts))["f"]
    assert finding.status == "rewrite"
    assert finding.why.startswith(text)


@pytest.mark.parametrize(
    ("op", "values", "parts", "help_"),
    [
        ("mul", 2, {}, "squeeze-excite"),
        ("matmul", 2, {}, "attention"),
        ("standardize", 1, {"axes": (0, 1, 2), "epsilon": 1e-5}, "BatchNormalization"),
        ("softmax", 1, {"axis": 0}, "only the end of a network"),
        ("sin", 1, {}, "train with relu instead"),
    ],
)
def test_what_has_no_spiking_form_says_why_and_what_would_help(
    op: str, values: int, parts: dict[str, Any], help_: str
) -> None:
    made = found(one(op, values, **parts))
    assert {name for name, f in made.items() if f.status == "unsupported"} == {"f"}
    assert made["f"].code == "no-spiking-form"
    assert made["f"].why == f"'{op}' between layers has no spiking form"
    assert help_ in made["f"].hint
    assert not judge(*user(one(op, values, **parts)), DynapSim()).ok


def test_everything_is_found_at_once() -> None:
    b = Builder({"x": (4,)})
    b("dense1", "dense", "x", weight=np.eye(4))
    b("wave", "sin", "dense1")
    b("dense2", "dense", "wave", weight=np.eye(4))
    b("gate", "mul", "dense2", "wave")
    b("relu1", "relu", b("dense3", "dense", "gate", weight=np.eye(4)))
    graph = b.graph(b("dense4", "dense", "relu1", weight=np.eye(4)))
    assert [name for name, status in statuses(graph).items() if status == "unsupported"] == ["wave", "gate"]


def test_both_ends_stay_on_the_host() -> None:
    b = Builder({"x": (4, 4, 2)})
    b("first", "transpose", "x", perm=(2, 0, 1))
    b("squashed", "tanh", "first")
    b("relu1", "relu", b("conv1", "conv", "squashed", weight=np.ones((2, 2, 1, 1))), max=6.0)
    b("flat", "reshape", "relu1", shape=(32,))
    b("share", "sigmoid", b("dense1", "dense", "flat", weight=np.ones((3, 32))))
    made = found(b.graph(b("best", "argmax", "share", axis=0, last=0)))
    assert {name: f.status for name, f in made.items()} == {
        "first": "host", "squashed": "host", "conv1": "spiking", "relu1": "spiking", "flat": "host",
        "dense1": "host", "share": "host", "best": "host",
    }  # fmt: skip
    assert made["first"].why == "before the first layer: the host computes it, then its value is encoded"
    assert made["relu1"].why == "integrate-and-fire neurons, thresholds set so that 6 is the highest rate"
    assert made["best"].why == "behind the last neurons: the host computes it"


def test_layers_without_an_activation_between_them() -> None:
    made = found(WIRED["split"]())
    assert not any("separate-layers" in f.why for f in made.values())
    b = Builder({"x": (4,)})
    b("relu1", "relu", b("dense1", "dense", "x", weight=np.eye(4)))
    b("dense2", "dense", "relu1", weight=np.eye(4))
    b("relu2", "relu", b("dense3", "dense", "dense2", weight=np.eye(4)))
    made = found(b.graph(b("dense4", "dense", "relu2", weight=np.eye(4))))
    assert made["dense2"].status == "rewrite"
    assert made["dense2"].why.startswith("synapses; separate-layers: ")
    assert made["dense3"].status == "spiking"


def test_a_network_without_neurons() -> None:
    b = Builder({"x": (3,)})
    check = judge(*user(b.graph(b("dense1", "dense", "x", weight=np.eye(3)))))
    (finding,) = [f for f in check.findings if f.status == "unsupported"]
    assert finding.code == "no-neurons"
    assert not check.ok


def test_nodes_that_were_merged_say_into_which() -> None:
    graph = residual()
    nodes = tuple(
        replace(n, origin=("/scale", "/conv", "/bias")) if n.name == "conv2" else replace(n, origin=(f"/{n.name}",))
        for n in graph.nodes
    )
    rows = [Finding("/scale", "Mul"), Finding("/conv", "Conv"), Finding("/bias", "Add"), Finding("/drop", "Dropout")]
    made = {f.node: f for f in judge(replace(graph, nodes=nodes), rows).findings}
    assert made["/conv"].why == "synapses"
    assert made["/bias"].why == made["/scale"].why == "merged into /conv: synapses"
    assert made["/conv"].becomes == ("conv2",)
    assert made["/drop"].why == "nothing is left of it: folded away on import"
    assert made["/drop"].status == "spiking"


def test_a_model_that_cannot_be_imported_still_gets_a_row_for_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from snnc import feasibility, importer

    class Made:
        graph = None
        notes = ()
        findings = (
            Finding("a", "Conv"),
            Finding("b", "Tanh"),
            Finding("c", "Loop", ModelError("loops", hint="unroll", code="loop")),
        )

    monkeypatch.setattr(importer, "examine", lambda path, *options: Made)
    check = feasibility.check("any.onnx", DynapSim())
    assert [(f.node, f.status, f.code) for f in check.findings] == [
        ("a", "spiking", ""),
        ("b", "rewrite", ""),
        ("c", "unsupported", "loop"),
    ]
    assert check.findings[2].to_json() == {
        "node": "c", "op": "Loop", "status": "unsupported", "why": "loops", "try": "unroll", "code": "loop",
        "becomes": [],
    }  # fmt: skip
    assert not check.ok
    assert check.limits == ()


def test_no_pass_is_named_that_does_not_exist() -> None:
    for op, (name, text) in rewrites().items():
        assert op in OPS
        assert name in PASSES
        assert "exact" in text or "a trainer must mend it" in text
    assert not set(HELP) & {*LINEAR, *rewrites()}


@pytest.mark.parametrize("net", WIRED)
def test_what_check_promises_the_recipe_keeps(net: str) -> None:
    """Every op that is to be rewritten is gone behind the analog passes, none that is to stay is refused."""
    graph = WIRED[net]()
    check = judge(*user(graph), DynapSim())
    assert check.ok
    assert check.limits
    promised = {f.op for f in check.findings if f.status == "rewrite" and f.op in rewrites()}
    later = outline(graph, DynapSim())
    assert not promised & {n.op for n in later.nodes}
    made = found(later)
    assert {f.status for f in made.values()} <= {"spiking", "host"}, made


def test_limits_are_those_of_the_network_that_the_passes_make() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (4,)})
    b("bn", "batchnorm", b("dense1", "dense", "x", weight=np.eye(4)), **statistics(rng, 4))
    b("leaky", "leakyrelu", "bn", slope=0.1)
    graph = b.graph(b("dense2", "dense", "leaky", weight=np.eye(4)))
    limits = judge(*user(graph), DynapSim()).limits
    assert {f.layer for f in limits if f.limit == "fan-in"} == {"leaky", "leaky.off"}
    assert [f.value for f in limits if f.limit == "neurons per chip"] == [8]

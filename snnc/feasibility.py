"""The dry answer to "can this be compiled": what becomes of every node, and how it stands to the chip's limits.

What a pass makes of an op, the pass says itself (`rewrites`); where a node may stay analog, `snnc.ir.parts` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from . import importer
from .errors import PipelineError, SnncError
from .importer.options import DEFAULT
from .ir import LAYERS, LINEAR, WEIGHTED, Graph, Node, Stage, between_layers, chained, front
from .passes import PASSES, SeparateLayers
from .pipeline import Context
from .target import Finding, Target

Status = Literal["spiking", "rewrite", "host", "unsupported"]
WORST: tuple[Status, ...] = ("unsupported", "rewrite", "spiking", "host")


@dataclass(frozen=True)
class CheckFinding:
    """What becomes of one node of the user's model.

    Attributes:
        node, op: as the model names them.
        why: what it becomes, or why it cannot.
        hint: what would help.
        code: a short stable word for a problem.
        becomes: the nodes of the imported graph that it is part of.
    """

    node: str
    op: str
    status: Status
    why: str = ""
    hint: str = ""
    code: str = ""
    becomes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain data, under the names of the command line's `--json`."""
        return {
            "node": self.node,
            "op": self.op,
            "status": self.status,
            "why": self.why,
            "try": self.hint,
            "code": self.code,
            "becomes": list(self.becomes),
        }


@dataclass(frozen=True)
class Check:
    """The dry answer: nothing was trained, no data was read.

    Attributes:
        notes: what was changed on the way in.
    """

    findings: tuple[CheckFinding, ...]
    limits: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model can be compiled."""
        return not any(f.status == "unsupported" for f in self.findings) and all(
            f.ok or not f.wall for f in self.limits
        )


HELP: Mapping[str, str] = {
    "argmax": "only the end of a network may pick the largest",
    "div": "a division by a value that depends on the input has no synapse: divide by a constant, or train without it",
    "matmul": "attention multiplies two values, which no synapse does: only layers with constant weights can spike",
    "mul": "a gate multiplies two values, which no synapse does: train without squeeze-excite, attention and gates",
    "reduce": "a sum or mean over positions as AveragePool or GlobalAveragePool, a maximum as MaxPool",
    "softmax": "only the end of a network may be normalized over its values",
    "logsoftmax": "only the end of a network may be normalized over its values",
    "standardize": "train with BatchNormalization, which folds away, instead of layer or instance normalization",
}
"""What would help where an op stands between layers and no pass takes it away."""


CHAINED = f"{SeparateLayers.name}: no activation behind it, so it gets neurons for each sign (exact)"


def check(path: str | Path, target: Target | None = None, reading: importer.Options = DEFAULT) -> Check:
    """Per node of the user's model: spiking, rewritten, on the host, or unsupported; and the target's limits.

    Raises:
        ModelError: the file is no model at all.
    """
    made = importer.examine(path, reading)
    if made.graph is None:
        return Check(tuple(map(_alone, made.findings)), notes=made.notes)
    return judge(made.graph, made.findings, target, made.notes)


def judge(
    graph: Graph, nodes: Sequence[importer.Finding], target: Target | None = None, notes: tuple[str, ...] = ()
) -> Check:
    """The same for an imported graph and the user's nodes that it came from."""
    verdicts = {node.name: verdict for node, verdict in _verdicts(graph)}
    ops = {finding.node: finding.op for finding in nodes}
    findings = [_of_user(finding, graph, ops, verdicts) for finding in nodes]
    if not any(_becomes_neurons(node, between_layers(graph), front(graph)) for node in graph.nodes):
        why = "the network has no relu, and nothing a pass makes one of, that could become neurons"
        findings.append(
            CheckFinding("", "", "unsupported", why, "train it with an activation between its layers", "no-neurons")
        )
    if target is None or any(f.status == "unsupported" for f in findings):
        return Check(tuple(findings), notes=notes)
    return Check(tuple(findings), tuple(target.findings(outline(graph, target))), target.limits.unchecked, notes)


def rewrites() -> dict[str, tuple[str, str]]:
    """Op -> the pass that takes it out of the way, and what that makes of it; as the passes declare themselves."""
    found = {"batchnorm": ("fold-batchnorm", "goes into its neighbour, or becomes a scale (exact)")}
    for name, cls in PASSES.items():
        for op, text in getattr(cls, "rewrites", {}).items():
            found.setdefault(op, (name, text))
    return found


def outline(graph: Graph, target: Target) -> Graph:
    """The analog graph after those passes of the target's recipe that keep it analog, run without data."""
    for step in target.pipeline().passes:
        if step.gives is not None or Stage.ANALOG not in step.takes:
            break
        try:
            graph = step.run(graph, Context())
        except PipelineError:  # it needs data
            continue
    return graph


@dataclass(frozen=True)
class _Verdict:
    status: Status
    why: str
    hint: str = ""
    code: str = ""


def _becomes_neurons(node: Node, inside: frozenset[str], before: frozenset[str]) -> bool:
    """Whether the node is neurons already, or a pass makes neurons of it."""
    if node.op == "relu":
        return True
    if node.op == "maxpool":
        return node.name not in before
    return node.op in rewrites() and node.op != "batchnorm" and node.name in inside


def _verdicts(graph: Graph) -> list[tuple[Node, _Verdict]]:
    """What becomes of every node of the graph."""
    before, inside = front(graph), between_layers(graph)
    known = rewrites()
    neurons = {node.name for node in graph.nodes if _becomes_neurons(node, inside, before)}
    missing = chained(graph, neurons)
    driving: set[str] = set()
    found = []
    for node in reversed(graph.nodes):
        if node.name in neurons or node.name in driving:
            driving.update(graph.values(node))
        if node.name in missing:
            found.append((node, _Verdict("rewrite", f"{_as_synapse(node)}; {CHAINED}")))
        else:
            found.append((node, _verdict(node, node.name in before, node.name in neurons, node.name in driving, known)))
    return found[::-1]


def _verdict(node: Node, before: bool, neurons: bool, driving: bool, known: dict[str, tuple[str, str]]) -> _Verdict:
    if before:
        return _Verdict("host", "before the first layer: the host computes it, then its value is encoded")
    if node.op == "relu":
        bound = f", thresholds set so that {node.attrs['max']:g} is the highest rate" if "max" in node.attrs else ""
        return _Verdict("spiking", f"integrate-and-fire neurons{bound}")
    if neurons or (node.op == "batchnorm" and node.op in known):
        name, text = known[node.op]
        return _Verdict("rewrite", f"{name}: {text}")
    if node.op in LINEAR:
        if not driving:
            return _Verdict("host", "behind the last neurons: the host reads them out")
        return _Verdict("spiking", _as_synapse(node))
    if not driving:
        return _Verdict("host", "behind the last neurons: the host computes it")
    help_ = HELP.get(node.op, "only the ends of a network may compute it: train with relu instead")
    return _Verdict("unsupported", f"'{node.op}' between layers has no spiking form", help_, "no-spiking-form")


def _as_synapse(node: Node) -> str:
    if node.op in LAYERS or node.op == "scale":
        return "synapses"
    if node.op in ("avgpool", "mix"):
        return "synapses with fixed weights"
    return "currents that meet" if node.op == "add" else "wiring"


def _of_user(
    finding: importer.Finding, graph: Graph, ops: Mapping[str, str], verdicts: Mapping[str, _Verdict]
) -> CheckFinding:
    """What becomes of a node of the user's model: of the graph's nodes that came from it, the gravest counts."""
    parts = [node for node in graph.nodes if finding.node in node.origin]
    if not parts:
        return CheckFinding(finding.node, finding.op, "spiking", "nothing is left of it: folded away on import")
    part = min(parts, key=lambda node: (WORST.index(verdicts[node.name].status), node.op not in WEIGHTED))
    verdict, owner = verdicts[part.name], _owner(part, ops)
    if owner != finding.node:
        verdict = replace(verdict, why=f"merged into {owner}: {verdict.why}")
    names = tuple(node.name for node in parts)
    return CheckFinding(finding.node, finding.op, verdict.status, verdict.why, verdict.hint, verdict.code, names)


def _owner(node: Node, ops: Mapping[str, str]) -> str:
    """The user's node that gave a graph node its op: the one with the weights, else the first."""
    if node.op in WEIGHTED:
        for name in node.origin:
            if ops.get(name, "") in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                return name
    return node.origin[0]


NAMES = {"BatchNormalization": "batchnorm", "PRelu": "leakyrelu", "Max": "maximum", "Min": "minimum"}
"""Where the user's op is called otherwise than ours, but for upper case."""


def _alone(finding: importer.Finding) -> CheckFinding:
    """What can be said of a node of a model that cannot be imported as a whole."""
    if finding.problem is not None:
        problem: SnncError = finding.problem
        return CheckFinding(finding.node, finding.op, "unsupported", problem.message, problem.hint, problem.code)
    known = rewrites().get(NAMES.get(finding.op, finding.op.lower()))
    if known is not None:
        return CheckFinding(finding.node, finding.op, "rewrite", f"{known[0]}: {known[1]}")
    return CheckFinding(finding.node, finding.op, "spiking", "can be imported; the rest was not looked at")

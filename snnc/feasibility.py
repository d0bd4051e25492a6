"""The dry answer to "can this be compiled": what becomes of every node, and how it stands to the chip's limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import importer
from .errors import SnncError
from .target import Finding, Target


@dataclass(frozen=True)
class CheckFinding:
    """What becomes of one node of the user's model."""

    node: str
    op: str
    status: Literal["spiking", "rewrite", "host", "unsupported"]
    why: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain data, under the names of the command line's `--json`."""
        return {"node": self.node, "op": self.op, "status": self.status, "why": self.why, "try": self.hint}


@dataclass(frozen=True)
class Check:
    """The dry answer: nothing was trained, no data was read."""

    findings: tuple[CheckFinding, ...]
    limits: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the model can be compiled."""
        return not any(f.status == "unsupported" for f in self.findings) and all(
            f.ok or not f.wall for f in self.limits
        )


REWRITES = {
    "BatchNormalization": "fold-batchnorm folds it into its neighbour",
    "MaxPool": "replace-max-pool makes an average pool of it, which a trainer must mend",
}


def check(path: str | Path, target: Target | None = None) -> Check:
    """Per node of the user's model: spiking, rewritten, on the host, or unsupported; and the target's limits.

    Raises:
        ModelError: the file is no model at all.
    """
    survey = importer.survey(path)
    if any(f.problem is not None for f in survey):
        return Check(tuple(_becomes(f, frozenset()) for f in survey))
    graph = importer.load(path)
    host = frozenset(o for n in graph.nodes if n.op != "relu" and not graph.feeds(n.name, "relu") for o in n.origin)
    findings = [_becomes(f, host) for f in survey]
    if not any(n.op == "relu" for n in graph.nodes):
        findings.append(CheckFinding("", "", "unsupported", "the network has no relu that could become neurons"))
    if target is None:
        return Check(tuple(findings))
    return Check(tuple(findings), tuple(target.findings(graph)), target.limits.unchecked)


def _becomes(finding: importer.Finding, host: frozenset[str]) -> CheckFinding:
    """What becomes of one node; `host` are those that no neurons lie behind."""
    if finding.problem is not None:
        return _unsupported(finding)
    if finding.op in REWRITES:
        return CheckFinding(finding.node, finding.op, "rewrite", REWRITES[finding.op])
    if finding.node in host or finding.op in ("Softmax", "LogSoftmax"):
        return CheckFinding(finding.node, finding.op, "host", "reads out the network: no neurons behind it")
    return CheckFinding(finding.node, finding.op, "spiking")


def _unsupported(finding: importer.Finding) -> CheckFinding:
    problem: SnncError | None = finding.problem
    assert problem is not None
    return CheckFinding(finding.node, finding.op, "unsupported", problem.message, problem.hint)

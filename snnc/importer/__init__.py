"""ONNX files -> analog graphs, and the judge that runs the original model beside them.

Nothing else in the project reads ONNX or calls onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

from snnc.errors import ModelError
from snnc.ir import Graph

from .build import Finding, build
from .files import model_digest, read
from .judge import judge

__all__ = ["Finding", "judge", "load", "model_digest", "survey"]


def load(path: str | Path) -> Graph:
    """The analog graph of an ONNX model: static shapes, any batch size, float32 params, opset 9 to 23.

    Raises:
        ModelError: the file is no readable model; or lists every node that cannot be imported.
    """
    made = build(read(path))
    problems = [found.problem for found in made.findings if found.problem is not None]
    if made.graph is None:
        raise ModelError.gather(f"{len(problems)} parts of '{Path(path).name}' cannot be imported", problems)
    return made.graph


def survey(path: str | Path) -> tuple[Finding, ...]:
    """Every node of the model that does work, in order, each with what keeps it from being imported, if anything.

    Constants and what folds to constants do no work. Inputs and outputs of the model appear only with a problem.

    Raises:
        ModelError: the file is no readable model.
    """
    return build(read(path)).findings

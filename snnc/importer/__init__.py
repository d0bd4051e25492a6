"""ONNX files -> analog graphs, and the judge that runs the original model beside them.

Nothing else in the project reads ONNX or calls onnxruntime. A model file is read in a limited process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnc.errors import ModelError
from snnc.ir import Graph

from .options import DEFAULT, Limits, Options
from .sandbox import examine, model_digest

if TYPE_CHECKING:
    from .build import Finding, Import
    from .judge import judge

__all__ = ["Finding", "Import", "Limits", "Options", "accept", "examine", "judge", "load", "model_digest", "survey"]


def load(path: str | Path, options: Options = DEFAULT) -> Graph:
    """The analog graph of an ONNX model: static shapes, any batch size, float32 params, opset 7 to the newest.

    Raises:
        ModelError: the file is no readable model; or lists every node that cannot be imported.
    """
    return accept(path, options)[0]


def accept(path: str | Path, options: Options = DEFAULT) -> tuple[Graph, tuple[str, ...]]:
    """The graph of `load`, and notes on what was changed on the way in.

    Raises:
        ModelError: see `load`.
    """
    made = examine(path, options)
    problems = [found.problem for found in made.findings if found.problem is not None]
    if made.graph is None:
        raise ModelError.gather(f"{len(problems)} parts of '{Path(path).name}' cannot be imported", problems)
    return made.graph, made.notes


def survey(path: str | Path, options: Options = DEFAULT) -> tuple[Finding, ...]:
    """Every node of the model that does work, in order, each with what keeps it from being imported, if anything.

    Constants and what folds to constants do no work. Inputs and outputs of the model appear only with a problem.

    Raises:
        ModelError: the file is no readable model.
    """
    return examine(path, options).findings


def __getattr__(name: str) -> Any:
    """What needs onnx or onnxruntime is loaded when it is asked for."""
    if name == "judge":
        from .judge import judge

        globals()[name] = judge  # over the module of the same name, which importing it has put there
        return judge
    if name in ("Finding", "Import"):
        from . import build

        return getattr(build, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

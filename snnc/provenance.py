"""Where an artifact comes from: model, data, scaling, recipe, seed, versions; no times, places or names of machines."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from . import importer
from .data import Data, Scaling
from .ir import Graph
from .pipeline import Pipeline
from .score import ACCURACY
from .target import Artifact


def provenance(
    model: str | Path | Graph, reading: importer.Options, data: Data, recipe: Pipeline, seed: int
) -> dict[str, Any]:
    """The facts that go into an artifact's manifest."""
    return {
        "model": importer.model_digest(model, reading) if not isinstance(model, Graph) else None,
        "data": data.digest,
        "scaling": _scaling(data.test.scaling),
        **({} if data.test.score is ACCURACY else {"score": data.test.score.name}),
        "pipeline": str(recipe),
        "seed": seed,
        "versions": {name: metadata.version(name) for name in ("numpy", "onnx", "onnxruntime", "torch")},
        "snnc": version(),
    }


def scaling_of(artifact: Artifact) -> Scaling:
    """The input scaling that an artifact was compiled with."""
    found = artifact.bundle.facts.get("scaling")
    if found is None:
        return Scaling()
    return Scaling(float(found["scale"]), tuple(map(float, found["mean"])), tuple(map(float, found["std"])))


def score_of(artifact: Artifact) -> str:
    """The name of the score that an artifact's network was judged by."""
    return str(artifact.bundle.facts.get("score", ACCURACY.name))


def _scaling(scaling: Scaling) -> dict[str, Any]:
    return {"scale": scaling.scale, "mean": list(scaling.mean), "std": list(scaling.std)}


def version() -> str:
    """This package's own."""
    try:
        return metadata.version("snnc")
    except metadata.PackageNotFoundError:
        return "uninstalled"

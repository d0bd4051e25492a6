"""What users call: load, simulate, check, compile, open. Parses, orders and judges; knows no format and no formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import feasibility, importer
from .artifact import Bundle
from .compiler import COST_SAMPLES as COST_SAMPLES
from .compiler import Build as Build
from .compiler import build as build
from .compiler import checkpoints_of
from .compiler import recipe_of as recipe_of
from .compiler import target_of as target_of
from .data import Data, Split
from .errors import DataError, PipelineError
from .feasibility import Check
from .importer.options import DEFAULT
from .inspection import Inspection
from .ir import Array, Graph
from .ir.streams import sample_shape
from .pipeline import Pipeline, Progress, silent, single
from .provenance import scaling_of as scaling_of
from .provenance import score_of as score_of
from .search import planned
from .sim import placement, reference
from .sim import torch as torch_executor
from .sim.cost import Cost, measure
from .sim.diagnosis import diagnose
from .sim.findings import Diagnosis
from .target import Artifact, Chip, Target
from .targets import TARGETS

Executor = Literal["reference", "torch"]


def load(
    path: str | Path,
    *,
    batched: bool = True,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    outputs: tuple[str, ...] = (),
    limits: importer.Limits = DEFAULT.limits,
) -> Graph:
    """Import an ONNX file.

    Args:
        batched: the first axis of every input and output is the batch; if not, the whole tensor is one sample.
        shapes: sizes of inputs, without batch, where the model leaves them open.
        outputs: the outputs to keep, all by default.
        limits: what reading the file may take of the machine.

    Raises:
        ModelError: lists every node that cannot be imported.
    """
    return importer.load(path, importer.Options(batched, shapes or {}, outputs, limits))


def simulate(
    graph: Graph, x: Array | Mapping[str, Array], executor: Executor = "reference", device: str = "cpu"
) -> Any:
    """Run a graph of any stage.

    Args:
        x: [N, ...], or streams of events [N, T, ...] (an analog network reads their totals), or a dict of them by name.
        executor: `reference` (numpy, float64, the oracle) or `torch`.

    Returns:
        The output [N, ...], or a dict of them by output name if the graph has several.
    """
    named = dict(x) if isinstance(x, Mapping) else {_only(graph.inputs, "input"): np.asarray(x)}
    _check_inputs(graph, named)
    if executor == "reference":
        outputs = reference.run(graph, named)
    elif executor == "torch":
        outputs = torch_executor.run(graph, named, device)
    else:
        raise PipelineError(f"no executor is named '{executor}'", hint="one of reference, torch")
    return single(outputs) if len(outputs) == 1 else outputs


def open(folder: str | Path) -> Artifact:
    """Open an artifact, verified first.

    Raises:
        ArtifactError: it is missing, damaged or was tampered with.
    """
    return Artifact.open(str(folder), TARGETS)


def compile(
    model: str | Path | Graph,
    target: str | Target = "dynap-sim",
    *,
    data: str | Path | Data,
    out: str | Path | None = "build",
    seed: int = 0,
    **options: Any,
) -> Artifact:
    """Compile a model for a target and write the artifact to `out` (nowhere, if None).

    `build` is the same with all figures, and says which options there are.

    Raises:
        SnncError: what is wrong with the model, the data, the options or the fit; nothing is left behind.
    """
    return build(model, target, data=data, out=out, seed=seed, **options).artifact


def check(path: str | Path, target: str | Target | None = None, reading: importer.Options = DEFAULT) -> Check:
    """What becomes of every node of the user's model, and how it stands to the target's limits; reads no data.

    Raises:
        ModelError: the file is no model at all.
    """
    return feasibility.check(path, None if target is None else target_of(target), reading)


def inspect(path: str | Path, reading: importer.Options = DEFAULT) -> Inspection:
    """The network of an ONNX file, or of an artifact's folder, as a table.

    Raises:
        ModelError: the file cannot be imported.
        ArtifactError: the folder is no artifact, or was tampered with.
    """
    return Inspection.of(open(path).graph if Path(path).is_dir() else importer.load(path, reading))


def run(
    artifact: Artifact, split: Split, chip: Chip | None = None, device: str = "cpu", progress: Progress = silent
) -> tuple[float, dict[str, Array], Cost]:
    """Score, outputs and cost of an artifact on samples: on a device, or on the network without one."""
    name = next(iter(artifact.graph.inputs))
    Data(split, split, split).check(artifact.graph)
    outputs = torch_executor.run(artifact.graph, {name: split}, device) if chip is None else chip.run(split, progress)
    cost = measure(artifact.graph, artifact.graph.teacher, split.take(COST_SAMPLES).x(), device)
    return split.score.measure(single(outputs), split.labels), outputs, cost


def explain(
    artifact: str | Path | Artifact, split: Split, device: str = "cpu", progress: Progress = silent
) -> Diagnosis:
    """Why an artifact's network differs from its teacher on samples: causes by layer, and what mends most.

    Raises:
        ArtifactError: the folder is no artifact, or was tampered with.
        DataError: the samples do not fit the model.
    """
    graph = artifact.graph if isinstance(artifact, Artifact) else open(artifact).graph
    Data(split, split, split).check(graph)
    assert graph.teacher is not None
    return diagnose(graph, graph.teacher, split, split.labels[:], device, progress, split.score)


def check_plan(pipeline: Pipeline, max_drop: float | None, steps: range | None) -> None:
    """Refuse, before any work, a search or a T that the recipe cannot have; see `build`."""
    planned(pipeline, max_drop, steps)


def check_place(folder: str | Path) -> None:
    """Refuse, before any work, to write over something that is no artifact."""
    Bundle.check_place(Path(folder))


def check_resume(out: str | Path, resume: bool | None) -> None:
    """Refuse, before any work, to forget an interrupted training without being told to; see `build`."""
    if resume is None:
        checkpoints_of(out).begin(resume)


@contextmanager
def resumable(out: str | Path) -> Iterator[None]:
    """Whoever interrupts what happens inside is told how to go on, where training has got anywhere."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if checkpoints_of(out).interrupted:
            stop.add_note("the same command and --resume go on from the last checkpoint")
        raise


def check_device(device: str) -> None:
    """Refuse devices that torch cannot compute on, see `snnc.sim.placement`."""
    placement.check(device)


def save_arrays(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Store arrays in an npz file, moved into place when it is whole.

    Raises:
        DataError: the file cannot be written.
    """
    place = Path(path)
    part = place.with_name(f".{place.name}.part.npz")
    try:
        np.savez(part, allow_pickle=False, **arrays)
        part.replace(place)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", at=str(place)) from None
    finally:
        part.unlink(missing_ok=True)


def _check_inputs(graph: Graph, x: Mapping[str, Array]) -> None:
    if set(x) != set(graph.inputs):
        raise DataError(f"the graph's inputs are {', '.join(graph.inputs)}, given are {', '.join(x) or 'none'}")
    problems = [
        DataError(f"input '{name}' has shape {list(x[name].shape)}, not [N, {', '.join(map(str, want))}]")
        for name in graph.inputs
        if (want := sample_shape(graph, name, x[name].shape[1:])) != x[name].shape[1:] or x[name].ndim < 1
    ]
    if not problems and len({len(array) for array in x.values()}) > 1:
        problems.append(DataError("the inputs have different numbers of samples"))
    problems += [DataError(f"input '{n}' holds NaN or infinity") for n, a in x.items() if not np.isfinite(a).all()]
    if problems:
        raise DataError.gather("the inputs do not fit the graph", problems)


def _only(names: Mapping[str, Any], word: str) -> str:
    if len(names) != 1:
        raise DataError(f"the graph has {len(names)} {word}s: {', '.join(names)}", hint="give a dict by name")
    return next(iter(names))

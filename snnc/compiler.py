"""A compile from model file to artifact: read, search, run the recipe, judge every step, try chips, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import importer, spec
from .artifact import canonical
from .data import Data
from .data import load as load_data
from .errors import PipelineError
from .importer.options import DEFAULT
from .ir import Graph, Stage
from .pipeline import Log, Pass, Pipeline, Progress, explained, judged, silent
from .provenance import provenance, version
from .report import Ledger, page
from .search import Search, planned, search
from .sim.cost import Cost, measure
from .sim.findings import Diagnosis, Unexplained
from .target import Artifact, Finding, Laying, Layout, Target
from .targets import TARGETS
from .train import Trainer, parallel
from .train.checkpoint import EVERY, Checkpoints
from .trial import on_chips, on_test_part

COST_SAMPLES = 256
"""Samples that costs, and spikes for a layout, are averaged over (as tandem learning, section III-B)."""


def target_of(target: str | Target) -> Target:
    """The target that a text such as `dynap-sim{mismatch=0.3}` names."""
    return spec.from_spec(target, TARGETS) if isinstance(target, str) else target


def recipe_of(pipeline: str | Pipeline | None, target: Target) -> Pipeline:
    """The pipeline that a text names, or the target's own.

    Raises:
        PipelineError: also when it does not end in a graph that the target takes.
    """
    recipe = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline or target.pipeline()
    gives = [p.gives for p in recipe.passes if p.gives is not None]
    if not gives or gives[-1] is not Stage.CONSTRAINED:
        raise PipelineError(
            f"the pipeline '{recipe}' ends in stage {gives[-1] if gives else Stage.ANALOG}, '{target.name}' takes "
            f"{Stage.CONSTRAINED}",
            hint=f"its own recipe is '{target.pipeline()}'",
        )
    return recipe


@dataclass(frozen=True)
class Build:
    """What one compile made and measured.

    Attributes:
        chips: one dict per device: seed, accuracy on test samples before and after calibration.
        cost: of one inference of the network.
        limits: how it stands to the target's limits.
        diagnosis: where the network loses against the model, on validation samples; or why that cannot be said.
        layout: where it goes on the chip.
        search: what was tried to find T, percentile and bits, where a drop was allowed.
    """

    artifact: Artifact
    ledger: Ledger
    chips: list[dict[str, Any]]
    cost: Cost
    limits: list[Finding]
    diagnosis: Diagnosis | Unexplained
    layout: Layout
    search: Search | None = None

    @property
    def unchecked(self) -> list[str]:
        """The limits of the real chip that nobody has looked at."""
        seen = {finding.limit for finding in self.limits}
        return [name for name in self.artifact.target.limits.unchecked if name not in seen]


def build(
    model: str | Path | Graph,
    target: str | Target = "dynap-sim",
    *,
    data: str | Path | Data,
    out: str | Path | None = "build",
    seed: int = 0,
    pipeline: str | Pipeline | None = None,
    max_drop: float | None = None,
    steps: range | None = None,
    chips: int = 5,
    device: str = "cpu",
    reading: importer.Options = DEFAULT,
    resume: bool | None = None,
    save_every: float = EVERY,
    log: Log | None = None,
    progress: Progress = silent,
) -> Build:
    """Compile, judge every step, and try the result on simulated devices.

    Trainers, and the trial on devices, keep how far they are in a folder beside the artifact, `OUT.checkpoints`, which
    is removed at the end. Of several processes (`snnc.train.parallel`) each tries its share of the devices, and only
    the first writes.

    Args:
        pipeline: passes and trainers instead of the target's own recipe.
        max_drop: points of accuracy that conversion may cost on the validation samples: T, percentile and bits of the
            recipe are then searched (`snnc.search`).
        steps: which T may be chosen; without `max_drop` a single one, which is set.
        chips: devices to try it on, before and after calibration.
        device: where torch computes.
        reading: how the model file is read.
        resume: what becomes of a compile that was interrupted: go on with it (True), begin again (False); if None,
            there must be none.
        save_every: seconds between two checkpoints within an epoch, at least.
        log: whom trainers tell how they go: `snnc.train.TensorBoard(folder)`.
        progress: told what is going on.

    Raises:
        SnncError: see `compile`.
    """
    if seed < 0 or chips < 0:
        raise PipelineError(f"seed={seed} and chips={chips} are numbers from 0")
    chosen = target_of(target)
    recipe, goal = planned(recipe_of(pipeline, chosen), max_drop, steps)
    graph, notes = (model, ()) if isinstance(model, Graph) else importer.accept(model, reading)
    samples = data if isinstance(data, Data) else load_data(data)
    samples.check(graph)
    recipe.check_data(samples)
    if goal is not None:
        goal.check_data(samples)
    facts = {} if isinstance(model, Graph) else {"model": importer.model_digest(model, reading)}
    checkpoints = None if out is None else checkpoints_of(out, save_every, {**facts, "snnc": version()})
    if checkpoints is not None:
        checkpoints.begin(resume)
    ledger = Ledger([judged("import", graph, samples, graph, device, notes)])
    found = None if goal is None else search(recipe, graph, samples, goal, seed=seed, device=device, progress=progress)
    recipe = recipe if found is None else found.pipeline
    snn, rows = recipe(
        graph,
        data=samples,
        seed=seed,
        device=device,
        progress=progress,
        checkpoints=checkpoints,
        log=log,
        ask=_placeable(chosen, recipe),
    )
    ledger.rows += rows.rows
    artifact, layout = _laid_out(chosen, snn, samples)
    why = explained(snn, samples, device, progress)
    ledger.rows += on_test_part(model, reading, graph, snn, samples, device, progress)
    kept = None if checkpoints is None else checkpoints.chips
    population, chip_rows = on_chips(artifact, samples, chips, device, progress, kept)
    ledger.rows += chip_rows
    cost = measure(snn, graph, samples.test.take(COST_SAMPLES).x(), device)
    limits = [*chosen.findings(snn), *layout.findings]
    made = Build(artifact, ledger, population, cost, limits, why, layout, found)
    made = replace(made, artifact=_documented(made, model, reading, samples, recipe, seed))
    if out is not None and parallel.is_first():
        made.artifact.bundle.write(out)
    if checkpoints is not None:
        checkpoints.remove()
    return made


def _documented(
    made: Build, model: str | Path | Graph, reading: importer.Options, data: Data, recipe: Pipeline, seed: int
) -> Artifact:
    """The artifact with its report and its provenance; no times, places or names of machines."""
    report: dict[str, Any] = {
        "ledger": made.ledger.to_json(timed=False),
        "chips": made.chips,
        "cost": made.cost.to_json(),
        "limits": [f.to_json() for f in made.limits],
        "unchecked": made.unchecked,
        "diagnosis": made.diagnosis.to_json(),
    }
    if made.search is not None:
        report["search"] = made.search.to_json(timed=False)
    bundle = made.artifact.bundle.with_facts(**provenance(model, reading, data, recipe, seed))
    shown = {
        **made.layout.files,
        "report.json": canonical(report),
        "report.html": page(made.ledger, report, bundle.facts).encode(),
    }
    return replace(made.artifact, bundle=replace(bundle, files={**bundle.files, **shown}))


def _placeable(target: Target, recipe: Pipeline) -> Callable[[Pass, Graph], None]:
    """Refuses, before a training, what the target could not take behind it; unless other passes still follow."""
    last = max((i for i, step in enumerate(recipe.passes) if not isinstance(step, Trainer)), default=-1)
    training = recipe.passes[last + 1 :]

    def ask(step: Pass, graph: Graph) -> None:
        if training and step is training[0] and graph.stage is Stage.CONSTRAINED:
            target.place(graph)

    return ask


def _laid_out(target: Target, snn: Graph, data: Data) -> tuple[Artifact, Layout]:
    """The artifact, with its layout on the chip's cores by spikes on training samples, if the target has cores."""
    artifact = target.compile(snn)
    if not isinstance(target, Laying):
        return artifact, Layout()
    layout = target.lay_out(snn, data.train.take(COST_SAMPLES))
    bundle = replace(artifact.bundle, files={**artifact.bundle.files, **layout.files})
    return replace(artifact, bundle=bundle), layout


def checkpoints_of(out: str | Path, every: float = EVERY, facts: Mapping[str, Any] | None = None) -> Checkpoints:
    """Where the trainers of a compile to `out` keep how far they are."""
    return Checkpoints(Path(f"{out}.checkpoints"), every=every, facts=facts)

"""click commands: parse, call the API, print.

Exit codes: 0 done; 2 something is wrong with what the user gave; 1 a mistake of ours; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from snnc import api, importer, spec
from snnc import data as data_files
from snnc.artifact import Bundle
from snnc.errors import SnncError
from snnc.passes import PASSES
from snnc.report import Row
from snnc.score import MSE, SI_SDR
from snnc.targets import TARGETS
from snnc.train import TRAINERS, TensorBoard, parallel

from . import show
from .explain import explain
from .params import (
    READABLE,
    Steps,
    device_option,
    output_options,
    reading_options,
    resume_options,
    sample_options,
    scaling_options,
)
from .population import yield_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="snnc")
def cli() -> None:
    """Compile a trained network (ONNX) into a spiking network for neuromorphic hardware."""


@cli.command("compile")
@click.argument("model", type=READABLE)
@click.option("--target", default="dynap-sim", show_default=True, help="Chip and its options: name{key=value}.")
@sample_options
@click.option("--test", "test_path", type=READABLE, help="Another npz or folder for the test part.")
@click.option("--pipeline", help="Passes and trainers instead of the target's own recipe.")
@click.option("--max-drop", type=float, help="Points that conversion may cost: searches T, percentile and bits.")
@click.option("--steps", type=Steps(), help="T: 16; or, with --max-drop, the range to search: 4..32.")
@click.option("--out", type=READABLE, default=Path("build"), show_default=True, help="Folder of the artifact.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--chips", type=click.IntRange(0), default=5, show_default=True, help="Simulated devices to try it on.")
@device_option
@click.option("--log", type=READABLE, help="Folder of TensorBoard event files: how the training goes.")
@click.option(
    "--score", type=click.Choice([MSE.name, SI_SDR.name]),
    help="What outputs are judged by where y are targets (floats); mse by default.",
)  # fmt: skip
@resume_options
@scaling_options
@reading_options
@output_options
def compile_command(
    model: Path, target: str, data_path: Path, test_path: Path | None, pipeline: str | None, max_drop: float | None,
    steps: range | None, out: Path, seed: int, chips: int, train_samples: int | None, test_samples: int | None,
    device: str, log: Path | None, score: str | None, resume: bool | None, save_every: float, scale: float,
    mean: tuple[float, ...], std: tuple[float, ...], reading: importer.Options, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compile MODEL (an ONNX file) for a chip and report the accuracy, or another score, at every step."""
    chosen = api.target_of(target)
    recipe = api.recipe_of(pipeline, chosen)
    api.check_plan(recipe, max_drop, steps)
    scaling = data_files.Scaling(scale, mean, std)
    api.check_place(out)
    api.check_resume(out, resume)
    told = None if log is None else TensorBoard(log)
    device = parallel.own_device(device)
    api.check_device(device)
    graph = importer.load(model, reading)
    samples = data_files.load(
        data_path, test=test_path, scaling=scaling, train_samples=train_samples, test_samples=test_samples, score=score
    )
    samples.check(graph)
    with show.progress(quiet or not parallel.is_first()) as progress, api.resumable(out):
        made = api.build(
            model, chosen, data=samples, out=out, seed=seed, pipeline=recipe, max_drop=max_drop, steps=steps,
            chips=chips, device=device, reading=reading, resume=resume, save_every=save_every, log=told,
            progress=progress,
        )  # fmt: skip
    if not parallel.is_first():
        return None
    if not as_json:
        return show.show_build(made, str(out))
    return show.emit(
        {
            "artifact": str(out),
            "digest": made.artifact.digest,
            "ledger": made.ledger.to_json(),
            "chips": made.chips,
            "cost": made.cost.to_json(),
            "limits": [f.to_json() for f in made.limits],
            "diagnosis": made.diagnosis.to_json(),
            "search": None if made.search is None else made.search.to_json(),
        }
    )


@cli.command()
@click.argument("model", type=READABLE)
@click.option("--target", default="dynap-sim", show_default=True, help="Chip and its options: name{key=value}.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def check(model: Path, target: str, reading: importer.Options, as_json: bool) -> None:
    """Say what becomes of every node of MODEL, and which limits of the chip it meets. Reads no data."""
    found = api.check(model, target, reading)
    if as_json:
        show.emit(
            {
                "ok": found.ok,
                "findings": [f.to_json() for f in found.findings],
                "limits": [f.to_json() for f in found.limits],
                "unchecked": list(found.unchecked),
                "notes": list(found.notes),
            }
        )
    else:
        show.show_check(found, target)
    if not found.ok:
        sys.exit(2)


@cli.command()
@click.argument("model_or_artifact", type=READABLE)
@click.option("--text", "as_text", is_flag=True, help="The exact text of the graph.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inspect(model_or_artifact: Path, as_text: bool, reading: importer.Options, as_json: bool) -> None:
    """Show the network of an ONNX file or of an artifact: shapes, parameters, multiply-accumulates."""
    found = api.inspect(model_or_artifact, reading)
    if as_json:
        show.emit({**found.to_json(), **({"text": found.text} if as_text else {})})
    elif as_text:
        print(found.text, end="")
    else:
        show.show_inspection(found)


@cli.command()
@click.argument("build", type=READABLE)
@click.option("--data", "data_path", type=READABLE, required=True, help="npz, or folder of npy: x_test... or x, y.")
@click.option(
    "--chip", type=click.IntRange(0), help="Run on the device of this seed; without it, on the ideal network."
)
@click.option("--state", type=READABLE, help="What `snnc calibrate --out` stored for that device.")
@click.option("--outputs", type=READABLE, help="Store the outputs in this npz file.")
@click.option("--test-samples", type=click.IntRange(1), help="Use only the first so many.")
@device_option
@output_options
def run(
    build: Path, data_path: Path, chip: int | None, state: Path | None, outputs: Path | None,
    test_samples: int | None, device: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run an artifact on test samples."""
    api.check_device(device)
    artifact = api.open(build)
    stored = None if state is None else Bundle.read(state, "chip")
    if stored is not None and chip is None:
        chip = int(stored.json("chip.json")["seed"])
    on = None if chip is None else artifact.load(chip, stored, device)
    split = data_files.load_test(data_path, api.scaling_of(artifact), test_samples, api.score_of(artifact))
    with show.progress(quiet) as progress:
        value, arrays, cost = api.run(artifact, split, on, device, progress)
    if outputs is not None:
        api.save_arrays(outputs, arrays)
    if as_json:
        where = None if outputs is None else str(outputs)
        found = show.scored(value, split.score)
        return show.emit({**found, "outputs": where, "cost": cost.to_json(), "chip": chip})
    place = "the ideal network" if chip is None else f"chip {chip}" + (", calibrated" if stored else "")
    figure = f"{split.score.name} {split.score.brief(value)}"
    show.out().print(f"{figure} of {len(split)} samples on {place}\n{show.cost_text(cost)}")
    return None


@cli.command()
@click.argument("build", type=READABLE)
@sample_options
@click.option("--chip", type=click.IntRange(0), default=0, show_default=True, help="The device's seed.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--state", type=READABLE, help="Go on from what an earlier calibration stored.")
@click.option("--out", type=READABLE, help="Store what the device has learned in this folder.")
@device_option
@output_options
def calibrate(
    build: Path, data_path: Path, chip: int, epochs: int, state: Path | None, out: Path | None,
    train_samples: int | None, test_samples: int | None, device: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Let one device repair itself by online LTL on training samples."""
    if out is not None:
        api.check_place(out)
    api.check_device(device)
    artifact = api.open(build)
    stored = None if state is None else Bundle.read(state, "chip")
    on = artifact.load(chip, stored, device)
    samples = data_files.load(
        data_path, scaling=api.scaling_of(artifact), train_samples=train_samples, test_samples=test_samples,
        score=api.score_of(artifact),
    )  # fmt: skip
    samples.check(artifact.graph)
    with show.progress(quiet) as progress:
        before = api.run(artifact, samples.test, on, device, progress)[0]
        ledger = on.calibrate(samples, epochs, progress)
        after = api.run(artifact, samples.test, on, device, progress)[0]
    for step, value in (("test, before", before), ("test, calibrated", after)):
        ledger.add(Row(step, value, "test", score=samples.test.score))
    if out is not None:
        on.state().write(out)
    if as_json:
        where = None if out is None else str(out)
        return show.emit({"chip": chip, "before": before, "after": after, "ledger": ledger.to_json(), "state": where})
    return show.show_ledger(ledger)


cli.add_command(explain)
cli.add_command(yield_command)


def listing(name: str, table: spec.Registry[Any], text: str) -> None:
    """Add a command that lists a registry."""

    @cli.command(name, help=text)
    @click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
    def command(as_json: bool) -> None:
        rows = [(entry, (cls.__doc__ or "").splitlines()[0], spec.describe(cls)) for entry, cls in table.items()]
        if as_json:
            return show.emit(
                {
                    entry: {
                        "about": about,
                        "options": [dict(zip(("name", "type", "default"), o, strict=True)) for o in has],
                    }
                    for entry, about, has in rows
                }
            )
        for entry, about, has in rows:
            show.out().print(f"{entry}  {about}")
            for option, kind, default in has:
                show.out().print(f"    {option}={default}  ({kind})")
        return None


listing("passes", PASSES, "List the passes and their options.")
listing("trainers", TRAINERS, "List the learning rules and their options.")
listing("targets", TARGETS, "List the chips and their options.")


def _leave() -> None:
    """End a process of several at once: all is written, and torch's threads may abort a shutting interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Run the command line; errors of the user end with code 2 and no traceback."""
    try:
        with parallel.joined():
            cli.main(standalone_mode=False)
        if parallel.launched():
            _leave()
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except SnncError as error:
        told = not parallel.first_to_fail()
        if not told:
            show.show_error(error)
        if "--json" in sys.argv and not told:
            print(json.dumps({"ok": False, "error": str(error), "code": error.code}))
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as stop:
        if parallel.first_to_fail():
            notes = getattr(stop.__cause__ or stop, "__notes__", ["nothing was written"])
            print("; ".join(["interrupted", *notes]), file=sys.stderr)
        sys.exit(130)

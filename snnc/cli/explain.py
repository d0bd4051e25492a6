"""`snnc explain`: why a compiled network differs from the model it was made from."""

from __future__ import annotations

from pathlib import Path

import click

from snnc import api
from snnc import data as data_files

from . import show, show_explain
from .params import READABLE, device_option, output_options


@click.command()
@click.argument("build", type=READABLE)
@click.option(
    "--data", "data_path", type=READABLE, required=True,
    help="npz, or folder of npy: x_test, y_test or x, y; an artifact holds no samples of its own.",
)  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=256, show_default=True, help="Use only the first so many.")
@device_option
@output_options
def explain(build: Path, data_path: Path, samples: int, device: str, as_json: bool, quiet: bool) -> None:
    """Split the error of every layer of an artifact into named causes, and say which setting would mend most."""
    api.check_device(device)
    artifact = api.open(build)
    split = data_files.load_test(data_path, api.scaling_of(artifact), samples, api.score_of(artifact))
    with show.progress(quiet) as progress:
        found = api.explain(artifact, split, device, progress)
    if as_json:
        return show.emit(found.to_json())
    return show_explain.show_diagnosis(found, str(artifact.bundle.facts.get("pipeline", "")))

"""`snnc yield`: how many of many devices reach what is asked for."""

from __future__ import annotations

import math
from pathlib import Path

import click

from snnc import api
from snnc import data as data_files
from snnc.errors import DataError
from snnc.population import Population, Spread, known_in, population
from snnc.score import Score
from snnc.train import parallel

from . import show
from .params import READABLE, device_option, output_options, sample_options


@click.command("yield")
@click.argument("build", type=READABLE)
@sample_options
@click.option("--chips", type=click.IntRange(1), default=50, show_default=True, help="Devices to try.")
@click.option("--epochs", type=click.IntRange(0), default=1, show_default=True, help="Of calibration.")
@click.option("--floor", type=float, help="What a device must reach to count: percent of accuracy; else the score.")
@click.option("--out", type=READABLE, help="Folder for yield.json and the figure yield.svg; kept up to date.")
@click.option("--restart", is_flag=True, help="Forget the devices that --out holds already; else it goes on.")
@device_option
@output_options
def yield_command(
    build: Path, data_path: Path, chips: int, epochs: int, floor: float | None, out: Path | None, restart: bool,
    train_samples: int | None, test_samples: int | None, device: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Try an artifact on many devices, before and after each has calibrated itself.

    `torchrun --nproc-per-node P -m snnc yield ...` tries P devices at a time.
    """
    if out is not None:
        api.check_place(out)
    if restart and out is None:
        raise DataError("there is nothing to restart without --out")
    device = parallel.own_device(device)
    api.check_device(device)
    artifact = api.open(build)
    samples = data_files.load(
        data_path, scaling=api.scaling_of(artifact), train_samples=train_samples, test_samples=test_samples,
        score=api.score_of(artifact),
    )  # fmt: skip
    level = _level(floor, samples.test.score)
    known = known_in(out)

    def keep(found: Population) -> None:
        if out is not None:
            found.bundle(level).write(out)

    with show.progress(quiet or not parallel.is_first()) as progress:
        found = population(
            artifact, samples, chips, epochs=epochs, device=device, progress=progress,
            known=None if restart else known, keep=keep,
        )  # fmt: skip
    if not parallel.is_first():
        return
    keep(found)
    if as_json:
        show.emit({**found.to_json(level), "figure": None if out is None else str(out / "yield.svg")})
        return
    console = show.out()
    console.print(show.chips_table(found.chips, found.score))
    console.print()
    for word, values in (("before", found.before), ("calibrated", found.after)):
        console.print(f"{word:10}  {_line(Spread.of(values, found.score, level), found, level)}")
    if out is not None:
        console.print(f"\nfigure {out / 'yield.svg'}")


def _level(floor: float | None, score: Score) -> float | None:
    """The floor in the units of the score.

    Raises:
        DataError: it is none that a device could reach, or a share where percent are asked for.
    """
    if floor is None:
        return None
    if not math.isfinite(floor):
        raise DataError(f"--floor {floor} is no floor")
    if score.unit == "%" and (not 0 <= floor <= 100 or 0 < floor <= 1):
        hint = f"--floor {100 * floor:g}" if 0 < floor <= 1 else "from 0 to 100"
        raise DataError(f"--floor {floor:g} would be {floor:g} %", hint=hint)
    return floor / score.factor


def _line(spread: Spread, found: Population, floor: float | None) -> str:
    line = f"mean {found.score.brief(spread.mean)}, {spread.text(found.score)}"
    if spread.share is None or spread.interval is None or floor is None:
        return line
    low, high = spread.interval
    return f"{line}; {spread.share:.0%} reach {found.score.brief(floor)} (95 % interval {low:.0%} to {high:.0%})"

"""What `snnc explain` prints: a row a layer, what comes back without each cause, the worst layer and what to try."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from snnc.errors import printable
from snnc.score import ACCURACY
from snnc.sim.advice import ABOUT, Setting
from snnc.sim.findings import READOUT, Diagnosis, Gain, Row
from snnc.sim.twins import Cause

from .show import out

SHOWN = 0.005
"""Shares below this are left blank."""
PAIRS = 5
"""Gains in one layer that are printed; --json has all."""


def show_diagnosis(found: Diagnosis, pipeline: str = "") -> None:
    """Everything, worst last, where the eye is; `pipeline` is what the settings belong to."""
    console = out()
    judge = "of the labels" if found.labelled else "of the model's own answers"
    word = "Right" if found.score is ACCURACY else found.score.name
    console.print(
        f"{found.samples} samples, {found.steps} time steps. {word} {judge}: model {found.score.text(found.teacher)}, "
        f"network {found.score.text(found.network)}.\n"
    )
    console.print(layers_table(found))
    console.print("\nerror: ||network - model|| / ||model|| of the activations; the causes are shares of its square.\n")
    _gains(console, found)
    console.print()
    _verdict(console, found)
    if pipeline and found.advice:
        console.print(f"\nIt was compiled with --pipeline '{printable(pipeline, 2000)}'")


def layers_table(found: Diagnosis) -> Table:
    """A row a layer of neurons; causes that occur nowhere have no column."""
    causes = [c for c in Cause if any(abs(row.shares[c]) >= SHOWN for row in found.rows)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "in your model"):
        table.add_column(name, overflow="fold")
    for name in ("error", *causes):
        table.add_column(name, justify="right")
    for row in found.rows:
        origin = printable(", ".join(row.origin), 60)
        shares = ["" if abs(row.shares[c]) < SHOWN else f"{row.shares[c]:.0%}" for c in causes]
        table.add_row(printable(row.name, 60), origin, f"{row.error:.1%}", *shares)
    return table


def _gains(console: Console, found: Diagnosis) -> None:
    console.print(
        f"The output is off by {found.output_error:.1%} (read out with the model's weights) and by "
        f"{_moved(found, found.network - found.teacher)}. Each cause off alone, and in turn:\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("points that change without")
    for name in ("output", found.score.name, "in turn: output", found.score.name):
        table.add_column(name, justify="right")
    for alone, turn in zip(found.gains, found.in_turn, strict=True):
        where = "" if alone.what == READOUT else " in all layers"
        table.add_row(alone.what + where, *_cells(found, alone), *_cells(found, turn))
    table.add_row("remainder", "", "", _error(found.remaining_error), found.score.change(found.remainder, 0.0))
    for gain in found.single[:PAIRS]:
        table.add_row(f"{gain.what} in {printable(gain.layer or '', 60)}", *_cells(found, gain))
    console.print(table)


def _verdict(console: Console, found: Diagnosis) -> None:
    if found.worst is None or found.cause is None:
        console.print("No layer has an error of its own that is worth a word.")
        return
    row = found[found.worst]
    origin = f", in your model {printable(', '.join(row.origin))}" if row.origin else ""
    console.print(f"Worst layer: {printable(row.name)}{origin}")
    console.print(f"  {_cause(row, found.cause)}")
    if row.silent > SHOWN:
        console.print(f"  {row.silent:.1%} of what the model's neurons say there is answered by no spike at all")
    for setting in found.advice:
        console.print(f"  try {setting.text}\n      {_promise(setting)}")


def _cause(row: Row, cause: Cause) -> str:
    return f"{ABOUT[cause]} ({row.shares[cause]:.0%} of its error of {row.error:.1%})"


def _promise(setting: Setting) -> str:
    how = "would take" if setting.exact else "would at best take"
    back = f", and the output's by {100 * setting.gain:.1f} points" if setting.gain >= 5e-4 else ""
    return f"{how} the layer's error from {setting.before:.1%} to {setting.after:.1%}{back}"


def _moved(found: Diagnosis, value: float) -> str:
    moved = found.score.change(value, 0.0)
    if found.score is ACCURACY:
        return f"{moved} points of accuracy"
    return f"{moved} {found.score.unit}".rstrip() + f" of {found.score.name}"


def _cells(found: Diagnosis, gain: Gain) -> tuple[str, str]:
    return _error(gain.error), found.score.change(gain.value, 0.0)


def _error(came_back: float) -> str:
    return f"{-100 * came_back:+.1f}"

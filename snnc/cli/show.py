"""What the command line prints: progress and messages on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from snnc.api import Build
from snnc.errors import SnncError, printable
from snnc.feasibility import Check
from snnc.inspection import Inspection, NodeRow
from snnc.pipeline import Progress, silent
from snnc.report import Ledger, percent
from snnc.score import ACCURACY, Score
from snnc.search import Search
from snnc.sim.cost import Cost

WIDE = 120
EVERY = 5.0
"""Seconds between two lines of progress where no terminal can draw a bar."""


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A bar with the time left on a terminal, now and then a line elsewhere, nothing if `quiet`."""
    console = Console(stderr=True)
    if quiet:
        yield silent
    elif console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Bars(*columns, console=console, transient=True) as bars:
            yield _bar(bars)
    else:
        yield _lines(console)


def _bar(bars: Bars) -> Progress:
    task: list[tuple[str, TaskID]] = []

    def tell(text: str, done: int, total: int) -> None:
        kind = text.split(",")[0]
        if not task or task[0][0] != kind:
            for _, old in task:
                bars.remove_task(old)
            task[:] = [(kind, bars.add_task(text, total=total))]
        bars.update(task[0][1], description=text, completed=done, total=total)

    return tell


def _lines(console: Console) -> Progress:
    state = {"start": time.monotonic(), "last": time.monotonic(), "kind_start": time.monotonic()}
    kind = [""]

    def tell(text: str, done: int, total: int) -> None:
        now = time.monotonic()
        if text.split(",")[0] != kind[0]:
            kind[0], state["kind_start"] = text.split(",")[0], now
        if now - state["last"] < EVERY:
            return
        state["last"] = now
        took = now - state["kind_start"]
        left = f", about {took / done * (total - done):.0f} s left" if done and took > 1 else ""
        console.print(f"{text}: {done}/{total}{left}", highlight=False, markup=False)

    return tell


def emit(value: object) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))


def out() -> Console:
    """Where results go; never narrower than `WIDE` where no terminal sets the width."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=max(console.width, WIDE))


def scored(value: float, score: Score) -> dict[str, Any]:
    """A score in an object: `accuracy`; None where it is another one, with name and value in `score`."""
    if score is ACCURACY:
        return {"accuracy": value}
    return {"accuracy": None, "score": {"name": score.name, "value": value}}


def show_ledger(ledger: Ledger) -> None:
    """The ledger as text; its notes may quote names from the user's files."""
    out().print(printable(str(ledger), 10**6))


def show_build(made: Build, place: str) -> None:
    """The search, the ledger, the chips, the cost and where the artifact lies."""
    console = out()
    if made.search is not None:
        console.print(search_table(made.search))
        console.print(f"\n{search_text(made.search)}\n")
    show_ledger(made.ledger)
    if made.chips:
        console.print()
        console.print(chips_table(made.chips, made.ledger.score))
    console.print()
    console.print(cost_text(made.cost))
    for finding in made.limits:
        if not finding.ok:
            at = f" at {finding.layer}" if finding.layer else ""
            console.print(f"{finding.limit}{at}: {finding.value:g} of {finding.allowed:g}; {finding.note}")
    for line in made.layout.lines:
        console.print(line)
    console.print(f"unchecked on the real chip: {', '.join(made.unchecked)}")
    console.print(f"\nwhere it went: {printable(made.diagnosis.summary)}")
    console.print(f"artifact {place}  sha256 {made.artifact.digest}")


def search_table(found: Search) -> Table:
    """One row a candidate; the chosen one is marked."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("T", "percentile", "bits", "accuracy", "drop", "samples", "SynOps", "spikes", ""):
        table.add_column(name, justify="left" if not name else "right")
    for trial in found.curve:
        choice = trial.choice
        word = "chosen" if choice == found.chosen else ("within" if trial.within else "")
        table.add_row(
            str(choice.steps), f"{choice.percentile:g}", str(choice.bits or ""), percent(trial.accuracy),
            f"{trial.drop:.2f}", str(trial.samples), f"{trial.synops:,.0f}", f"{trial.spikes:,.0f}", word,
        )  # fmt: skip
    return table


def search_text(found: Search) -> str:
    """What was chosen, and what it was judged by."""
    return (
        f"chosen: {found.chosen}; a drop of {found.best.drop:.2f} points, {found.goal.max_drop:g} allowed, on "
        f"{found.samples} validation samples\n"
        f"every candidate converted by {', '.join(p.name for p in found.judged.passes)}\n"
        f"{len(found.curve)} candidates, {found.sample_steps:,} sample steps simulated"
    )


def chips_table(chips: list[dict[str, Any]], score: Score) -> Table:
    """One row a device."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("chip", "before", "calibrated"):
        table.add_column(name, justify="right")
    for chip in chips:
        table.add_row(str(chip["seed"]), score.text(chip["before"]), score.text(chip["after"]))
    return table


def cost_text(cost: Cost) -> str:
    """Operations per inference and sizes."""
    ratio = f" ({cost.synops / cost.ann_macs:.2f} of the ANN's MACs)" if cost.ann_macs else ""
    fan_in = ", ".join(f"{name} {most}" for name, most in cost.fan_in.items())
    return (
        f"per inference: {cost.synops:,.0f} SynOps{ratio}, {cost.input_macs:,} MACs of the input layer once, "
        f"{cost.spikes:,.0f} spikes ({cost.rate:.1%} of neurons a step); ANN {cost.ann_macs:,} MACs\n"
        f"network: {cost.neurons:,} neurons, {cost.weights:,} weights, {cost.synapses:,} synapses, fan-in {fan_in}"
    )


def show_error(error: SnncError) -> None:
    """What is wrong, where, what to try, and what ran before, on standard error."""
    code = f"[{printable(error.code, 40)}]" if error.code else ""
    notes = "".join(f"\n  {printable(note)}" for note in getattr(error, "__notes__", []))
    print(f"error{code}: {error}{notes}", file=sys.stderr)


MEANING = {
    "spiking": "spiking as is",
    "rewrite": "spiking after a rewrite",
    "host": "on the host",
    "unsupported": "not supported",
}


def show_check(found: Check, target: str | None) -> None:
    """A table of nodes, limits, and a line that sums it up."""
    console = out()
    table = _table("node", "op", "becomes", "how, or why not")
    for f in found.findings:
        code = f"[{f.code}] " if f.code else ""
        text = code + f.why + (f"\n  try: {f.hint}" if f.hint else "")
        table.add_row(printable(f.node, 60), printable(f.op, 40), MEANING[f.status], printable(text, 2000))
    console.print(table)
    console.print()
    for note in found.notes:
        console.print(f"note   {printable(note)}")
    for limit in found.limits:
        mark = "ok" if limit.ok else ("BROKEN" if limit.wall else "over")
        at = f" at {printable(limit.layer, 80)}" if limit.layer else ""
        note = f"; {printable(limit.note)}" if limit.note else ""
        console.print(f"{mark:6} {limit.limit}{at}: {limit.value:g} of {limit.allowed:g}{note}")
    if found.unchecked:
        console.print(f"unchecked on the real chip: {', '.join(found.unchecked)}")
    counts = {status: sum(f.status == status for f in found.findings) for status in MEANING}
    console.print(", ".join(f"{count} {MEANING[status]}" for status, count in counts.items() if count))
    console.print(("can be compiled" if found.ok else "cannot be compiled") + (f" for {target}" if target else ""))


def show_inspection(found: Inspection) -> None:
    """The header, then one row a node."""
    console = out()
    spiking = found.stage != "analog"
    for word, values in (("input", found.inputs), ("output", found.outputs)):
        for name, shape in values.items():
            console.print(f"{word:7}{printable(name, 80)} {list(shape)}")
    unit = "connections" if spiking else "MACs per sample"
    time_ = f", {found.neurons:,} neurons, {found.steps} time steps" if spiking else ""
    console.print(
        f"{found.stage}: {len(found.nodes)} nodes, {found.params:,} parameters, {found.macs:,} {unit}{time_}\n"
    )
    table = _table("node", "op", "attributes", "reads", "makes", "params", "connections" if spiking else "MACs", "from")
    for column in (5, 6):
        table.columns[column].justify = "right"
    for row in found.nodes:
        made = f"{'' if row.kind == 'analog' else row.kind + ' '}[{','.join(map(str, row.shape))}]"
        table.add_row(
            printable(row.name, 60), row.op, printable(_attributes(row), 200), printable(", ".join(row.inputs), 200),
            made, f"{row.params:,}" if row.params else "", f"{row.macs:,}" if row.macs else "",
            printable(", ".join(row.origin), 200),
        )  # fmt: skip
    console.print(table)


USUAL = {"strides": {1}, "dilations": {1}, "pads": {0}, "interior": {0}, "starts": {0}, "steps": {1}}
"""Attributes that say nothing where all their numbers are these."""


def _attributes(row: NodeRow) -> str:
    """Attributes as `name=value`, without those that say nothing and shapes that stand beside; long lists are cut."""
    shown = [f"kernel={_times(row.arrays['weight'][-2:])}"] if row.op in ("conv", "local") else []
    for name, value in row.attrs.items():
        values = value if isinstance(value, tuple) else (value,)
        usual = (name in USUAL and set(values) <= USUAL[name]) or (name == "group" and value == 1)
        if usual or name in ("shape", "sizes"):
            continue
        if name in ("kernel", "strides", "dilations"):
            shown.append(f"{name}={_times(values)}")
        else:
            numbers = [format(v, "g") if isinstance(v, float) else str(v) for v in values]
            shown.append(f"{name}={','.join(numbers[:8])}" + (",..." if len(numbers) > 8 else ""))
    return " ".join(shown)


def _times(values: Iterable[object]) -> str:
    return "x".join(map(str, values))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    return table

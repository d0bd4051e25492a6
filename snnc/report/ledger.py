"""The ledger of a compile: one row a step, so that every lost point has a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """What one step did.

    Attributes:
        step: the pass or trainer as text, or what was measured.
        accuracy: share of right answers on `split`, 0 to 1; None where nothing was judged.
        split: `validation` while anything may still be chosen, `test` for final figures.
        error: by layer, ||snn - teacher|| / ||teacher|| of the activations (decoded: count * theta).
        causes: by layer of neurons, the share of every cause in the square of that error, the layer's own main cause
            first; they sum to 1, and are negative where a cause makes up for others. Empty where none were measured.
        notes: what the step declined to do and why, and other measured figures.
        changed: whether the graph changed.
        seconds: wall time; the only field that differs between two equal compiles.
    """

    step: str
    accuracy: float | None = None
    split: str = "validation"
    stage: str = ""
    nodes: int = 0
    error: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    changed: bool = True
    seconds: float = 0.0
    causes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def worst(self) -> tuple[str, float, str] | None:
        """The layer with the largest error against the teacher, that error, and its main cause (empty: unknown)."""
        if not self.error:
            return None
        name = max(self.error, key=lambda layer: self.error[layer])
        return name, self.error[name], next(iter(self.causes.get(name, ())), "")

    def to_json(self, *, timed: bool = True) -> dict[str, Any]:
        """Plain data; without `timed` the same for every run of the same command."""
        made: dict[str, Any] = {
            "step": self.step,
            "accuracy": None if self.accuracy is None else round(self.accuracy, 6),
            "split": self.split,
            "stage": self.stage,
            "nodes": self.nodes,
            "error": _rounded(self.error),
            "causes": {name: {c: s for c, s in _rounded(shares).items() if s} for name, shares in self.causes.items()},
            "worst": None if self.worst is None else _worst_json(*self.worst),
            "notes": list(self.notes),
            "changed": self.changed,
        }
        return {**made, "seconds": round(self.seconds, 3)} if timed else made


@dataclass
class Ledger:
    """Rows in the order in which things happened."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)

    def __getitem__(self, step: str) -> Row:
        for row in self.rows:
            if row.step.split("{")[0] == step:
                return row
        raise KeyError(f"no step is named '{step}': {', '.join(row.step for row in self.rows) or 'no rows'}")

    def to_json(self, *, timed: bool = True) -> list[dict[str, Any]]:
        """One dict a row."""
        return [row.to_json(timed=timed) for row in self.rows]

    def __str__(self) -> str:
        shown = [row for row in self.rows if row.changed or row.notes]
        wide = max((len(row.step) for row in shown), default=4)
        lines = [f"{'step':{wide}}  accuracy  change  seconds  largest layer error, main cause"]
        before: dict[str, float] = {}
        part = ""
        for row in shown:
            if row.accuracy is not None and row.split != part:
                part = row.split
                lines.append(f"-- on the {part} samples")
            cells = f"{percent(row.accuracy):>8}  {change(row, before):>6}  {row.seconds:7.1f}  {worst(row)}"
            lines.append(f"{row.step:{wide}}  {cells}".rstrip())
            lines += [f"    {note}" for note in row.notes]
        if idle := [row.step for row in self.rows if row not in shown]:
            lines.append(f"nothing to do: {', '.join(idle)}")
        return "\n".join(lines)


def percent(share: float | None) -> str:
    """0.9731 -> `97.31 %`."""
    return "" if share is None else f"{100 * share:.2f} %"


def change(row: Row, before: dict[str, float]) -> str:
    """Points gained or lost against the last row of the same split; remembers this row in `before`."""
    if row.accuracy is None:
        return ""
    if not row.changed:
        return "same"
    last = before.get(row.split)
    before[row.split] = row.accuracy
    return "" if last is None else f"{100 * (row.accuracy - last):+.2f}"


def worst(row: Row) -> str:
    """The layer with the largest error against the teacher, and its main cause: `relu3 26.4 % pruned fan-in`."""
    if row.worst is None:
        return ""
    name, error, cause = row.worst
    return f"{name} {100 * error:.1f} % {cause}".rstrip()


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _worst_json(layer: str, error: float, cause: str) -> dict[str, Any]:
    return {"layer": layer, "error": round(error, 4), "cause": cause or None}

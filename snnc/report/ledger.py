"""The ledger of a compile: one row a step, so that every lost point has a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from snnc.score import ACCURACY, Score


@dataclass(frozen=True)
class Row:
    """What one step did.

    Attributes:
        step: the pass or trainer as text, or what was measured.
        value: the score on `split`; None where nothing was judged.
        score: what `value` is: by default the share of right answers, 0 to 1.
        split: `validation` while anything may still be chosen, `test` for final figures.
        error: by layer, ||snn - teacher|| / ||teacher|| of the activations (decoded: count * theta).
        causes: by layer of neurons, the share of every cause in the square of that error, the layer's own main cause
            first; they sum to 1, and are negative where a cause makes up for others. Empty where none were measured.
        notes: what the step declined to do and why, and other measured figures.
        changed: whether the graph changed.
        seconds: wall time; the only field that differs between two equal compiles.
    """

    step: str
    value: float | None = None
    split: str = "validation"
    stage: str = ""
    nodes: int = 0
    error: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    changed: bool = True
    seconds: float = 0.0
    causes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    score: Score = ACCURACY

    @property
    def accuracy(self) -> float | None:
        """The score, where it is the share of right answers."""
        return self.value if self.score is ACCURACY else None

    @property
    def figure(self) -> str:
        """The score as a table has it."""
        return "" if self.value is None else self.score.text(self.value)

    @property
    def worst(self) -> tuple[str, float, str] | None:
        """The layer with the largest error against the teacher, that error, and its main cause (empty: unknown)."""
        if not self.error:
            return None
        name = max(self.error, key=lambda layer: self.error[layer])
        return name, self.error[name], next(iter(self.causes.get(name, ())), "")

    def to_json(self, *, timed: bool = True) -> dict[str, Any]:
        """Plain data; without `timed` the same for every run of the same command.

        Where the score is no accuracy, that is None, and `score` has name and value.
        """
        value = None if self.value is None else self.score.rounded(self.value)
        made: dict[str, Any] = {
            "step": self.step,
            "accuracy": value if self.score is ACCURACY else None,
            "split": self.split,
            "stage": self.stage,
            "nodes": self.nodes,
            "error": _rounded(self.error),
            "causes": {name: {c: s for c, s in _rounded(shares).items() if s} for name, shares in self.causes.items()},
            "worst": None if self.worst is None else _worst_json(*self.worst),
            "notes": list(self.notes),
            "changed": self.changed,
        }
        if self.score is not ACCURACY:
            made["score"] = {"name": self.score.name, "value": value}
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

    @property
    def score(self) -> Score:
        """What its rows were judged by."""
        return next((row.score for row in self.rows if row.value is not None), ACCURACY)

    def to_json(self, *, timed: bool = True) -> list[dict[str, Any]]:
        """One dict a row."""
        return [row.to_json(timed=timed) for row in self.rows]

    def __str__(self) -> str:
        shown = [row for row in self.rows if row.changed or row.notes]
        before: dict[str, float] = {}
        changes = [change(row, before) for row in shown]
        wide = max((len(row.step) for row in shown), default=4)
        first = max([8, len(self.score.name), *(len(row.figure) for row in shown)])
        second = max([6, *map(len, changes)])
        heads = f"{self.score.name:>{first}}  {'change':>{second}}  seconds  largest layer error, main cause"
        lines = [f"{'step':{wide}}  {heads}"]
        part = ""
        for row, moved in zip(shown, changes, strict=True):
            if row.value is not None and row.split != part:
                part = row.split
                lines.append(f"-- on the {part} samples")
            cells = f"{row.figure:>{first}}  {moved:>{second}}  {row.seconds:7.1f}  {worst(row)}"
            lines.append(f"{row.step:{wide}}  {cells}".rstrip())
            lines += [f"    {note}" for note in row.notes]
        if idle := [row.step for row in self.rows if row not in shown]:
            lines.append(f"nothing to do: {', '.join(idle)}")
        return "\n".join(lines)


def percent(share: float | None) -> str:
    """0.9731 -> `97.31 %`."""
    return "" if share is None else ACCURACY.text(share)


def change(row: Row, before: dict[str, float]) -> str:
    """What was gained or lost against the last row of the same split; remembers this row in `before`."""
    if row.value is None:
        return ""
    if not row.changed:
        return "same"
    last = before.get(row.split)
    before[row.split] = row.value
    return "" if last is None else row.score.change(row.value, last)


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

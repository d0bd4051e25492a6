"""What a diagnosis found: plain data, by layer and for the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snnc.score import ACCURACY, Score

from .advice import Setting
from .twins import Cause

READOUT = "read-out weights"
"""What a gain may be of besides a cause: the weights behind the last neurons."""
NEGLIGIBLE = 5e-3
"""Errors below this share of the teacher's norm, and causes below this share of an error, are none."""


@dataclass(frozen=True)
class Row:
    """The error of one layer of neurons.

    Attributes:
        origin: the user's own nodes.
        taught: the teacher has the layer; if not, it is held against its own function on ideal input.
        error: ||a - y|| / ||y|| of the activations over all samples (||a|| where y is 0).
        own: the same without what the layers before hand on wrongly.
        shares: of each cause in the squared error; they sum to 1 (all 0 where there is no error).
        silent: share of the teacher's activations, by value, that are answered by no spike at all.
        dead: channels that never spike, and should.
        after: the error were a cause off (by its name), or a setting changed (`setting-steps`, twice T;
            `setting-percentile`, 100).
        bits, fan_in: the limits on the layer's weights, where it has them.
    """

    name: str
    origin: tuple[str, ...]
    taught: bool
    error: float
    own: float
    shares: Mapping[Cause, float]
    silent: float
    dead: tuple[int, ...]
    after: Mapping[str, float]
    bits: int | None
    fan_in: int | None

    @property
    def causes(self) -> list[Cause]:
        """The layer's own causes, largest share first; none where its own error is negligible."""
        own = [c for c in self.shares if c is not Cause.INHERITED and self.shares[c] > NEGLIGIBLE]
        return sorted(own, key=lambda cause: -self.shares[cause]) if self.own > NEGLIGIBLE else []

    @property
    def split(self) -> dict[str, float]:
        """The shares that are not 0: first `causes`, then what is inherited, then the others; none of no error."""
        order = dict.fromkeys([*self.causes, Cause.INHERITED, *Cause]) if self.error > NEGLIGIBLE else ()
        return {cause.value: self.shares[cause] for cause in order if self.shares[cause]}


@dataclass(frozen=True)
class Gain:
    """What comes back at the output when something is off.

    Attributes:
        what: the cause, or `READOUT` for the weights behind the last neurons.
        layer: None: in all layers.
        value: of the score, what changes: with accuracy the share of samples answered right again.
        error: of ||output - teacher's|| / ||teacher's||, that comes back; both read out with the teacher's weights.
    """

    what: str
    layer: str | None
    value: float
    error: float


@dataclass(frozen=True)
class Diagnosis:
    """Where a spiking network loses against its teacher, and why.

    Attributes:
        labelled: scores are of the labels; if not, of the teacher's own answers.
        teacher, network: the score of each.
        output_error: ||output - teacher's|| / ||teacher's||, read out with the teacher's weights.
        gains: for every cause that occurs, off alone in all layers; the one that brings most first.
        in_turn: the same in that order, each with those before it off too.
        single: off alone in one layer, for the largest pairs of layer and cause.
        remainder: the teacher's score less the network's and the sum of `in_turn`; `remaining_error` the same of the
            output's error.
        worst: the layer where one cause costs the output most; None where no layer has an error of its own.
        cause: that cause.
        advice: for the worst layer, the setting that would buy most back first.
    """

    steps: int
    samples: int
    labelled: bool
    teacher: float
    network: float
    output_error: float
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    in_turn: tuple[Gain, ...]
    single: tuple[Gain, ...]
    remainder: float
    remaining_error: float
    worst: str | None
    cause: Cause | None
    advice: tuple[Setting, ...]
    score: Score = ACCURACY

    def __getitem__(self, layer: str) -> Row:
        for row in self.rows:
            if row.name == layer:
                return row
        raise KeyError(layer)

    @property
    def summary(self) -> str:
        """The worst layer, its nodes in the user's model, its main cause and what to try, in one line.

        The setting that buys most back may be one against another cause: then it says which.
        """
        if self.worst is None or self.cause is None:
            return "no layer has an error of its own that is worth a word"
        origin = self[self.worst].origin
        names = ", ".join(f"'{name}'" for name in origin)
        nodes = f" (model node{'s' if len(origin) > 1 else ''} {names})" if origin else ""
        if not self.advice:
            return f"{self.worst}{nodes}: {self.cause}"
        best = self.advice[0]
        against = "" if best.cause is self.cause else f"against {best.cause} "
        return f"{self.worst}{nodes}: {self.cause}; {against}try {best.text}"

    def to_json(self) -> dict[str, object]:
        """Plain data; where outputs are not judged by accuracy, that is None, and `score` has the figures."""
        is_share = self.score is ACCURACY
        remainder = _plain(self.remainder) if is_share else self.remainder
        figures = {"teacher": self.teacher, "network": self.network, "remainder": remainder}
        return {
            "summary": self.summary,
            "steps": self.steps,
            "samples": self.samples,
            "judged_by": "labels" if self.labelled else "teacher",
            "accuracy": figures if is_share else None,
            **({} if is_share else {"score": {"name": self.score.name, **figures}}),
            "output_error": {"network": _plain(self.output_error), "remainder": _plain(self.remaining_error)},
            "layers": [_row_json(row) for row in self.rows],
            "gains": [_gain_json(gain, is_share) for gain in self.gains],
            "gains_in_turn": [_gain_json(gain, is_share) for gain in self.in_turn],
            "gains_in_one_layer": [_gain_json(gain, is_share) for gain in self.single],
            "worst": self.worst,
            "from": [] if self.worst is None else list(self[self.worst].origin),
            "cause": self.cause,
            "advice": [
                {
                    "try": s.text,
                    "cause": s.cause.value,
                    "about": s.about,
                    "error": _plain(s.before),
                    "after": _plain(s.after),
                    "exact": s.exact,
                    "output_error": _plain(s.gain),
                }
                for s in self.advice
            ],
        }


@dataclass(frozen=True)
class Unexplained:
    """In the place of a diagnosis: why there is none."""

    why: str
    hint: str = ""

    @property
    def summary(self) -> str:
        """One line."""
        return f"not measured, {self.why}" + (f"; {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"summary": self.summary, "refused": self.why, "try": self.hint}


def _plain(value: float) -> float:
    return round(value, 6)


def _row_json(row: Row) -> dict[str, object]:
    return {
        "layer": row.name,
        "from": list(row.origin),
        "taught": row.taught,
        "error": _plain(row.error),
        "own": _plain(row.own),
        "shares": {str(cause): _plain(share) for cause, share in row.shares.items()},
        "silent": _plain(row.silent),
        "dead": list(row.dead),
        "after": {name: _plain(value) for name, value in row.after.items()},
        "bits": row.bits,
        "fan_in": row.fan_in,
    }


def _gain_json(gain: Gain, is_share: bool) -> dict[str, object]:
    made = {"off": gain.what, "layer": gain.layer, "accuracy": _plain(gain.value) if is_share else None}
    return {**made, **({} if is_share else {"score": gain.value}), "output_error": _plain(gain.error)}

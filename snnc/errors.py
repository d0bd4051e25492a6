"""Every error that snnc raises on purpose: what is wrong, at which node, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self


def printable(text: str, limit: int = 1024) -> str:
    """`text` without control characters and cut to `limit`: names from files never reach a terminal raw."""
    clean = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return clean if len(clean) <= limit else clean[:limit] + f"... ({len(clean) - limit} more characters)"


class SnncError(Exception):
    """Base of all errors that a user's input can cause; the command line ends with exit code 2.

    Args:
        message: what is wrong, with the values that make it so.
        at: the place: node, and the node of the user's own model it came from.
        hint: what to try.
        problems: when several things of one kind are wrong, each of them.
        code: a short stable word for the kind of mistake, for programs that read `--json`.
    """

    def __init__(
        self, message: str, *, at: str = "", hint: str = "", problems: Sequence[SnncError] = (), code: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.at, self.hint, self.problems, self.code = message, at, hint, tuple(problems), code

    @classmethod
    def gather(cls, message: str, problems: Sequence[SnncError], *, hint: str = "") -> Self:
        """One error that lists all `problems`; a single problem of the same class is given back as it is."""
        if len(problems) == 1 and isinstance(problems[0], cls) and not hint:
            return problems[0]
        return cls(message, hint=hint, problems=problems)

    def __str__(self) -> str:
        lines = [printable(self.message, 4096)]
        for problem in self.problems:
            lines += ["  - " + str(problem).replace("\n", "\n    ")]
        if self.at:
            lines.append(f"  at: {printable(self.at)}")
        if self.hint:
            lines.append(f"  try: {printable(self.hint, 4096)}")
        return "\n".join(lines)


class GraphError(SnncError):
    """A graph breaks one of its invariants, or its text form cannot be read."""


class ModelError(SnncError):
    """A model file cannot be imported."""


class DataError(SnncError):
    """A data file cannot be read, or does not fit the model."""


class PipelineError(SnncError):
    """Passes, trainers or targets are unknown, misconfigured or in an impossible order."""


class TargetError(SnncError):
    """A graph does not fit the chip."""


class CheckpointError(SnncError):
    """A checkpoint of a training is damaged, of another training, or cannot be written."""


class ArtifactError(SnncError):
    """An artifact is missing, damaged or was tampered with."""

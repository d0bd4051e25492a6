"""The numbers of every relation and seed in a JSON file: an hour of measuring can be interrupted, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .relation import Numbers


@dataclass(frozen=True)
class Kept:
    """Numbers by relation and seed, in memory and in a file if there is one.

    Attributes:
        settings: what they depend on besides the code; a file of others is refused.

    Raises:
        ValueError: the file's settings are others.
    """

    settings: Mapping[str, int]
    path: Path | None = None
    numbers: dict[str, dict[str, Numbers]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        found = json.loads(self.path.read_text())
        if found["settings"] != dict(self.settings):
            raise ValueError(f"{self.path} was measured with {found['settings']}, not with {dict(self.settings)}")
        self.numbers.update(found["numbers"])

    def has(self, relation: str, seed: int) -> bool:
        """Whether a relation was measured with a seed."""
        return str(seed) in self.numbers.get(relation, {})

    def add(self, relation: str, seed: int, numbers: Numbers) -> None:
        """What was measured; the file is written at once."""
        self.numbers.setdefault(relation, {})[str(seed)] = dict(numbers)
        if self.path is not None:
            text = json.dumps({"settings": dict(self.settings), "numbers": self.numbers}, indent=1)
            made = self.path.with_suffix(".new")
            made.write_text(text)
            made.replace(self.path)

    def of(self, relation: str, seeds: int) -> list[Numbers]:
        """The numbers of the first seeds, as far as they were measured, in the order of the seeds."""
        found = self.numbers.get(relation, {})
        return [found[str(seed)] for seed in range(seeds) if str(seed) in found]

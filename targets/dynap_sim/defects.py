"""The defective CAM words that a lab has found: lines `chip,core,neuron,word`, chip being the device's seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snnc.errors import PipelineError
from snnc.ir import Array

from .mismatch import GRID

LARGEST = 2**20
"""Bytes of a list that are read at most."""


@dataclass(frozen=True)
class DefectMap:
    """Words that never conduct.

    Attributes:
        words: (chip, core, neuron, word), each from 0.
    """

    words: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def read(cls, path: str) -> DefectMap:
        """From a file.

        Raises:
            PipelineError: it cannot be read, or lists all lines that name no word.
        """
        try:
            with Path(path).open("rb") as file:
                text = file.read(LARGEST + 1)
        except OSError as error:
            raise PipelineError(f"the list of defects cannot be read: {error.strerror}", at=path) from None
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: bytes, at: str) -> DefectMap:
        """From the bytes of a file; blank lines and what follows a # say nothing."""
        if len(text) > LARGEST:
            raise PipelineError(f"the list of defects is larger than {LARGEST} bytes", at=at)
        found, wrong = [], []
        for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
            if said := line.partition("#")[0].strip():
                parts = [part.strip() for part in said.split(",")]
                fine = len(parts) == 4 and all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)
                if fine and int(parts[2]) < GRID**2:
                    found.append((int(parts[0]), int(parts[1]), int(parts[2]), int(parts[3])))
                else:
                    wrong.append(PipelineError(f"line {number} is '{said[:40]}'"))
        if wrong:
            why = f"the list of defects has lines that are no chip,core,neuron,word (neuron below {GRID**2})"
            raise PipelineError(why, at=at, problems=wrong[:20])
        return cls(tuple(found))

    def to_bytes(self) -> bytes:
        """What `parse` reads."""
        return "".join(",".join(map(str, word)) + "\n" for word in self.words).encode()

    def of(self, seed: int) -> Array:
        """Core, neuron and word of this chip's defects, [n, 3]."""
        return np.array([word[1:] for word in self.words if word[0] == seed], np.int64).reshape(-1, 3)

    def __str__(self) -> str:
        return f"{len(self.words)} words"

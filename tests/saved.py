"""What autograd keeps for the way back, counted by torch's own hooks: the same on every machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch


def most_saved(run: Callable[[], object]) -> int:
    """The largest number of bytes that are kept for backward passes at any moment of `run`, each storage once."""
    held: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    most = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal most
            self.tensor, storage = tensor.detach(), tensor.untyped_storage()
            self.place = storage.data_ptr()
            held[self.place] += 1
            sizes[self.place] = storage.nbytes()
            most = max(most, sum(sizes[place] for place, count in held.items() if count))

        def __del__(self) -> None:
            held[self.place] -= 1

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return most

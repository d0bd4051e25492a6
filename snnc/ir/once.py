"""What follows from a graph alone is found once: a graph never changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from .graph import Graph

Fact = TypeVar("Fact")


def once(find: Callable[[Graph], Fact]) -> Callable[[Graph], Fact]:
    """`find`, which remembers what it found for as long as the graph lives; that must not refer to the graph."""
    known: WeakKeyDictionary[Graph, Fact] = WeakKeyDictionary()

    @functools.wraps(find)
    def found(graph: Graph) -> Fact:
        if (fact := known.get(graph)) is None:
            fact = known[graph] = find(graph)
        return fact

    return found

"""The smallest T, percentile and bits whose drop of accuracy is within a budget, found on the validation samples.

    drop(T, percentile, bits) = accuracy(ANN) - accuracy(SNN)

The SNN is the graph that the recipe's passes make up to its first trainer: conversion decides, training only adds. The
test part never chooses: a search cannot see it.

1. T, with the recipe's percentile and bits: double it from the low end of the range until the drop is within the
   budget, then halve the interval between the last T that was not and the first that was. Accuracy is not quite
   monotone in T: of the T found the two below are tried as well, until both fail.
2. Each of the other `PERCENTILES`, where it keeps the budget at T - 1: step 1 again, below T.
3. Bits, downwards from the recipe's as long as the budget is kept.

A candidate is judged on a growing part of the samples until the budget is settled (`sequential`), so that one far
off costs 64 samples. What is chosen was judged on all of them.
"""

from .find import Search, search, smallest
from .judge import Trial
from .options import Choice, Goal, planned

__all__ = ["Choice", "Goal", "Search", "Trial", "planned", "search", "smallest"]

"""400 random models: the import computes what two independent oracles compute, and exact passes change nothing.

`python benchmarks/random_models.py` does the same over more.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings

from tests.importer.grammar import Sample, models
from tests.importer.oracles import Tally, examine

COUNT = 400
TALLY = Tally()


@settings(
    max_examples=COUNT,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(sample=models())
def examine_many(sample: Sample) -> None:
    """Every model that hypothesis draws, shrunk where one fails."""
    examine(sample, TALLY)


def test_random_models_are_imported_right_and_exact_passes_change_nothing() -> None:
    examine_many()
    assert TALLY.models >= COUNT
    assert not TALLY.refused, str(TALLY)
    assert sum(TALLY.aside.values()) <= COUNT // 50, str(TALLY)
    assert len(TALLY.ops) >= 40
    assert min(TALLY.ops.values()) >= 1
    assert TALLY.equal - TALLY.one_oracle >= COUNT // 2, str(TALLY)

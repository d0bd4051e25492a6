"""Random models through the import and every exact pass, against two oracles (see tests/importer/oracles.py).

    python benchmarks/random_models.py [N] [--seed 0]

N models, 1,000 by default; prints what became of them, and the smallest model of every kind of failure. Ends with 1
if anything mismatches or crashes.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.importer.grammar import Sample, models
from tests.importer.oracles import Tally, examine


def main() -> int:
    """Examine, count, and tell the smallest failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    tally, failures = Tally(), {}

    @seed(chosen.seed)
    @settings(
        max_examples=chosen.count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def many(sample: Sample) -> None:
        try:
            examine(sample, tally)
        except Exception as error:  # the kinds of failure are what is looked for here
            text = re.sub(r"[\d.]+(e-\d+)?", "0", str(error).splitlines()[0])
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(place.filename).name}, {place.name}: {text}"
            found = failures.setdefault(kind, [])
            found.append((len(sample.model.graph.node), repr(sample), str(error)))

    many()
    print(tally)
    print(f"{sum(map(len, failures.values())):>6} mismatches or crashes")
    for kind, found in failures.items():
        _, model, text = min(found)
        print(f"       {len(found):>6}  {kind}\n{text}\n{model}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

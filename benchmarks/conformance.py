"""ONNX's backend tests over the imported graph: how many are equal, wrong, refused, crashed.

    python benchmarks/conformance.py [--refused] [--list]

Every node test that onnx brings is read with its first axis as the batch and as one whole sample (see
tests/importer/conformance.py, which this prints). Ends with 1 if anything is wrong or crashed. `--refused` prints
what is refused of all node tests, by reason; `--list` writes tests/importer/refused.txt anew.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.importer import conformance


def main() -> int:
    """Print the table, then whatever is wrong or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refused", action="store_true", help="print what is refused of all node tests, by reason")
    parser.add_argument("--list", action="store_true", help="write tests/importer/refused.txt anew")
    given = parser.parse_args()
    print(conformance.table())
    found = [o for name in conformance.SCOPES for o in conformance.outcomes(conformance.scope(name))]
    bad = {o.case.name: f"{o.verdict}: {o.case.name}: {o.why}" for o in found if o.verdict in ("wrong", "crashed")}
    print("\n".join(bad.values()), end="\n" if bad else "")
    if given.refused:
        refused = {o.case.name: conformance.reason(o) for o in found if o.verdict == "refused"}
        for reason, count in Counter(refused.values()).most_common():
            print(f"{count:>5}  {reason}")
    if given.list:
        conformance.list_refusals()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

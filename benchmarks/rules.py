"""The relations that the papers of the learning rules found, measured at small scale: paper, ours, verdict.

    python benchmarks/rules.py [--relations L1 T2 ...] [--seeds 3] [--samples 2000] [--test 2000] [--vgg11]
                               [--keep FILE [--only-kept]]

Needs SNNC_DATA (MNIST, Fashion-MNIST, CIFAR-10; --vgg11: SNNC_MODELS, too). The networks are those of
benchmarks/relations/networks.py, trained here in seconds; their teachers are the same for all seeds, which vary the
students' start, order and chance. The validation part chooses the epoch of every training; the test part is looked at
once, at the end of each. A relation holds when the means over the seeds meet the bounds; "within the spread" says that
one standard deviation would change that. Progress goes to standard error, the table (Markdown) to standard output.
`--keep` stores numbers seed by seed in a file and goes on from it; delete the file when the code has changed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.relations import autoencoder, ltl, noise, ptl, sltt, tandem, vgg11
from benchmarks.relations.kept import Kept
from benchmarks.relations.relation import Finding, NotRunError, Relation
from benchmarks.relations.study import Study, tell


def _in_order(*relations: Relation) -> list[Relation]:
    """By their names."""
    return sorted(relations, key=lambda relation: relation.name)


TABLE: tuple[Relation, ...] = (
    *_in_order(*ltl.RELATIONS, *noise.RELATIONS),
    *tandem.RELATIONS,
    *_in_order(*ptl.RELATIONS, *autoencoder.RELATIONS),
    *sltt.RELATIONS,
)
HEADER = "| relation | paper | wanted | ours | seeds | verdict |\n| --- | --- | --- | --- | --- | --- |"


def find(relations: Sequence[Relation], study: Study, seeds: int, kept: Kept) -> list[Finding]:
    """Measure relations with every seed, all with the first one first; what was kept is not measured again."""
    refused: dict[str, str] = {}
    for seed in range(seeds):
        for relation in relations:
            if relation.name in refused or kept.has(relation.name, seed):
                continue
            start = time.perf_counter()
            try:
                kept.add(relation.name, seed, relation.measure(study, seed))
            except NotRunError as reason:
                refused[relation.name] = str(reason)
            tell(f"{relation.name}, seed {seed}", start)
    return known(relations, seeds, kept, refused)


def known(
    relations: Sequence[Relation], seeds: int, kept: Kept, refused: dict[str, str] | None = None
) -> list[Finding]:
    """What was kept of relations; `refused`: why some cannot be measured."""
    reasons = refused or {}
    numbers = {relation: kept.of(relation.name, seeds) for relation in relations}
    return [Finding(r, found, "" if found else reasons.get(r.name, "not yet")) for r, found in numbers.items()]


def row(finding: Finding) -> str:
    """One line of the table."""
    relation = finding.relation
    claim = f"**{relation.name}** {relation.claim}" + (f" ({relation.remark})" if relation.remark else "")
    wanted = "; ".join(map(str, relation.bounds)) or "report"
    count = len(finding.numbers)
    return f"| {claim} | {relation.paper} | {wanted} | {finding.ours} | {count} | {finding.verdict} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    table = {relation.name: relation for relation in (*TABLE, *vgg11.RELATIONS)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relations", nargs="*", choices=list(table), metavar="NAME", help=f"of {', '.join(table)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2000, help="training images, a tenth of them for validation")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--vgg11", action="store_true", help="the rows of the half-width VGG-11, too: slow")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="store numbers here, and go on from them")
    parser.add_argument("--only-kept", action="store_true", help="print what is kept, and measure nothing")
    given = parser.parse_args(arguments)
    folder = os.environ.get("SNNC_DATA")
    if folder is None:
        sys.exit("set SNNC_DATA to the folder of the data")
    names = given.relations or [r.name for r in (*TABLE, *(vgg11.RELATIONS if given.vgg11 else ()))]
    chosen, study = [table[name] for name in names], Study(Path(folder), given.samples, given.test)
    try:
        kept = Kept({"samples": given.samples, "test": given.test}, given.keep)
    except ValueError as error:
        sys.exit(str(error))
    found = known(chosen, given.seeds, kept) if given.only_kept else find(chosen, study, given.seeds, kept)
    print("\n".join((HEADER, *map(row, found))))


if __name__ == "__main__":
    main()

"""Conversion without training beside the converters of others: SpikingJelly's ann2snn and Sinabs' from_model.

    python benchmarks/peers.py [--steps 4 8 16 32] [--images 1000] [--models NAME ...]

Needs SNNC_MODELS, SNNC_DATA and both peers (pip install ".[peers]"). Every network of benchmarks/conversion.py goes to
the peers as a torch module with the same scores (benchmarks/twin.py). All calibrate on the same 1,000 training images,
are judged on the same first `--images` test images, and see the same T steps of the image itself as constant current;
the scores of a peer are the outputs of its last layer, summed over the steps.

    percentile, refined   snnc, as in benchmarks/conversion.py
    SJ layer              RateCodingRecipe(mode="99.9%"): one threshold per layer
    SJ channel, SJ 99%    RateCodingRecipe per channel, start at half the threshold, max pools before neurons, as in
                          SpikingJelly's own ImageNet example: the 99.9 and the 99 percentile
    SJ LTB                LocalThresholdBalancingRecipe (Bu et al., 2024), SpikingJelly's best on ImageNet
    Si plain*             from_model of the network as it is
    Si norm*              from_model after normalize_weights, Sinabs' own scaling by percentiles
    Si channel, Si pool   from_model with SingleSpike of a network scaled here to the 99 percentile of every channel:
                          more than Sinabs does by itself; and with max pools before neurons
    Si chan.*, Si pool*   the same with MultiSpike

Where estimate_delay_start of SpikingJelly has the sum begin later, the better of both is shown, marked "w"; the steps
that it waits are among the T. A star: neurons may fire several spikes in one step (MultiSpike, Sinabs' default), which
those of the other columns cannot; the summary counts with and without them. The best peer of a cell is the best on the
test images themselves, which favours the peers. "By chance" is a difference within 1.96 standard errors of images that
only one of both knows (McNemar's test).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import snnc
from benchmarks.conversion import CALIBRATION, MODELS, OUTPUTS, PLAIN, REFINED, arrays
from benchmarks.converters import BATCH, PEERS, Case, Converted
from snnc.data import Data, Split
from snnc.ir import Array

CHANCE = 1.96
"""Standard errors that chance alone seldom (5 %) goes beyond."""
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError)
"""What the peers raise where they cannot take a network."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One network at one T.

    Attributes:
        right: by column, which test images it knows, bool [N].
        marks: by column, how its read-out was chosen.
    """

    name: str
    steps: int
    right: Mapping[str, Array]
    marks: Mapping[str, str]

    def best(self, stars: bool) -> str:
        """The column of the best peer; `stars`: those of many spikes a step count."""
        rivals = [column for column in PEERS if column in self.right and (stars or not column.endswith("*"))]
        return max(rivals, key=lambda column: float(self.right[column].mean()))

    def behind(self, stars: bool) -> tuple[float, bool]:
        """By how many points `refined` is below the best peer, and whether that is more than chance."""
        ours, theirs = self.right["refined"], self.right[self.best(stars)]
        lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
        return 100 * (lost - won) / len(ours), lost - won > CHANCE * math.sqrt(lost + won)

    def row(self, columns: Sequence[str]) -> str:
        """The line of the table: accuracies in percent."""
        shown = [
            f"{100 * self.right[c].mean():9.2f}{self.marks.get(c) or ' '}" if c in self.right else f"{'refused':>9} "
            for c in columns
        ]
        return f"{self.name:32} {self.steps:2} " + " ".join(shown)


def by_step(net: Converted, x: Tensor, steps: int) -> Tensor:
    """Scores [T, N, classes] of every step, x [N, ...] as constant current."""
    made = []
    with torch.inference_mode():
        for batch in x.split(BATCH):
            net.reset()
            made.append(torch.stack([net.step(batch) for _ in range(steps)]))
    return torch.cat(made, 1)


def readouts(scores: Tensor, net: Converted, steps: int) -> Iterator[tuple[str, Array]]:
    """Scores [N, classes] of the first T steps: of all, marked "", and of those that are left after the wait, "w"."""
    yield "", scores[:steps].sum(0).numpy()
    if wait := net.wait(steps):
        yield "w", scores[wait:steps].sum(0).numpy()


def cells(case: Case, steps: Sequence[int]) -> Iterator[Cell]:
    """One cell for every T; why a peer refuses goes to standard error."""
    made: dict[str, tuple[Converted, Tensor]] = {}
    x = case.samples.test.x()
    for column, convert in PEERS.items():
        try:
            net = convert(case)
            made[column] = net, by_step(net, torch.from_numpy(x), max(steps))
        except REFUSALS as error:
            print(f"{case.name}: {column} refused: {error}", file=sys.stderr, flush=True)
    if not made:
        return
    for count in steps:
        right = {"ANN": case.right(case.graph)}
        for column, recipe in (("percentile", PLAIN), ("refined", REFINED)):
            snn, _ = snnc.Pipeline.parse(recipe.format(steps=count))(case.graph, data=case.samples)
            right[column] = case.right(snn)
        marks = {}
        for column, (net, scores) in made.items():
            found = {mark: case.known(array) for mark, array in readouts(scores, net, count)}
            marks[column] = max(found, key=lambda mark: float(found[mark].mean()))
            right[column] = found[marks[column]]
        yield Cell(case.name, count, right, marks)


def summary(found: Sequence[Cell]) -> str:
    """Every cell where snnc is below the best peer, and in how many it is not."""
    lines = []
    for stars, which in ((True, "of all"), (False, "of those with one spike a step")):
        lost = [cell for cell in found if cell.behind(stars)[0] > 0]
        clear = [cell for cell in lost if cell.behind(stars)[1]]
        for cell in lost:
            how = "" if cell in clear else ", by chance"
            lines.append(
                f"  {cell.name} at T = {cell.steps}: {cell.behind(stars)[0]:.2f} below {cell.best(stars)}{how}"
            )
        lines.append(
            f"refined is at or above the best peer {which} in {len(found) - len(lost)} of {len(found)} cells, "
            f"below by more than chance in {len(clear)}"
        )
    return "\n".join(lines)


def load(name: str, models: Path, data: Path, images: int) -> Case:
    """A model of benchmarks/conversion.py with its images."""
    graph = snnc.load(models / f"{name}.onnx", outputs=OUTPUTS.get(name, ()))
    (kind,), (where, scaling) = graph.inputs.values(), MODELS[name]
    x, y, x_test, y_test = arrays(data, where, kind.shape, images)
    train = Split(x, y, scaling)
    return Case(name, graph, Data(train, train.take(1), Split(x_test, y_test, scaling)))


def main() -> None:
    """One line a model and number of steps, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    given = parser.parse_args()
    folders = [os.environ.get(name) for name in ("SNNC_MODELS", "SNNC_DATA")]
    if None in folders:
        sys.exit("set SNNC_MODELS and SNNC_DATA to the folders of the models and the data")
    models, data = (Path(str(folder)) for folder in folders)
    columns = ["ANN", "percentile", "refined", *PEERS]
    print(f"{CALIBRATION} training images to calibrate on, the first {given.images} test images to judge")
    print(f"{'model':32} {'T':>2} " + " ".join(f"{column:>10}" for column in columns))
    found = []
    for name in given.models:
        for cell in cells(load(name, models, data, given.images), given.steps):
            print(cell.row(columns), flush=True)
            found.append(cell)
    print(summary(found))


if __name__ == "__main__":
    main()

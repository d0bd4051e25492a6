"""A training that was killed anywhere goes on bit for bit, from what it was, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc import population as population_file
from snnc.data import Data
from snnc.errors import CheckpointError
from snnc.ir import Array, Graph
from snnc.pipeline import Context, Pipeline
from snnc.sim.torch import forward
from snnc.targets.dynap_sim.bench import MOST
from snnc.train import LTL, Batch, Checkpoints, LTLOnline, Rule
from snnc.train import checkpoint as checkpoints_file
from snnc.train.loop import loop
from snnc.train.state import KEY, Position, State, decode, encode
from snnc.train.trainer import check, from_loss
from tests.train.conftest import teacher

Lower = Callable[..., Graph]
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CONSTRAINED = "threshold-layernorm{steps=4},bias-per-step,limit-fan-in{k=6},quantize-weights{bits=3}"
ALL = 15
"""Updates of a whole training: 3 epochs, 200 samples, 40 at a time."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here, and the disk is slow."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Killed(BaseException):
    """What a test ends a training with; nothing in the product catches it."""


@dataclass(frozen=True)
class Chancy(Rule):
    """Cross-entropy of the whole network, its inputs blurred by chance."""

    name = "chancy"

    epochs: int = 3
    batch: int = 40
    rate: float = 0.02

    def __post_init__(self) -> None:
        check(self)

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        (score,) = graph.outputs.values()

        def loss(batch: Batch) -> torch.Tensor:
            noise = torch.tensor(batch.rng.normal(scale=0.1, size=batch.x.shape), dtype=torch.float32)
            return F.nll_loss(forward(graph, batch.params, {"x": batch.x + noise})[score].log(), batch.labels)

        return loop(self, graph, ctx, from_loss(loss))


def killer(after: int) -> Callable[[str, int, int], None]:
    """Progress that kills when so many updates of this run are done."""
    told: list[str] = []

    def tell(text: str, done: int, total: int) -> None:
        if "epoch" in text:
            told.append(text)
            if len(told) == after:
                raise Killed

    return tell


def train(
    rule: Rule, graph: Graph, data: Data, folder: Path, *, seed: int = 0, kill: int = 0, every: float = 0, **facts: str
) -> tuple[dict[str, bytes], list[str]]:
    """What a training gives back, and its notes."""
    ctx = Context(data, graph.teacher, seed, progress=killer(kill))
    ctx.checkpoints = Checkpoints(folder, every=every, facts=facts)
    fitted = rule.fit(graph, ctx)
    return {name: array.tobytes() for name, array in fitted.items()}, ctx.notes


def files(folder: Path) -> list[Path]:
    return Checkpoints(folder).files()


def last(folder: Path) -> dict[str, bytes]:
    """All tensors of the newest checkpoint: what training itself goes on with, the optimizer's too."""
    return {name: array.tobytes() for name, array in decode(files(folder)[-1].read_bytes())[1].tensors.items()}


def interrupted(graph: Graph, data: Data, folder: Path, kill: int = 8) -> None:
    """Leave the checkpoints of a training that was killed."""
    with pytest.raises(Killed):
        train(Chancy(), graph, data, folder, kill=kill)


@pytest.mark.parametrize(
    ("rule", "every"),
    [
        (Chancy(), 0),
        (Chancy(), 1e9),
        (Chancy(optimizer="sgd", schedule="step", rate=2.0), 0),
        (Chancy(optimizer="adamw", schedule="constant", decay=0.1, clip=0.5, patience=1), 0),
        (LTL(epochs=3, batch=40, rate=0.02), 0),
        (LTL(epochs=3, batch=40, rate=0.02, norm="running", percentile=80), 0),
        (LTLOnline(epochs=3, batch=40, rate=0.02, norm="running", percentile=80), 0),
    ],
    ids=["adam", "by epoch", "sgd", "adamw", "ltl", "ltl running", "ltl-online running"],
)
def test_killed_after_any_update_it_ends_as_if_it_had_not_been(
    lowered: Lower, data: Data, tmp_path: Path, rule: Rule, every: float
) -> None:
    graph = lowered(CONSTRAINED)
    wanted = train(rule, graph, data, tmp_path / "whole", every=every)
    end = last(tmp_path / "whole")
    done = decode(files(tmp_path / "whole")[-1].read_bytes())[1].position.updates
    for kill in range(1, done + 1):
        folder = tmp_path / str(kill)
        with pytest.raises(Killed):
            train(rule, graph, data, folder, kill=kill, every=every)
        assert train(rule, graph, data, folder, every=every) == wanted, f"killed after update {kill}"
        assert last(folder) == end, f"killed after update {kill}"
    assert all(end[f"real.{name}"] != graph.params[name].tobytes() for name in wanted[0]), "everything has moved"


def test_layers_in_turn_go_on_with_their_running_norms(lowered: Lower, data: Data, tmp_path: Path) -> None:
    """Three stages of ten updates each, killed in every one."""
    graph = lowered(CONSTRAINED)
    rule = LTL(epochs=2, batch=40, rate=0.02, norm="running", percentile=80, order="sequential")
    wanted = train(rule, graph, data, tmp_path / "whole")
    assert {"running.relu1:norm", "running.relu2:norm"} < last(tmp_path / "whole").keys()
    assert wanted != train(replace(rule, norm="batch"), graph, data, tmp_path / "batch")
    for kill in (3, 12, 15, 26):
        with pytest.raises(Killed):
            train(rule, graph, data, tmp_path / str(kill), kill=kill)
        assert train(rule, graph, data, tmp_path / str(kill)) == wanted, f"killed after update {kill}"


def test_killed_again_and_again(lowered: Lower, data: Data, tmp_path: Path) -> None:
    graph = lowered(CONSTRAINED)
    wanted = train(Chancy(), graph, data, tmp_path / "whole")
    for _ in range(ALL // 2):
        with pytest.raises(Killed):
            train(Chancy(), graph, data, tmp_path / "often", kill=3)
    assert train(Chancy(), graph, data, tmp_path / "often", kill=3) == wanted


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_killed_while_it_saves(
    lowered: Lower, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before a file is on the disk, and before it has its name: the one before is used, the rest is swept away."""
    graph = lowered(CONSTRAINED)
    wanted = train(Chancy(), graph, data, tmp_path / "whole")
    calls = []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(step)
        if len(calls) == 5:
            raise Killed
        return real(*args, **kwargs)

    home = os if step == "fsync" else Path
    real = getattr(home, step)
    with monkeypatch.context() as patch:
        patch.setattr(home, step, stop)
        with pytest.raises(Killed):
            train(Chancy(), graph, data, tmp_path / "cut")
    assert list((tmp_path / "cut").glob(".*.part"))
    assert train(Chancy(), graph, data, tmp_path / "cut") == wanted
    Checkpoints(tmp_path / "cut").remove()
    assert not (tmp_path / "cut").exists()


def test_what_training_noted_is_noted_again(lowered: Lower, data: Data, tmp_path: Path) -> None:
    """Of a training that diverged, too: it is finished, and not begun again."""
    wild = Chancy(optimizer="sgd", rate=1e30)
    fitted, notes = train(wild, lowered(), data, tmp_path)
    assert notes[0].startswith("diverged in epoch 1")
    assert train(wild, lowered(), data, tmp_path, kill=1) == (fitted, notes)


def test_two_are_kept_and_only_ours_are_deleted(lowered: Lower, data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "mine.txt").write_text("not a checkpoint")
    train(Chancy(), lowered(), data, folder)
    numbers = [path.name for path in files(folder)]
    assert numbers == [f"000-{n:09}.safetensors" for n in (ALL + 2, ALL + 3)], "one an update, one an epoch"
    Checkpoints(folder).remove()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_the_end_of_an_epoch_is_always_saved_and_updates_when_it_is_time(
    lowered: Lower, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, int]] = []
    clock = [0.0]
    monkeypatch.setattr(checkpoints_file.time, "monotonic", lambda: clock[0])  # type: ignore[attr-defined]
    write = checkpoints_file._write

    def watch(path: Path, raw: bytes | bytearray) -> None:
        place = decode(raw)[1].position
        saved.append((place.epochs, place.at))
        write(path, raw)

    monkeypatch.setattr(checkpoints_file, "_write", watch)
    ctx = Context(data, lowered().teacher)

    def tick(text: str, done: int, total: int) -> None:
        clock[0] += 10

    ctx.progress, ctx.checkpoints = tick, Checkpoints(tmp_path, every=25)
    Chancy().fit(lowered(), ctx)
    assert saved == [(0, 120), (1, 0), (1, 120), (2, 0), (2, 120), (3, 0)]


def test_a_pipeline_goes_on_at_its_second_trainer(data: Data, tmp_path: Path) -> None:
    recipe = Pipeline.parse("threshold-layernorm{steps=4},ltl{epochs=2},bias-per-step,ltl{epochs=3 batch=40}")
    first = 2 * 4
    wanted, ledger = recipe(teacher(), data=data, checkpoints=Checkpoints(tmp_path / "whole", every=0))
    with pytest.raises(Killed):
        recipe(teacher(), data=data, progress=killer(first + 7), checkpoints=Checkpoints(tmp_path / "cut", every=0))
    assert {path.name[:3] for path in files(tmp_path / "cut")} == {"000", "001"}
    done: list[str] = []
    again, second = recipe(
        teacher(), data=data, progress=lambda text, *_: done.append(text),
        checkpoints=Checkpoints(tmp_path / "cut", every=0),
    )  # fmt: skip
    assert sum("ltl epoch" in text for text in done) == 15 - 6, "the first trainer is done, of the second six updates"
    assert all(again.params[name].tobytes() == wanted.params[name].tobytes() for name in wanted.params)
    assert second.to_json(timed=False) == ledger.to_json(timed=False)


# --- damage


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights": lambda p: flip(p, -5),
    "length": lambda p: flip(p, 0),
    "header": lambda p: flip(p, 20),
    "facts": lambda p: flip(p, p.read_bytes().index(b"position") + 20),
    "digest": lambda p: flip(p, p.read_bytes().index(KEY) + 15),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "empty": lambda p: p.write_bytes(b""),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "link": lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
    "pipe": lambda p: (p.unlink(), os.mkfifo(p)),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_newest_one_is_passed_over_and_told(lowered: Lower, data: Data, tmp_path: Path, how: str) -> None:
    graph = lowered()
    wanted, notes = train(Chancy(), graph, data, tmp_path / "whole")
    interrupted(graph, data, tmp_path / "hurt")
    newest = files(tmp_path / "hurt")[-1]
    DAMAGE[how](newest)
    fitted, told = train(Chancy(), graph, data, tmp_path / "hurt")
    assert fitted == wanted
    assert told[0].startswith(f"{newest.name} ")
    assert told[0].endswith(": went on from the checkpoint before")
    assert told[-len(notes) :] == notes


def test_if_all_are_damaged_it_says_so(lowered: Lower, data: Data, tmp_path: Path) -> None:
    interrupted(lowered(), data, tmp_path)
    for path in files(tmp_path):
        flip(path, -1)
    with pytest.raises(CheckpointError, match="no checkpoint is whole") as caught:
        train(Chancy(), lowered(), data, tmp_path)
    assert len(caught.value.problems) == 2
    assert "--restart" in caught.value.hint


# --- another training


def test_what_has_changed_is_refused_by_name(lowered: Lower, data: Data, tmp_path: Path) -> None:
    graph = lowered()
    with pytest.raises(Killed):
        train(Chancy(), graph, data, tmp_path, kill=8, model="a")
    other = replace(data, train=data.train.take(150))
    shifted = graph.edit(params={"b3": graph.params["b3"] + 1})
    more = Chancy(epochs=4)
    for text, run in {
        r"rule was 'chancy', now it is 'chancy\{epochs=4\}'": lambda: train(more, graph, data, tmp_path, model="a"),
        "seed was '0', now it is '1'": lambda: train(Chancy(), graph, data, tmp_path, seed=1, model="a"),
        r"data was [0-9a-f]{12}\.\.\., now it is": lambda: train(Chancy(), graph, other, tmp_path, model="a"),
        r"graph was [0-9a-f]{12}\.\.\., now it is": lambda: train(Chancy(), shifted, data, tmp_path, model="a"),
        "model was 'a', now it is 'b'": lambda: train(Chancy(), graph, data, tmp_path, model="b"),
        "model was 'a', now it is 'None'": lambda: train(Chancy(), graph, data, tmp_path),
    }.items():
        with pytest.raises(CheckpointError, match=text):
            run()
    small = lowered("threshold-layernorm{steps=8},bias-per-step,limit-fan-in{k=1}")
    with pytest.raises(CheckpointError, match="this is not the training that was interrupted") as caught:
        train(LTL(), small, data, tmp_path, seed=3, model="a")
    assert [str(problem).split()[0] for problem in caught.value.problems] == ["rule", "seed", "graph"]


def test_passes_before_are_refused_by_name_and_those_behind_may_change(data: Data, tmp_path: Path) -> None:
    text = "threshold-layernorm{{steps={}}},bias-per-step,ltl,{}"

    def run(steps: int, behind: str, kill: int) -> None:
        recipe = Pipeline.parse(text.format(steps, behind))
        recipe(teacher(), data=data, progress=killer(kill), checkpoints=Checkpoints(tmp_path, every=0))

    with pytest.raises(Killed):
        run(8, "limit-fan-in", 6)
    with pytest.raises(CheckpointError, match=r"passes before was .*steps=8.*, now it is .*steps=4") as caught:
        run(4, "limit-fan-in", 0)
    assert caught.value.__notes__[0].startswith("in ltl, after threshold-layernorm")
    run(8, "limit-fan-in{k=6}", 0)


def test_an_interrupted_training_is_neither_forgotten_nor_gone_on_with_by_accident(
    lowered: Lower, data: Data, tmp_path: Path
) -> None:
    place = Checkpoints(tmp_path)
    place.begin(None)
    interrupted(lowered(), data, tmp_path)
    with pytest.raises(CheckpointError, match="there is an interrupted training") as caught:
        place.begin(None)
    assert "--resume" in caught.value.hint
    assert "--restart" in caught.value.hint
    place.begin(True)
    assert len(files(tmp_path)) == 2
    place.begin(False)
    assert files(tmp_path) == []


# --- files from strangers


def forged(folder: Path, change: Callable[[State], State]) -> None:
    """Rewrite both checkpoints, digest and all."""
    for path in files(folder):
        config, state = decode(path.read_bytes())
        path.write_bytes(encode(change(state), config))


def at(**changes: Any) -> Callable[[State], State]:
    return lambda state: State(state.tensors, replace(state.position, **changes))


@pytest.mark.parametrize(
    "change",
    [
        at(epochs=-1),
        at(epochs=10**9),
        at(epochs=True),
        at(at=7),
        at(at=10**30),
        at(updates=0),
        at(best="high"),
        at(best_epoch=3),
        at(improved=2),
        at(improved=-1),
        at(stopped="no"),
        at(rates=[1.0]),
        at(rates=[-1.0] * 6),
        at(rates=None),
        at(notes=[1]),
        lambda s: State({**s.tensors, "more": np.zeros(9, np.float32)}, s.position),
        lambda s: State({n: a for n, a in s.tensors.items() if n != "kept.w1"}, s.position),
        lambda s: State({**s.tensors, "real.w1": np.zeros((8, 16), np.float32)}, s.position),
        lambda s: State({**s.tensors, "real.w1": s.tensors["real.w1"].astype(np.float64)}, s.position),
        lambda s: State({**s.tensors, "optimizer.w1.step": np.zeros((1,), np.float32)}, s.position),
    ],
)
def test_a_forged_state_is_refused(
    lowered: Lower, data: Data, tmp_path: Path, change: Callable[[State], State]
) -> None:
    interrupted(lowered(), data, tmp_path)
    forged(tmp_path, change)
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        train(Chancy(), lowered(), data, tmp_path)


def test_no_file_fills_the_memory(lowered: Lower, data: Data, tmp_path: Path) -> None:
    """Neither a huge one nor one that names huge tensors is read."""
    interrupted(lowered(), data, tmp_path)
    for path in files(tmp_path):
        with path.open("ab") as file:
            file.truncate(2**40)
    with pytest.raises(CheckpointError, match="is larger than this training"):
        train(Chancy(), lowered(), data, tmp_path)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    deep = b'{"__metadata__":{"facts":"' + b"[" * 10**5 + b'"}}'
    for head in (header, deep, b"\xff" * 99, b"[]", b'{"__metadata__":{"facts":"1"}}', b"9" * 5000):
        for path in files(tmp_path):
            path.write_bytes(len(head).to_bytes(8, "little") + head)
        with pytest.raises(CheckpointError, match="is no checkpoint"):
            train(Chancy(), lowered(), data, tmp_path)


def test_a_place_that_cannot_be_written_or_read_is_an_error(lowered: Lower, data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(Chancy(), lowered(), data, tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        train(Chancy(), lowered(), data, tmp_path / "file" / "below")
    for every in (-1.0, float("nan"), float("inf")):
        with pytest.raises(CheckpointError, match=f"cannot save every {every} seconds"):
            Checkpoints(tmp_path, every=every)


def test_a_position_is_plain_data() -> None:
    good = {
        "epochs": 1, "at": 0, "updates": 5, "best": 0.5, "best_epoch": 1, "improved": 1, "stopped": False,
        "rates": [0.1], "notes": [],
    }  # fmt: skip
    assert Position.of(good).rates == [0.1]
    for wrong in (None, [], {}, {**good, "more": 1}):
        with pytest.raises(CheckpointError, match="does not say how far it is"):
            Position.of(wrong)


# --- the command


def compiling(out: Path, *more: str) -> list[str]:
    return [
        "compile", str(EXAMPLES / "digits_cnn.onnx"), "--data", str(EXAMPLES / "digits.npz"), "--out", str(out),
        "--target", "dynap-sim{steps=4 epochs=2}", "--train-samples", "300", "--test-samples", "50", "--chips", "0",
        "--quiet", "--save-every", "0", *more,
    ]  # fmt: skip


KILLED_AFTER_6 = """
import os, signal
from snnc.cli import main
from snnc.train.checkpoint import Slot

save, saved = Slot.save, []

def once_too_often(slot, state):
    save(slot, state)
    saved.append(state)
    if len(saved) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

Slot.save = once_too_often
main()
"""


def test_kill_9_and_resume(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The same artifact, byte for byte, as if nobody had killed it."""
    assert snnc(*compiling(tmp_path / "whole")).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["whole"], "checkpoints are removed at the end"
    out = tmp_path / "killed"
    folder = tmp_path / "killed.checkpoints"
    command = [sys.executable, "-c", KILLED_AFTER_6, *compiling(out, "--resume")]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    refused = snnc(*compiling(out))
    assert refused.code == 2
    assert "there is an interrupted training" in refused.err
    assert snnc(*compiling(out, "--resume", "--seed", "1")).code == 2
    assert snnc(*compiling(out, "--resume")).code == 0
    assert not folder.exists()
    for path in (tmp_path / "whole").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_interrupted_trial_on_devices_goes_on(snnc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    tried, seeds = population_file._tried, list[int]()

    def interrupted_at_2(artifact: Any, data: Data, some: Sequence[int], *rest: Any) -> list[tuple[float, float]]:
        seeds.extend(some)
        if seeds == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return tried(artifact, data, some, *rest)

    assert snnc(*compiling(tmp_path / "whole", "--chips", "4")).code == 0
    monkeypatch.setitem(MOST, "cpu", 2)
    monkeypatch.setattr(population_file, "_tried", interrupted_at_2)
    out, folder = tmp_path / "stopped", tmp_path / "stopped.checkpoints"
    ended = snnc(*compiling(out, "--chips", "4"))
    assert ended.code == 130
    assert "--resume" in ended.err
    for path in folder.glob("*.safetensors"):
        path.unlink()  # as of a pipeline that trains nothing
    assert "there is an interrupted trial on simulated devices" in snnc(*compiling(out, "--chips", "4")).err
    other = ("--target", "dynap-sim{steps=4 epochs=2 mismatch=0.1}")
    refused = snnc(*compiling(out, "--chips", "4", "--resume", *other))
    assert refused.code == 2
    assert "--restart" in refused.err
    assert snnc(*compiling(out, "--chips", "4", "--resume")).code == 0
    assert seeds == [0, 1, 2, 3, 2, 3]
    assert not folder.exists()
    for path in (tmp_path / "whole").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    ended = snnc(*compiling(out, "--chips", "1", "--restart"))
    assert ended.code == 0
    assert seeds[6:] == [0]

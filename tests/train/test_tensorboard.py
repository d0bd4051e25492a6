"""What a log is told, and TensorBoard's files of it; nothing that is compiled depends on either."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from snnc import api
from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.pipeline import Context, Pipeline, Progress, Tell, silent
from snnc.train import BPTT, LTL, Checkpoints, TensorBoard, tensorboard
from snnc.train.tensorboard import EXTRA
from tests.train.conftest import teacher

Lower = Callable[..., Graph]
EXAMPLES = Path(__file__).parents[2] / "examples"
TWO = "threshold-layernorm{steps=2},bias-per-step,quantize-weights,tandem{epochs=1 batch=100},ltl{epochs=1 batch=100}"


class Listener:
    """Remembers what it is told, by training."""

    def __init__(self) -> None:
        self.told: list[dict[str, list[tuple[int, float]]]] = []
        self.names: list[str] = []
        self.open = 0

    @contextmanager
    def training(self, name: str, done: int) -> Iterator[Tell]:
        numbers: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.told.append(numbers)
        self.names.append(name)
        self.open += 1
        try:
            yield lambda what, value, at: numbers[what].append((at, value))
        finally:
            self.open -= 1


def test_loss_and_rate_of_every_update_and_the_judgement_of_every_epoch(lowered: Lower, data: Data) -> None:
    log, graph = Listener(), lowered()
    rule = BPTT(epochs=3, batch=100, rate=0.04, optimizer="sgd", schedule="step", start="random")
    ctx = Context(data, teacher(), log=log)
    rule.run(graph, ctx)
    (told,) = log.told
    assert log.names == ["bptt"]
    assert [at for at, _ in told["loss"]] == [1, 2, 3, 4, 5, 6]
    assert told["rate"] == [(i + 1, pytest.approx(r)) for i, r in enumerate([0.04, 0.04, 4e-3, 4e-3, 4e-4, 4e-4])]
    assert [at for at, _ in told["validation"]] == [0, 2, 4, 6]
    best = max(share for _, share in told["validation"])
    assert f"best on validation: {best:.2%}" in ctx.notes[0]
    assert told["loss"][0][1] > told["loss"][-1][1] > 0
    assert log.open == 0


def test_every_training_of_a_pipeline_has_its_own(data: Data) -> None:
    log = Listener()
    logged = Pipeline.parse(TWO)(teacher(), data=data, log=log)[0]
    assert log.names == ["tandem", "ltl"]
    plain = Pipeline.parse(TWO)(teacher(), data=data)[0]
    assert {n: a.tobytes() for n, a in logged.params.items()} == {n: a.tobytes() for n, a in plain.params.items()}


def interrupted(graph: Graph, data: Data, folder: Path, log: Listener | TensorBoard) -> None:
    """LTL over 4 updates, killed after the second and gone on with."""

    def stop(text: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    def run(progress: Progress) -> None:
        ctx = Context(data, teacher(), progress=progress, checkpoints=Checkpoints(folder, every=0), log=log)
        LTL(epochs=2, batch=100).run(graph, ctx)

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    run(silent)


def test_a_training_that_goes_on_tells_what_is_left(lowered: Lower, data: Data, tmp_path: Path) -> None:
    log = Listener()
    interrupted(lowered(), data, tmp_path, log)
    assert [[at for at, _ in told["loss"]] for told in log.told] == [[1, 2], [2, 3, 4]], "2 was told, and not saved"
    assert [[at for at, _ in told["validation"]] for told in log.told] == [[0], [2, 4]]
    assert log.open == 0


def test_without_tensorboard_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PipelineError, match="event files need TensorBoard, which is not installed") as caught:
        TensorBoard(tmp_path)
    assert caught.value.hint == EXTRA == 'pip install "snnc[tensorboard]"'
    assert '\ntensorboard = ["tensorboard>=' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_the_command_says_so_before_any_work(snnc, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ended = snnc("compile", "missing.onnx", "--data", "missing.npz", "--log", "runs")
    assert ended.code == 2
    assert EXTRA in ended.err
    assert "missing" not in ended.err


def test_files_are_closed_however_a_training_ends(
    lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And none is begun for a training that has nothing to tell: one that had finished."""
    writers: list[Writer] = []

    class Writer:
        def __init__(self, place: str, purge_step: int | None) -> None:
            self.place, self.purge_step, self.closed = place, purge_step, False
            writers.append(self)

        def add_scalar(self, what: str, value: float, done: int) -> None:
            assert not self.closed

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(tensorboard, "_writer_type", lambda: Writer)
    interrupted(lowered(), data, tmp_path / "kept", TensorBoard(tmp_path))
    assert [(Path(w.place).name, w.purge_step, w.closed) for w in writers] == [
        ("000-ltl", None, True),
        ("001-ltl", 2, True),
    ]
    ctx = Context(data, teacher(), checkpoints=Checkpoints(tmp_path / "kept"), log=TensorBoard(tmp_path))
    LTL(epochs=2, batch=100).run(lowered(), ctx)
    assert len(writers) == 2


# --- its files


@pytest.fixture
def scalars() -> Callable[[Path], dict[str, dict[str, list[tuple[int, float]]]]]:
    """Reads (update, value) by run and name, as TensorBoard shows them."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    def read(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
        found = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
        return {
            run: {tag: [(e.step, e.value) for e in found.Scalars(run, tag)] for tag in tags["scalars"]}
            for run, tags in found.Runs().items()
        }

    return read


Read = Callable[[Path], dict[str, dict[str, list[tuple[int, float]]]]]


def test_event_files_hold_what_was_told(scalars: Read, data: Data, tmp_path: Path) -> None:
    log = Listener()
    Pipeline.parse(TWO)(teacher(), data=data, log=log)
    Pipeline.parse(TWO)(teacher(), data=data, log=TensorBoard(tmp_path / "runs"))
    found = scalars(tmp_path / "runs")
    assert sorted(found) == ["000-tandem", "001-ltl"]
    for told, run in zip(log.told, sorted(found), strict=True):
        assert found[run].keys() == {"loss", "rate", "validation"}
        for name, values in told.items():
            assert found[run][name] == [(at, pytest.approx(value)) for at, value in values]


def test_after_an_interruption_every_update_is_there_once(
    scalars: Read, lowered: Lower, data: Data, tmp_path: Path
) -> None:
    """The same folder and the same training, in another process as it were."""
    place = tmp_path / "runs"

    class Anew:
        """A log that is opened again by every process."""

        def training(self, name: str, done: int):  # type: ignore[no-untyped-def]
            return TensorBoard(place).training(name, done)

    interrupted(lowered(), data, tmp_path / "kept", Anew())  # type: ignore[arg-type]
    (found,) = scalars(place).values()
    assert [at for at, _ in found["loss"]] == [1, 2, 3, 4]
    assert [at for at, _ in found["validation"]] == [0, 2, 4]


def test_an_artifact_is_the_same_with_and_without(scalars: Read, data: Data, tmp_path: Path) -> None:
    data = replace(data, digest="of a test")
    logs = [None, TensorBoard(tmp_path / "runs")]
    made = [api.build(teacher(), data=data, out=None, pipeline=TWO, chips=0, log=log).artifact for log in logs]
    assert made[0].digest == made[1].digest
    assert len(scalars(tmp_path / "runs")) == 2


def test_a_place_that_is_no_folder(scalars: Read, tmp_path: Path, data: Data) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="is no folder for event files"):
        TensorBoard(tmp_path / "file")
    with pytest.raises(PipelineError, match="event files cannot be written: Not a directory"):
        Pipeline.parse(TWO)(teacher(), data=data, log=TensorBoard(tmp_path / "file" / "below"))


def test_the_command_writes_event_files(snnc, scalars: Read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ended = snnc(
        "compile", str(EXAMPLES / "digits_cnn.onnx"), "--data", str(EXAMPLES / "digits.npz"), "--quiet", "--chips", "0",
        "--target", "dynap-sim{steps=4 epochs=1}", "--train-samples", "200", "--test-samples", "50",
        "--log", str(tmp_path / "runs"), "--out", str(tmp_path / "build"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert list(scalars(tmp_path / "runs")) == ["000-ltl"]

"""Several processes train as one: the same samples in the same order, the same weights; none waits for a dead one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snnc.errors import PipelineError
from snnc.pipeline import Pipeline
from snnc.train import parallel
from tests.train import together
from tests.train.conftest import teacher
from tests.train.test_checkpoint import EXAMPLES, ROOT

PROCESSES = 2
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """The folder that two processes wrote into; exit code, output and errors of each."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **ONE_THREAD}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.together", str(folder)],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(PROCESSES)
    ]  # fmt: skip
    try:
        ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    return folder, [(code, out, err) for out, err, code in ended]


def test_the_order_of_samples_is_that_of_one_process(two: tuple[Path, list[tuple[int, str, str]]]) -> None:
    folder, _ = two
    shares = [dict(np.load(folder / f"{rank}.npz", allow_pickle=False)) for rank in range(PROCESSES)]
    data = together.samples()
    graph = Pipeline.parse(together.RECIPE)(teacher(), data=data)[0]
    alone = together.trained(graph, data)
    batches = [name for name in alone if re.fullmatch(r"x\d+", name)]
    assert len(batches) == 203
    assert sum(name.startswith("x") for name in shares[1]) == 203 - 29, "of a single sample the second has none"
    first, second = (iter([s[n] for n in s if n.startswith("x")]) for s in shares)
    for name in batches:
        parts = [next(first)] + ([next(second)] if len(alone[name]) > 1 else [])
        np.testing.assert_array_equal(np.concatenate(parts), alone[name])
    for name in (name for name in alone if name.startswith("w.")):
        np.testing.assert_array_equal(shares[0][name], shares[1][name])
        np.testing.assert_allclose(shares[0][name], alone[name], rtol=0, atol=1e-5)
        assert not np.array_equal(alone[name], graph.params[name[2:]]), "it must have moved"
    assert [str(share["note"]) for share in shares] == ["kept epoch 29 of 29, best on validation: 50.00%"] * PROCESSES
    assert (folder / "checkpoints").is_dir()


def test_one_that_fails_ends_all_and_is_told_once(two: tuple[Path, list[tuple[int, str, str]]]) -> None:
    _, ended = two
    assert [code for code, _, _ in ended] == [2, 2], ended
    (_, first, _), (_, second, _) = ended
    assert second.startswith("True ")
    assert second.endswith("the second process fails\n")
    assert first.startswith("False ")
    assert first.endswith("another process of this training has ended\n")
    assert float(first.split()[1]) < 20


def test_torchrun_compiles_as_one_command(tmp_path: Path) -> None:
    """One ledger is printed, one artifact written; the weights are those of one process."""
    command = [
        "compile", str(EXAMPLES / "digits_cnn.onnx"), "--data", str(EXAMPLES / "digits.npz"), "--out",
        str(tmp_path / "build"), "--target", "dynap-sim{steps=2 epochs=1}", "--train-samples", "60",
        "--test-samples", "20", "--chips", "1", "--json",
    ]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    done = subprocess.run(
        [*launch, "-m", "snnc", *command],
        cwd=ROOT, env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (tmp_path / "build" / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["build"]
    assert len(found["chips"]) == 1


def test_a_single_process_is_left_alone() -> None:
    with parallel.joined({}), parallel.joined(dict.fromkeys(parallel.LAUNCHED, "1")):
        assert parallel.processes() == 1
        assert parallel.is_first()
        assert parallel.first_to_fail()
        assert parallel.own_device("cuda", {}) == "cuda"
        assert parallel.on_first(lambda: b"made") == b"made"
        batch = np.arange(5)
        assert parallel.share(batch) is batch


def test_processes_that_do_not_find_each_other_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(parallel.LAUNCHED, ("0", "2", "0", "127.0.0.1", "no port"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match="the 2 processes do not find each other"), parallel.joined():
        pass

"""The process that reads models: what crosses its walls, and what becomes of it when it breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from snnc.errors import ModelError
from snnc.importer import Limits, Options, examine, load, model_digest, sandbox, survey
from snnc.importer.worker import examine_here
from snnc.ir import to_text
from tests.importer.hostile import dense, model, node, plain, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "model.onnx"
    found.write_bytes(plain().SerializeToString())
    return found


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The server of breaking.py instead of the worker."""
    monkeypatch.setattr(sandbox, "MODULE", "tests.importer.breaking")
    monkeypatch.setattr(sandbox, "GRACE", 0.5)
    monkeypatch.setenv("SNNC_TEST_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT))
    sandbox._state.stop(kill=True)
    yield
    sandbox._state.stop(kill=True)


def server() -> int:
    """The process id of the server."""
    assert sandbox._state.server is not None
    return sandbox._state.server.process.pid


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def script(text: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    """A Python script in a process of its own that finds snnc."""
    (folder / "script.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(folder / "script.py")], env=environment, stdout=-1, stderr=-1, text=True, **options
    )


def test_what_comes_back_is_what_the_child_made(path: Path) -> None:
    here, there = examine_here(str(path), Options()), examine(path)
    assert here.graph is not None
    assert there.graph is not None
    assert to_text(there.graph) == to_text(here.graph)
    for name, array in here.graph.arrays().items():
        np.testing.assert_array_equal(there.graph.arrays()[name], array)
    assert there.findings == here.findings
    assert there.notes == here.notes


def test_problems_come_back_whole(tmp_path: Path) -> None:
    found = tmp_path / "model.onnx"
    found.write_bytes(
        model([node("Loop", "m t x", "y", name="l")], {"m": np.int64(9), "t": np.array(True)}).SerializeToString()
    )
    with pytest.raises(ModelError, match="breaks the ONNX standard") as caught:
        load(found)
    assert caught.value.code == "standard"
    found.write_bytes(model([node("RandomNormalLike", "x", "y", name="r")]).SerializeToString())
    (finding,) = survey(found)
    assert (finding.node, finding.op) == ("r", "RandomNormalLike")
    assert finding.problem is not None
    assert "ONNX node 'r'" in finding.problem.at


def test_options_reach_the_child(tmp_path: Path) -> None:
    found = tmp_path / "model.onnx"
    found.write_bytes(model([node("Relu", "x", "y")], inputs={"x": ["N", 3, "H", "W"]}).SerializeToString())
    graph = load(found, Options(shapes={"x": (3, 5, 6)}))
    assert graph.inputs["x"].shape == (3, 5, 6)
    graph = load(found, Options(batched=False, shapes={"x": (2, 3, 5, 6)}))
    assert graph.inputs["x"].shape == (2, 3, 5, 6)
    with pytest.raises(ModelError, match=r"sizes \[4, 5, 6\] are given for the input 'x', which is \[3,\?,\?\]"):
        load(found, Options(shapes={"x": (4, 5, 6)}))
    with pytest.raises(ModelError, match="sizes are given for 'z', the inputs are 'x'"):
        load(found, Options(shapes={"z": (4, 5, 6)}))


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(file_bytes=10), "too-large"),
        (Limits(nodes=2), "too-many-nodes"),
        (Limits(name_bytes=3), "name-length"),
        (Limits(memory_bytes=2**27), "memory-limit"),
    ],
)
def test_limits_are_kept_and_named(path: Path, limits: Limits, code: str) -> None:
    if code == "memory-limit":
        path.write_bytes(dense(weights(4, 4_000_000)).SerializeToString())
    with pytest.raises(ModelError, match="raise the limit") as caught:
        load(path, Options(limits=limits))
    assert caught.value.code == code


def test_a_worker_starts_no_worker(path: Path, tmp_path: Path) -> None:
    """A file with the name of one of Python's modules runs in the worker too, and may ask for a model there."""
    log, script = tmp_path / "log", tmp_path / "script.py"
    (tmp_path / "grp.py").write_text(
        f"import os\nopen({str(log)!r}, 'a').write(os.environ.get({sandbox.WITHIN!r}, '0'))\n"
    )
    script.write_text(f"import snnc\nsnnc.load({str(path)!r})\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    assert subprocess.run(command, timeout=100, env=environment).returncode == 0
    assert set(log.read_text()) == {"0", "1"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**environment, sandbox.WITHIN: "1"}
    )
    assert ended.returncode == 1
    assert "a model is read within the process that reads models" in ended.stderr


def test_a_path_may_be_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / os.fsdecode(b"\xff\xfe odd \n name")
    odd.mkdir()
    found = odd / "model.onnx"
    found.write_bytes(plain().SerializeToString())
    assert load(found).outputs
    monkeypatch.chdir(odd)
    assert load("model.onnx").outputs
    assert load(Path("../") / odd.name / "model.onnx").outputs


def test_a_server_serves_many_requests_and_comes_back_when_killed(path: Path) -> None:
    load(path)
    first = server()
    load(path)
    model_digest(path)
    assert server() == first
    os.kill(first, signal.SIGKILL)
    load(path)
    assert server() != first


def test_several_threads_share_a_server(path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        texts = {to_text(graph) for graph in pool.map(load, [path] * 12)}
    assert len(texts) == 1


def test_a_fork_has_a_server_of_its_own(path: Path) -> None:
    load(path)
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            load(path)
            os.write(into, str(server()).encode())
            sandbox._state.stop(kill=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(into)
    with os.fdopen(out) as file:
        other = int(file.read())
    assert other != server()
    first = server()
    load(path)
    assert server() == first


@pytest.mark.usefixtures("breaking")
@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ("spin", "cpu-limit", "more than 1 seconds of processor time\n  try: raise the limit cpu_seconds"),
        ("sleep", "time-limit", "longer than 4 seconds"),
        ("deaf", "time-limit", "longer than 4 seconds"),
        ("fill", "memory-limit", "more memory than 1073741824 bytes\n  try: raise the limit memory_bytes"),
        ("fault", "internal", "failed while answering"),
        ("write", "internal", "failed while answering"),
        ("abort", "crash", "SIGABRT"),
        ("segv", "crash", "SIGSEGV"),
        ("killed", "crash", "SIGKILL"),
        ("garbage", "internal", "gave no sense"),
        ("part", "internal", "breaks off"),
        ("large", "internal", "arrays of 4398046511104 bytes"),
        ("strange", "internal", "an array object"),
        ("no-graph", "internal", "malformed"),
    ],
)
def test_what_breaks_the_child_is_a_typed_error(tmp_path: Path, how: str, code: str, text: str) -> None:
    options = Options(limits=Limits(cpu_seconds=20 if how == "fill" else 1, memory_bytes=2**30))
    with pytest.raises(ModelError, match=text) as caught:
        load(tmp_path / f"{how}.onnx", options)
    assert caught.value.code == code
    assert [file.stat().st_size for file in tmp_path.glob("written")] in ([], [0]), "a child may write no file"
    with pytest.raises(ModelError, match="cannot be read"):  # the next request finds the server well
        load(tmp_path / "missing.onnx", options)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RecursionError("deep"), "RecursionError: deep"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError("a\nb"), "RuntimeError: a$"),
    ],
)
def test_no_exception_leaves_the_child(monkeypatch: pytest.MonkeyPatch, error: BaseException, text: str) -> None:
    from snnc.importer import wire, worker

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "examine_here", broken)
    header, arrays = worker.respond({"task": "examine", "path": "x", "options": wire.options_to_json(Options())})
    found = wire.error_from_json(header["error"])
    assert arrays == []
    assert found.code == "internal"
    with pytest.raises(ModelError, match=text):
        raise ModelError(found.message)


def test_ctrl_c_ends_the_server_too(tmp_path: Path) -> None:
    text = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born ignoring it
sys.path.insert(0, {str(ROOT)!r})
from snnc.importer import sandbox
sandbox.MODULE = "tests.importer.breaking"
sandbox._state.server = sandbox._start()
print(sandbox._state.server.process.pid, flush=True)
try:
    sandbox.examine("/nowhere/sleep.onnx")
except KeyboardInterrupt:
    print("interrupted", sandbox._state.server)
"""
    with script(text, tmp_path, start_new_session=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert out == "interrupted None\n"
    assert err == ""
    assert gone(pid)


def test_the_server_ends_with_its_caller(path: Path, tmp_path: Path) -> None:
    text = f"""
import os, signal
from snnc.importer import load, sandbox
load({str(path)!r})
print(sandbox._state.server.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with script(text, tmp_path) as process:
        out, _ = process.communicate(timeout=60)
    assert gone(int(out))


def test_a_script_without_a_main_guard_in_a_hostile_folder(path: Path, tmp_path: Path) -> None:
    """Neither does the server run the script again, nor does it import what lies in the working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("onnx", "numpy", "json", "socket"):
        (folder / f"{name}.py").write_text("open('pwned', 'w').close()")
    text = f"print('once')\nimport snnc\nprint(snnc.load({str(path)!r}).outputs)\n"
    with script(text, tmp_path, cwd=folder) as process:
        out, err = process.communicate(timeout=60)
    assert out.count("once") == 1
    assert err == ""
    assert not (folder / "pwned").exists()


def test_torch_is_not_loaded_by_the_worker_nor_by_snnc_itself() -> None:
    for module in ("snnc.importer.worker", "snnc", "snnc.importer"):
        text = f"import sys, {module}; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
        made = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
        assert made.stdout == "False False\n", module


def test_public_names_load_when_asked_for() -> None:
    text = """
import snnc
assert all(getattr(snnc, name) is not None for name in snnc.__all__)
assert set(snnc.__all__) <= set(dir(snnc))
assert snnc.data.load and snnc.passes.PASSES and snnc.train.LTL and snnc.targets.TARGETS and snnc.ir.Graph
from snnc import *
try:
    snnc.nonsense
except AttributeError as error:
    print(error)
"""
    made = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == "module 'snnc' has no attribute 'nonsense'\n"


def test_a_dead_weight_and_a_large_one_come_through(tmp_path: Path) -> None:
    found = tmp_path / "model.onnx"
    weight = weights(4, 300_000)
    found.write_bytes(dense(weight).SerializeToString())
    graph = load(found)
    np.testing.assert_array_equal(graph.params["dense1.weight"], weight.T)
    assert not graph.params["dense1.weight"].flags.writeable

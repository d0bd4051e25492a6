"""The command line as a user meets it: output, JSON, exit codes, and one clear message for every bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from snnc.cli import main
from snnc.errors import GraphError
from tests.conftest import Ended

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL, DATA = str(EXAMPLES / "digits_cnn.onnx"), str(EXAMPLES / "digits.npz")
FAST = ["--target", "dynap-sim{steps=4 epochs=1}", "--train-samples", "200", "--test-samples", "50", "--quiet"]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact made by the command line."""
    place = tmp_path_factory.mktemp("cli") / "build"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["snnc", "compile", MODEL, "--data", DATA, "--out", str(place), "--chips", "1", *FAST]
        )
        main()
    return place


def test_compile_prints_the_ledger_and_writes_the_artifact(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ended = snnc("compile", MODEL, "--data", DATA, "--out", str(tmp_path / "b"), "--chips", "1", *FAST)
    assert ended.code == 0
    for word in (
        "onnxruntime",
        "threshold-layernorm{steps=4 reset=zero}",
        "refine-thresholds",
        "ltl{epochs=1}",
        "chips, calibrated",
        "SynOps",
        "sha256",
    ):
        assert word in ended.out
    assert ended.err == ""
    assert (tmp_path / "b" / "manifest.json").is_file()


def test_compile_json_is_one_object(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ended = snnc("compile", MODEL, "--data", DATA, "--out", str(tmp_path / "b"), "--chips", "0", "--json", *FAST)
    found = json.loads(ended.out)
    assert set(found) >= {"artifact", "digest", "ledger", "chips", "cost"}
    assert found["ledger"][0]["step"] == "import"
    assert {"step", "accuracy", "seconds", "notes"} <= set(found["ledger"][0])


SEARCHED = ["--pipeline", "fold-batchnorm,threshold-layernorm,bias-per-step,limit-fan-in,quantize-weights"]


def test_compile_chooses_the_steps(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The table, the JSON and the report say the same; the artifact has the chosen T, and is the same every time."""
    search = ["--max-drop", "5", "--steps", "4..12", "--chips", "0", "--data", DATA, *SEARCHED, *FAST]
    ended = snnc("compile", MODEL, "--out", str(tmp_path / "a"), *search)
    assert ended.code == 0, ended.err
    found = json.loads(snnc("compile", MODEL, "--out", str(tmp_path / "b"), "--json", *search).out)
    chosen, curve = found["search"]["chosen"], found["search"]["curve"]
    assert chosen in curve
    assert chosen["within"]
    assert 4 <= chosen["steps"] <= 12
    assert f"chosen: T = {chosen['steps']}, percentile {chosen['percentile']}, {chosen['bits']} bits" in ended.out
    for trial in curve:
        assert f"{trial['synops']:,.0f}" in ended.out
    row = next(r for r in found["ledger"] if r["step"].startswith("quantize-weights"))
    assert row["accuracy"] == chosen["accuracy"], "the ledger's own judgement of the same network"
    files = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
    report = json.loads(files[0]["report.json"])["search"]
    assert report == {**found["search"], "chosen": _untimed(chosen), "curve": [_untimed(t) for t in curve]}
    inspected = snnc("inspect", str(tmp_path / "a")).out
    assert f"{chosen['steps']} time steps" in inspected


def _untimed(trial: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in trial.items() if key != "seconds"}


def test_steps_alone_are_set(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    given = ["--steps", "3", "--chips", "0", "--data", DATA, "--json", *SEARCHED, *FAST]
    found = json.loads(snnc("compile", MODEL, "--out", str(tmp_path / "a"), *given).out)
    assert found["search"] is None
    assert any(row["step"] == "threshold-layernorm{steps=3}" for row in found["ledger"])


def test_no_steps_are_enough(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    given = ["--max-drop", "0", "--steps", "1..2", "--chips", "0", "--data", DATA, *SEARCHED, *FAST]
    refused(snnc("compile", MODEL, "--out", str(tmp_path / "a"), *given), "no T from 1 to 2", "--steps 1..4")
    assert not (tmp_path / "a").exists()


def test_progress_goes_to_standard_error(snnc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("snnc.cli.show.EVERY", 0.0)
    ended = snnc("compile", MODEL, "--data", DATA, "--out", str(tmp_path / "b"), "--chips", "0", "--json", *FAST[:-1])
    assert "ltl epoch 1/1" in ended.err
    json.loads(ended.out)


def test_run_and_calibrate(snnc, build: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plain = json.loads(
        snnc("run", str(build), "--data", DATA, "--json", "--quiet", "--outputs", str(tmp_path / "o.npz")).out
    )
    assert plain["accuracy"] > 0.8
    with np.load(tmp_path / "o.npz") as stored:
        assert stored["scores"].shape == (500, 10)
    done = snnc(
        "calibrate",
        str(build),
        "--data",
        DATA,
        "--chip",
        "2",
        "--out",
        str(tmp_path / "c"),
        "--train-samples",
        "300",
        "--json",
        "--quiet",
    )
    repaired = json.loads(done.out)
    again = json.loads(snnc("run", str(build), "--data", DATA, "--state", str(tmp_path / "c"), "--json", "--quiet").out)
    assert again["chip"] == 2
    assert again["accuracy"] == repaired["after"]


def test_check_and_the_lists(snnc) -> None:  # type: ignore[no-untyped-def]
    assert json.loads(snnc("check", MODEL, "--json").out)["ok"] is True
    assert "can be compiled" in snnc("check", MODEL).out
    assert "percentile=99.9" in snnc("passes").out
    assert "epochs=5" in snnc("trainers").out
    assert json.loads(snnc("targets", "--json").out)["dynap-sim"]["options"]


def test_check_has_a_row_for_every_node(snnc) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(snnc("check", MODEL, "--json").out)
    assert set(found) == {"ok", "findings", "limits", "unchecked", "notes"}
    assert all(set(f) == {"node", "op", "status", "why", "try", "code", "becomes"} for f in found["findings"])
    assert {f["status"] for f in found["findings"]} <= {"spiking", "rewrite", "host", "unsupported"}
    table = snnc("check", MODEL).out
    assert all(f["node"][:20] in table for f in found["findings"])
    assert "spiking as is" in table


def test_inspect_a_model_and_an_artifact(snnc, build: Path) -> None:  # type: ignore[no-untyped-def]
    for place, stage in ((MODEL, "analog"), (str(build), "constrained")):
        found = json.loads(snnc("inspect", place, "--json").out)
        assert found["stage"] == stage
        table = snnc("inspect", place).out
        assert f"{found['params']:,} parameters" in table
        assert all(row["name"] in table for row in found["nodes"])
        text = snnc("inspect", place, "--text").out
        assert text.startswith("snnc-graph 1\n")
        assert json.loads(snnc("inspect", place, "--text", "--json").out)["text"] == text
    assert "neurons" in snnc("inspect", str(build)).out
    refused(snnc("inspect", "missing.onnx"), "missing.onnx")


def test_errors_carry_their_code(snnc, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def fail(*args: object) -> None:
        raise GraphError("all wrong", at="here", hint="else", code="odd-graph")

    monkeypatch.setattr("snnc.api.inspect", fail)
    ended = snnc("inspect", MODEL, "--json")
    assert ended.err == "error[odd-graph]: all wrong\n  at: here\n  try: else\n"
    assert json.loads(ended.out) == {"ok": False, "error": "all wrong\n  at: here\n  try: else", "code": "odd-graph"}


def test_names_from_files_are_printed_safely(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    evil = "\x1b[2Jevil\r"
    node = [helper.make_node("Relu", ["x"], ["y"], name=evil)]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    made = helper.make_model(helper.make_graph(node, "g", value[:1], value[1:]))
    made.ir_version, made.opset_import[0].version = 8, 17
    (tmp_path / "evil.onnx").write_bytes(made.SerializeToString())
    for command in ("check", "inspect"):
        ended = snnc(command, str(tmp_path / "evil.onnx"))
        assert "evil" in ended.out
        assert not {"\x1b", "\r"} & set(ended.out)


def refused(ended: Ended, *texts: str) -> None:
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    for text in texts:
        assert text in ended.err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--target", "dynap-sin"], "no target is named 'dynap-sin'"),
        (["--target", "dynap-sim{bits=4 fanin=3}"], "'dynap-sim' has no option 'fanin'"),
        (["--target", "dynap-sim{mismatch=much}"], "option mismatch=much of 'dynap-sim' is not float"),
        (["--target", "dynap-sim{mismatch=7}"], "'dynap-sim' cannot work with mismatch=7.0"),
        (["--pipeline", "fold-batchnorm,fold"], "no pass or trainer is named 'fold'"),
        (["--pipeline", "ltl,threshold-layernorm"], "'threshold-layernorm' takes a graph of stage analog"),
        (["--pipeline", "fold-batchnorm{"], "cannot read 'fold-batchnorm{'"),
        (["--scale", "1/0"], "'1/0' is no number"),
        (["--std", "0"], "scale nothing"),
        (["--device", "tpu"], "torch cannot compute on 'tpu'"),
        (["--device", "cuda:98,cuda:99"], "torch cannot compute on 'cuda:98'; torch cannot compute on 'cuda:99'"),
        (["--seed", "-1"], "-1"),
        (["--steps", "4..32"], "which of the steps 4 to 32 to take, nothing says"),
        (["--steps", "32..4"], "'32..4' is no number of time steps, such as 16 or 4..32"),
        (["--steps", "0"], "'0' is no number of time steps"),
        (["--steps", "4.."], "'4..' is no number of time steps"),
        (["--max-drop", "-1"], "a drop of at most -1.0 is no goal"),
        (["--max-drop", "much"], "'much' is not a valid float"),
        (["--max-drop", "1", "--pipeline", "ltl,quantize-weights"], "has a T to set"),
    ],
)
def test_typing_errors_are_told_before_any_file_is_read(snnc, args: list[str], text: str) -> None:  # type: ignore[no-untyped-def]
    refused(snnc("compile", "missing.onnx", "--data", "missing.npz", *args), text)


def test_bad_models(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = Path(MODEL).read_bytes()
    odd = [
        helper.make_node("Wave", ["x"], ["h"], name="wave", domain="nowhere"),
        helper.make_node("Bell", ["h"], ["y"], name="bell", domain="nowhere"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    made = helper.make_model(
        helper.make_graph(odd, "g", value[:1], value[1:]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)],
    )
    cases = {
        "truncated.onnx": (whole[: len(whole) // 2], ()),
        "text.onnx": (b"this is a text file\n", ()),
        "empty.onnx": (b"", ()),
        "unknown.onnx": (made.SerializeToString(), ("wave", "bell", "Wave", "Bell")),
    }
    for name, (content, texts) in cases.items():
        (tmp_path / name).write_bytes(content)
        out = tmp_path / "out"
        refused(snnc("compile", str(tmp_path / name), "--data", DATA, "--out", str(out)), "error", *texts)
        assert not out.exists()
    refused(snnc("compile", str(tmp_path / "missing.onnx"), "--data", DATA), "missing.onnx")
    assert snnc("check", str(tmp_path / "unknown.onnx")).code == 2


def test_bad_data(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    x, y = np.zeros((40, 1, 8, 8), np.float32), np.zeros(40, np.int64)
    broken = x.copy()
    broken[3, 0, 2, 2] = np.nan
    cases: dict[str, tuple[dict[str, np.ndarray], str]] = {
        "shape": ({"x": x.reshape(40, 64), "y": y}, "input 'image' takes [1, 8, 8]"),
        "nan": ({"x": broken, "y": y}, "NaN or infinity in 1 of 40 samples"),
        "labels": ({"x": x, "y": y + 10}, "the model has 10 classes"),
        "length": ({"x": x, "y": y[:-1]}, "not one label for each of 40 samples"),
        "names": ({"images": x}, "holds images, not x_train, y_train or x, y"),
        "object": ({"x": np.array([{}] * 40, object), "y": y}, "cannot be read as npz"),
    }
    for name, (arrays, text) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        refused(snnc("compile", MODEL, "--data", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / "out")), text)
        assert not (tmp_path / "out").exists()
    (tmp_path / "text.npz").write_text("no npz")
    refused(snnc("compile", MODEL, "--data", str(tmp_path / "text.npz")), "cannot be read as npz")
    refused(snnc("compile", MODEL, "--data", str(tmp_path / "missing.npz")), "there is no such file")


def test_a_tampered_artifact_is_refused(snnc, build: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in build.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "network.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    refused(snnc("run", str(copy), "--data", DATA), "network.safetensors was altered")
    refused(snnc("calibrate", str(copy), "--data", DATA), "network.safetensors was altered")
    refused(snnc("run", str(tmp_path), "--data", DATA), "it has no manifest.json")


def test_a_folder_with_other_things_is_not_replaced(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    refused(snnc("compile", "missing.onnx", "--data", DATA, "--out", str(tmp_path / "thesis")), "no artifact")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_state_of_another_artifact_is_refused(snnc, build: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = tmp_path / "state"
    snnc("calibrate", str(build), "--data", DATA, "--out", str(state), "--train-samples", "50", "--quiet")
    other = tmp_path / "other"
    snnc("compile", MODEL, "--data", DATA, "--out", str(other), "--chips", "0", "--seed", "1", *FAST)
    refused(snnc("run", str(other), "--data", DATA, "--state", str(state)), "the state is of chip 0")


def test_a_json_user_gets_errors_as_json_too(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ended = snnc("compile", str(tmp_path / "missing.onnx"), "--data", DATA, "--json")
    assert ended.code == 2
    assert json.loads(ended.out)["ok"] is False


def test_an_interrupt_leaves_nothing_but_checkpoints(snnc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("snnc.compiler.measure", stop)
    ended = snnc("compile", MODEL, "--data", DATA, "--out", str(tmp_path / "b"), "--chips", "0", *FAST)
    assert ended.code == 130
    assert ended.err.strip() == "interrupted; the same command and --resume go on from the last checkpoint"
    assert [path.name for path in tmp_path.iterdir()] == ["b.checkpoints"]

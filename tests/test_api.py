"""The public functions: simulate, check, compile, open; what they refuse, and that equal input makes equal bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import snnc
from snnc.errors import DataError, PipelineError, TargetError

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL, DATA = EXAMPLES / "digits_cnn.onnx", EXAMPLES / "digits.npz"
FAST = "dynap-sim{steps=4 epochs=1}"


@pytest.fixture(scope="module")
def graph() -> snnc.Graph:
    return snnc.load(MODEL)


@pytest.fixture(scope="module")
def samples() -> snnc.data.Data:
    return snnc.data.load(DATA, train_samples=200, test_samples=50)


def test_the_executors_agree_on_the_imported_graph(graph: snnc.Graph) -> None:
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.testing.assert_allclose(snnc.simulate(graph, x), snnc.simulate(graph, x, "torch"), atol=1e-4)


def test_simulate_takes_dicts_by_name(graph: snnc.Graph) -> None:
    x = np.zeros((2, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(snnc.simulate(graph, {"image": x}), snnc.simulate(graph, x))


def test_simulate_refuses_what_does_not_fit(graph: snnc.Graph) -> None:
    with pytest.raises(DataError, match=r"input 'image' has shape \[2, 8, 8\], not \[N, 1, 8, 8\]"):
        snnc.simulate(graph, np.zeros((2, 8, 8)))
    with pytest.raises(DataError, match="holds NaN or infinity"):
        snnc.simulate(graph, np.full((1, 1, 8, 8), np.nan))
    with pytest.raises(DataError, match="the graph's inputs are image, given are picture"):
        snnc.simulate(graph, {"picture": np.zeros((1, 1, 8, 8))})
    with pytest.raises(PipelineError, match="no executor is named 'numba'"):
        snnc.simulate(graph, np.zeros((1, 1, 8, 8)), "numba")  # type: ignore[arg-type]


def test_check_says_what_becomes_of_every_node() -> None:
    found = snnc.check(MODEL, "dynap-sim")
    statuses = {f.op: f.status for f in found.findings}
    assert found.ok
    assert statuses == {
        "Conv": "spiking",
        "BatchNormalization": "spiking",
        "Relu": "spiking",
        "Reshape": "spiking",
        "Gemm": "host",
    }
    assert {f.why.split(" into ")[0] for f in found.findings if f.op == "BatchNormalization"} == {"merged"}
    assert [f.status for f in found.findings if f.op == "Gemm"] == ["spiking", "host"]
    wide = [limit for limit in found.limits if limit.limit == "fan-in" and not limit.ok]
    assert {(limit.layer, limit.value) for limit in wide} == {("relu2", 108), ("relu3", 216), ("relu4", 384)}
    assert "tags" in found.unchecked


def test_check_lists_every_unsupported_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Wave", ["x"], ["a"], name="wave", domain="nowhere"),
        helper.make_node("Relu", ["a"], ["b"], name="gate"),
        helper.make_node("Other", ["b"], ["y"], name="other", domain="nowhere"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    made = helper.make_model(
        helper.make_graph(nodes, "g", value[:1], value[1:]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)],
    )
    onnx.save(made, tmp_path / "odd.onnx")
    found = snnc.check(tmp_path / "odd.onnx")
    assert not found.ok
    assert [f.node for f in found.findings if f.status == "unsupported"] == ["wave", "other"]


def test_the_same_compile_twice_gives_the_same_bytes(samples: snnc.data.Data, tmp_path: Path) -> None:
    digests = {
        snnc.compile(MODEL, FAST, data=samples, out=tmp_path / name, chips=1, seed=5).digest for name in ("a", "b")
    }
    files = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert len(digests) == 1
    assert files[0] == files[1]


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of a process leaks in: hash seed, working directory, time zone."""
    code = (
        "import snnc, sys; d = snnc.data.load(sys.argv[2], train_samples=100, test_samples=20); "
        f"print(snnc.compile(sys.argv[1], '{FAST}', data=d, out=None, chips=0).digest)"
    )
    digests = set()
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        env = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONHASHSEED": str(number), "TZ": f"UTC{number}"}
        made = subprocess.run(
            [sys.executable, "-c", code, str(MODEL), str(DATA)],
            cwd=tmp_path / str(number),
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
        digests.add(made.stdout.strip())
    assert len(digests) == 1


def test_another_seed_trains_another_network(samples: snnc.data.Data) -> None:
    recipe = "fold-batchnorm,threshold-layernorm{steps=4},bias-per-step,limit-fan-in{k=8},quantize-weights,ltl"
    made = [snnc.compile(MODEL, data=samples, out=None, chips=0, seed=s, pipeline=recipe) for s in (0, 1)]
    weights = [m.graph.params["dense2.weight"] for m in made]
    assert not np.array_equal(*weights)


def test_a_pipeline_that_does_not_end_constrained_is_refused_before_anything_is_read() -> None:
    with pytest.raises(PipelineError, match="ends in stage spiking, 'dynap-sim' takes constrained"):
        snnc.compile("missing.onnx", data="missing.npz", pipeline="fold-batchnorm,threshold-layernorm")


def test_walls_are_named_at_the_users_nodes(samples: snnc.data.Data) -> None:
    recipe = "fold-batchnorm,threshold-layernorm{steps=4},bias-per-step,quantize-weights{bits=6}"
    with pytest.raises(TargetError) as caught:
        snnc.compile(MODEL, data=samples, out=None, pipeline=recipe)
    text = str(caught.value)
    assert text.count("the chip has 64") == 3
    assert "weight bits 6, the chip has 4" in text
    assert "node_relu_1" in text


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ("threshold-layernorm{steps=4},bias-per-step,quantize-weights{bits=3},ltl", "fan-in 90, the chip has 64"),
        (
            "threshold-layernorm{steps=4},bias-per-step,limit-fan-in{k=64},"
            "quantize-weights{levels=power-of-two per=tensor},ltl",
            "nor sums of 4 currents",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused_before_a_training(
    samples: snnc.data.Data, recipe: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: object) -> None:
        raise AssertionError("trained first")

    monkeypatch.setattr("snnc.train.LTL.run", trained)
    before = "fold-batchnorm,rectify,replace-activation,replace-max-pool,separate-layers,pool-neurons"
    with pytest.raises(TargetError) as caught:
        snnc.compile(MODEL, FAST, data=samples, out=None, pipeline=f"{before},{recipe}", chips=0)
    assert why in str(caught.value)
    other = f"{before},{recipe},quantize-weights{{bits=4}},limit-fan-in{{k=64}}"
    with pytest.raises(AssertionError, match="trained first"):
        snnc.compile(MODEL, FAST, data=samples, out=None, pipeline=other, chips=0)


def test_nothing_is_left_behind_when_a_compile_fails(samples: snnc.data.Data, tmp_path: Path) -> None:
    with pytest.raises(TargetError):
        snnc.compile(
            MODEL,
            data=samples,
            out=tmp_path / "build",
            pipeline="fold-batchnorm,threshold-layernorm{steps=2},limit-fan-in",
        )
    assert list(tmp_path.iterdir()) == []


def test_the_scaling_travels_with_the_artifact(tmp_path: Path) -> None:
    from snnc.api import scaling_of

    scaling = snnc.data.Scaling(0.5, (0.1,), (2.0,))
    samples = snnc.data.load(DATA, scaling=scaling, train_samples=100, test_samples=20)
    made = snnc.compile(MODEL, FAST, data=samples, out=tmp_path / "b", chips=0)
    assert scaling_of(snnc.open(tmp_path / "b")) == scaling == scaling_of(made)

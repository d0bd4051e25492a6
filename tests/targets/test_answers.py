"""The host's read-out while a chip learns: its gradient, what it may move, its state, what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from snnc.artifact import Bundle, pack, unpack
from snnc.data import Data
from snnc.errors import ArtifactError
from snnc.ir import Array, Node, TensorType
from snnc.score import ACCURACY
from snnc.sim.torch import tensors
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.answers import Answers, host_params
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.place import place
from tests.targets.networks import STEPS, data, exact, images

RATE = 0.01


def chip(**options: Any) -> DynapChip:
    made = DynapSim(**{"mismatch": 0.3, **options}).compile(exact("plain")).load(3)
    assert isinstance(made, DynapChip)
    return made


def host_values(made: DynapChip) -> dict[str, Array]:
    return {name: made.device.nominal[name].numpy().copy() for name in host_params(made.graph)}


def test_the_host_reads_out_with_the_params_behind_the_last_neurons() -> None:
    graph = place(exact("plain"))
    names = host_params(graph)
    assert names
    for name in names:
        users = [n for n in graph.nodes if name in n.inputs]
        assert users
        assert all(n.type.kind == "analog" and not graph.feeds(n.name, "lif") for n in users)


def test_the_first_step_goes_down_the_cross_entropy_by_hand() -> None:
    graph = place(exact("plain"))
    nominal = tensors(graph)
    weight, bias = host_params(graph)
    answers = Answers(graph, nominal, ACCURACY, RATE, 5)
    [read] = answers._part.inputs
    rng = np.random.default_rng(0)
    counts = rng.integers(0, STEPS, (6, *graph.type(read).shape)).astype(np.float32)
    labels = rng.integers(0, 3, 6)
    before = {name: nominal[name].numpy().astype(np.float64) for name in (weight, bias)}
    scores = counts.reshape(6, -1) @ before[weight].T + before[bias]
    soft = np.exp(scores - scores.max(1, keepdims=True))
    error = soft / soft.sum(1, keepdims=True) - np.eye(scores.shape[1])[labels]
    with torch.inference_mode():
        answers.learn({read: torch.tensor(counts)}, torch.tensor(labels))
    for name, gradient in ((weight, error.T @ counts.reshape(6, -1)), (bias, error.sum(0))):
        clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max()
        moved = nominal[name].numpy() - before[name]
        np.testing.assert_allclose(moved[clear], -RATE / STEPS * np.sign(gradient)[clear], rtol=1e-2)


def test_the_rate_falls_to_nothing_over_an_epoch() -> None:
    graph = place(exact("plain"))
    nominal = tensors(graph)
    weight = host_params(graph)[0]
    answers = Answers(graph, nominal, ACCURACY, RATE, 4)
    [read] = answers._part.inputs
    counts, moved = torch.ones(2, *graph.type(read).shape), []
    for _ in range(5):
        before = nominal[weight].clone()
        with torch.inference_mode():
            answers.learn({read: counts}, torch.tensor([0, 1]))
        moved.append(float((nominal[weight] - before).abs().max()))
    assert moved[0] == pytest.approx(RATE / STEPS, rel=1e-3)
    assert moved[3] < 0.3 * moved[0]
    assert moved[4] == 0


def test_fixed_and_learned_read_outs() -> None:
    fixed, learned = chip(readout="fixed"), chip()
    start = host_values(fixed)
    fixed.calibrate(data("plain"))
    learned.calibrate(data("plain"))
    assert all(np.array_equal(value, start[name]) for name, value in host_values(fixed).items())
    assert all(not np.array_equal(value, start[name]) for name, value in host_values(learned).items())
    for name, register in fixed.block.registers.items():
        assert torch.equal(register.stored, learned.block.registers[name].stored), "the chip learns the same"


def test_what_was_learned_is_part_of_the_state() -> None:
    one = chip()
    one.calibrate(data("plain"))
    again, x = one.artifact.load(3, one.state()), images(20)
    np.testing.assert_array_equal(again.run(x)["y"], one.run(x)["y"])
    plain = chip().state()
    assert set(unpack(plain, "state.safetensors")) == set(one.block.registers)


def misleading(made: DynapChip) -> Data:
    """Validation labels are what the chip answers; training labels are all another class."""
    found = data("plain")
    answers = made.run(found.validation)["y"].argmax(1)
    wrong = np.full(len(found.train), (answers[0] + 1) % 3)
    return replace(
        found, train=replace(found.train, labels=wrong), validation=replace(found.validation, labels=answers)
    )


def test_an_epoch_that_makes_validation_worse_is_taken_back() -> None:
    made, x = chip(rate=10.0), images(20)
    before, judged = made.run(x)["y"], misleading(made)
    rows = made.calibrate(judged, epochs=2).rows
    assert [row.value for row in rows] == [1.0, 1.0, 1.0]
    assert all("is worse than before" in row.notes[-1] for row in rows[1:])
    np.testing.assert_array_equal(made.run(x)["y"], before)
    assert set(unpack(made.state(), "state.safetensors")) == set(made.block.registers)
    made.learn(judged.train)
    assert not np.array_equal(made.run(x)["y"], before), "what was taken back was worth it"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_read_out_that_no_host_can_have_is_refused(bad: float) -> None:
    one = chip()
    state, [name, _] = one.state(), host_params(one.graph)
    stored = {**unpack(state, "state.safetensors"), name: np.full_like(one.graph.params[name], bad)}
    files = {**state.files, "state.safetensors": pack(stored)}
    with pytest.raises(ArtifactError, match="the state has no fitting"):
        one.artifact.load(3, Bundle("chip", files, state.facts))


def test_answers_that_cannot_be_taught_stay_and_say_why() -> None:
    graph = place(exact("plain"))
    [(user, name)] = graph.outputs.items()
    floor = Node("floored", "floor", (name,), {}, (), TensorType("analog", graph.type(name).shape))
    answers = Answers(graph.edit([*graph.nodes, floor], outputs={user: "floored", "z": name}), {}, ACCURACY, RATE, 1)
    assert "one output, not 2" in answers.why
    assert answers.learns == ()
    answers.learn({}, torch.zeros(1))


def test_labels_are_those_of_their_samples() -> None:
    """What is linear in the spikes can be read out of them, if every sample comes with its own label."""
    made, found = chip(mismatch=0.0, rate=0.1, learning="hardware", p_write=1e-9), data("plain")
    score = made.run(found.train)["y"] @ [1.0, 0.0, -1.0]
    labels = (score > np.median(score)).astype(np.int64)
    for _ in range(10):
        made.learn(replace(found.train, labels=labels))
    assert (made.run(found.train)["y"].argmax(1) == labels).mean() > 0.85

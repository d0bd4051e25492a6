"""Streams of events as inputs: which there are, what shape a sample must have, and what the verifier refuses."""

from __future__ import annotations

import numpy as np
import pytest

from snnc.errors import GraphError
from snnc.ir import Graph, parse, to_text
from snnc.ir.streams import is_stream, sample_shape, streamed
from tests.graphs import Builder, mlp


def network(code: str = "events") -> Graph:
    b = Builder({"x": (2, 3)}, 4)
    return b.graph(b("total", "decode", b("current", "encode", "x", code=code)))


def test_an_encoding_of_events_makes_its_input_a_stream() -> None:
    assert streamed(network()) == {"x"}
    assert streamed(network("direct")) == streamed(mlp()) == frozenset()


@pytest.mark.parametrize("sample", [(2, 3), (4, 2, 3), (5, 2, 3), (4, 3, 2), ()])
def test_events_come_in_as_many_steps_as_the_network_has(sample: tuple[int, ...]) -> None:
    assert sample_shape(network(), "x", sample) == (4, 2, 3)


@pytest.mark.parametrize(
    ("sample", "wanted"), [((2, 3), (2, 3)), ((5, 2, 3), (5, 2, 3)), ((5, 3, 2), (2, 3)), ((1, 5, 2, 3), (2, 3))]
)
def test_totals_can_be_taken_of_streams_of_any_length(sample: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert sample_shape(network("direct"), "x", sample) == wanted
    assert is_stream(network("direct"), "x", sample) == (sample == (5, 2, 3))


def test_the_text_keeps_the_code() -> None:
    graph = network()
    assert to_text(parse(to_text(graph), graph.arrays())) == to_text(graph)


def test_what_is_computed_is_no_stream() -> None:
    b = Builder({"x": (3,)}, 4)
    b("current", "encode", b("front", "scale", "x", factor=np.float32(2)), code="events")
    with pytest.raises(GraphError, match="the code 'events' reads an input, nothing that is computed"):
        b.graph(b("total", "decode", "current"))


def test_events_have_no_seed() -> None:
    b = Builder({"x": (3,)}, 4)
    b("current", "encode", "x", code="events", seed=3, max=1.0)
    with pytest.raises(GraphError, match="seed and max belong to the code 'rate'"):
        b.graph(b("total", "decode", "current"))

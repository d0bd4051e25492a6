"""Artifacts: same bytes twice, no damage goes unnoticed, nothing half written stays, nothing outside is touched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnc import artifact
from snnc.artifact import MANIFEST, Bundle, canonical, graph_files, graph_from, pack, unpack
from snnc.errors import ArtifactError
from snnc.ir import Constraint, Graph, Node, Stage, TensorType, to_text
from snnc.target import Artifact
from snnc.targets import TARGETS, DynapSim

FILES = {"a.txt": b"hello", "b.bin": bytes(range(256)), "empty": b""}


def bundle(**facts: Any) -> Bundle:
    return Bundle("artifact", FILES, {"seed": 0, **facts})


def spiking() -> Graph:
    """A constrained network with a teacher: input [3], two neurons, two scores."""
    x = {"x": TensorType("analog", (3,))}
    weight = np.array([[1, 0, -2], [0.5, 0, 1]], np.float32)
    nodes = [Node("fc1", "dense", ("x", "w1"), origin=("/fc1/Gemm",)), Node("relu1", "relu", ("fc1",))]
    nodes.append(Node("fc2", "dense", ("relu1", "w2")))
    teacher = Graph(x, (), {}, {}).edit(
        nodes, params={"w1": weight, "w2": np.eye(2, dtype=np.float32)}, outputs={"y": "fc2"}
    )
    params = {f"relu1.{k}": np.array(v, np.float32) for k, v in (("alpha", 1), ("theta", 1.5), ("u0", 0.75))}
    lowered = [
        Node("x.current", "encode", ("x",), {"code": "direct"}),
        Node("fc1", "dense", ("x.current", "w1"), origin=("/fc1/Gemm",)),
        Node("relu1", "lif", ("fc1", *params), {"reset": "subtract"}),
        Node("fc2", "dense", ("relu1", "w2")),
        Node("out", "decode", ("fc2",)),
    ]
    constraint = Constraint(4, np.array([[0.5], [0.25]], np.float32), weight != 0)
    return Graph(x, (), teacher.params, {}, Stage.CONSTRAINED, 4, {}, teacher).edit(
        lowered, params=params, outputs={"y": "out"}, constraints={"w1": constraint}
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a whole artifact in it."""
    bundle().write(tmp_path / "build")
    return tmp_path / "build"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def forge(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the manifest, in canonical form."""
    manifest = json.loads((place / MANIFEST).read_bytes())
    manifest = change(manifest) or manifest
    (place / MANIFEST).write_bytes(canonical(manifest))


# --- round trip


def test_write_and_read(place: Path) -> None:
    found = Bundle.read(place, "artifact")
    assert dict(found.files) == FILES
    assert found.facts == {"seed": 0}
    assert found.digest == bundle().digest == hashlib.sha256((place / MANIFEST).read_bytes()).hexdigest()
    assert found.digest != bundle(model="x").digest == found.with_facts(model="x").digest


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    backwards = Bundle("artifact", dict(reversed(FILES.items())), {"seed": 0})
    bundle().write(tmp_path / "one")
    backwards.write(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    one, two = DynapSim().compile(spiking()), DynapSim().compile(spiking())
    assert one.bundle.files == two.bundle.files
    assert one.digest == two.digest


def test_a_graph_and_its_arrays(tmp_path: Path) -> None:
    graph = spiking()
    assert graph.teacher is not None
    made = Bundle("artifact", {**graph_files("network", graph), **graph_files("teacher", graph.teacher)})
    made.write(tmp_path / "build")
    found = Bundle.read(tmp_path / "build", "artifact")
    again = graph_from(found, "network", graph_from(found, "teacher"))
    assert to_text(again) == to_text(graph)
    assert again.teacher is not None
    assert to_text(again.teacher) == to_text(graph.teacher)
    assert list(again.arrays()) == list(graph.arrays())
    for name, array in graph.arrays().items():
        assert again.arrays()[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays()[name], array)
    assert graph_files("network", again) == graph_files("network", graph)


def test_open_gives_back_target_and_network(tmp_path: Path) -> None:
    target = DynapSim(steps=4, mismatch=0.1)
    made = target.compile(spiking())
    made.bundle.write(tmp_path / "build")
    found = Artifact.open(str(tmp_path / "build"), TARGETS)
    assert found.target == target
    assert found.digest == made.digest
    x = np.random.default_rng(0).random((5, 3), np.float32) * 4
    np.testing.assert_array_equal(found.load(3).run(x)["y"], made.load(3).run(x)["y"])


def test_arrays_without_any_axis_stay_so() -> None:
    made = Bundle("chip", {"s": pack({"b": np.array(2.5, np.float32), "a": np.zeros((0, 3), np.int32)})})
    found = unpack(made, "s")
    assert (found["b"].shape, str(found["b"].dtype), float(found["b"])) == ((), "float32", 2.5)
    assert (found["a"].shape, str(found["a"].dtype)) == ((0, 3), "int32")


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    Bundle("chip", FILES).write(tmp_path / "state")
    assert dict(Bundle.read(tmp_path / "state", "chip").files) == FILES
    with pytest.raises(ArtifactError, match="holds 'chip', format 1, not 'artifact', format 1"):
        Bundle.read(tmp_path / "state", "artifact")


# --- damage


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_flipped_bit_is_noticed(place: Path, name: str) -> None:
    whole = (place / name).read_bytes()
    rng = np.random.default_rng(0)
    bits = range(8 * len(whole)) if len(whole) < 10 else rng.choice(8 * len(whole), 150, replace=False).tolist()
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (place / name).write_bytes(damaged)
        try:
            found = Bundle.read(place, "artifact")
        except ArtifactError:
            continue
        assert name == MANIFEST, "only a fact may still read well, and then it is another artifact"
        assert found.facts != bundle().facts
        assert found.digest != bundle().digest
    (place / name).write_bytes(whole)
    Bundle.read(place, "artifact")


@pytest.mark.parametrize("name", ["a.txt", "b.bin", MANIFEST])
def test_truncated_grown_and_missing_files(place: Path, name: str) -> None:
    whole = (place / name).read_bytes()
    for data in (whole[:-1], b"", whole + b"\0", whole + b"\n"):
        (place / name).write_bytes(data)
        with pytest.raises(ArtifactError):
            Bundle.read(place, "artifact")
    (place / name).unlink()
    with pytest.raises(ArtifactError, match=r"is missing|has no manifest\.json"):
        Bundle.read(place, "artifact")


def test_all_damage_is_listed_at_once(place: Path) -> None:
    (place / "a.txt").unlink()
    (place / "b.bin").write_bytes(b"")
    (place / "stranger").write_bytes(b"")
    with pytest.raises(ArtifactError) as caught:
        Bundle.read(place, "artifact")
    assert str(caught.value) == (
        f"'{place}' is damaged\n"
        "  - a.txt is missing\n"
        "  - stranger does not belong to it\n"
        "  - b.bin was altered: it does not match the manifest\n"
        "  try: compile again"
    )


def test_swapped_files(place: Path) -> None:
    (place / "a.txt").rename(place / "x")
    (place / "b.bin").rename(place / "a.txt")
    (place / "x").rename(place / "b.bin")
    with pytest.raises(ArtifactError) as caught:
        Bundle.read(place, "artifact")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["a.txt", MANIFEST])
def test_links_are_not_followed(place: Path, tmp_path: Path, name: str) -> None:
    (place / name).rename(tmp_path / "outside")
    (place / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError):
        Bundle.read(place, "artifact")


def test_folders_and_pipes_in_the_place_of_files(place: Path) -> None:
    (place / "empty").unlink()
    (place / "empty").mkdir()
    with pytest.raises(ArtifactError) as caught:
        Bundle.read(place, "artifact")
    assert "empty" in str(caught.value)
    (place / "a.txt").unlink()
    os.mkfifo(place / "a.txt")  # must not wait for a writer
    with pytest.raises(ArtifactError, match="is damaged"):
        Bundle.read(place, "artifact")


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in ("missing", "file", "."):
        with pytest.raises(ArtifactError, match=r"is no artifact: it has no manifest\.json"):
            Bundle.read(tmp_path / folder, "artifact")


def test_a_file_that_is_far_too_large_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "LARGEST", 1000)
    with (place / "b.bin").open("wb") as file:
        file.truncate(1001)
    with pytest.raises(ArtifactError, match="is larger than 1000 bytes"):
        Bundle.read(place, "artifact")


# --- forged manifests


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format":1,"kind":"artifact","files":{},"facts":{}}',
        b'{"format":1,"kind":"artifact","files":[],"facts":{}}',
        b'{"format":1,"kind":"artifact","files":{"a.txt":7},"facts":{}}',
        b'{"format":1,"kind":"artifact","files":{"a.txt":{"sha256":"","size":1e999}},"facts":{}}',
        b'{"format":1e999,"kind":"artifact","files":{},"facts":{}}',
        b'{"format":1,"kind":"artifact","files":{"a.txt":{"sha256":"","size":"x"}},"facts":{}}',
        b'{"format":1,"kind":"artifact","files":{},"facts":7}',
        b'{"format":1,"kind":"artifact","files":{},"facts":{},"more":1}',
        b'{"format":NaN,"kind":"artifact","files":{},"facts":{}}',
    ],
)
def test_manifests_that_are_none(place: Path, raw: bytes) -> None:
    (place / MANIFEST).write_bytes(raw)
    with pytest.raises(ArtifactError):
        Bundle.read(place, "artifact")


@pytest.mark.parametrize("facts", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a":' + b"[" * 800 + b"]" * 800 + b"}"])
def test_facts_that_cannot_be_written_again(place: Path, facts: bytes) -> None:
    raw = (place / MANIFEST).read_bytes()
    (place / MANIFEST).write_bytes(raw.replace(b'{\n  "seed": 0\n }', facts))
    assert facts in (place / MANIFEST).read_bytes()
    with pytest.raises(ArtifactError, match="not in canonical form"):
        Bundle.read(place, "artifact")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"]["a.txt"].update(size="5"),
        lambda m: m["files"]["a.txt"].update(size=5.0),
        lambda m: m["files"]["a.txt"].update(note="x"),
        lambda m: m.update(format="1"),
        lambda m: m.update(format=True),
        lambda m: m.update(note="x"),
        lambda m: m.update(facts=[["seed", 0]]),
    ],
)
def test_only_the_canonical_manifest_counts(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Two manifests for the same files would be two digests for the same artifact."""
    forge(place, change)
    with pytest.raises(ArtifactError, match="not in canonical form"):
        Bundle.read(place, "artifact")


def test_other_formats_are_refused(place: Path) -> None:
    forge(place, lambda m: m.update(format=2))
    with pytest.raises(ArtifactError, match="holds 'artifact', format 2"):
        Bundle.read(place, "artifact")


OUTSIDE = ["../secret", "/etc/hostname", "", ".", "..", "sub/a.txt", "./a.txt"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_outside_are_never_read(
    place: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = b"secret"
    (tmp_path / "secret").write_bytes(secret)
    (place / "sub").mkdir()
    (place / "sub/a.txt").write_bytes(secret)
    row = {"sha256": hashlib.sha256(secret).hexdigest(), "size": len(secret)}
    forge(place, lambda m: m["files"].update({name: row}))
    opened: list[Path] = []
    real = Path.read_bytes

    def spy(path: Path) -> bytes:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", spy)
    with pytest.raises(ArtifactError):
        Bundle.read(place, "artifact")
    assert {path.parent for path in opened} == {place}
    assert {path.name for path in opened} <= {*FILES, MANIFEST}


@pytest.mark.parametrize("name", [*OUTSIDE, "a\\b", "a\0b", "c:x", MANIFEST])
def test_names_that_lead_outside_are_never_written(name: str) -> None:
    with pytest.raises(ArtifactError):
        Bundle("artifact", {"a.txt": b"", name: b"evil"})


# --- what is inside


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("target.json", b"{", "target.json is no JSON"),
        ("target.json", b"[" * 100_000, "target.json is no JSON"),
        ("target.json", b"\xff", "target.json is no JSON"),
        ("target.json", b"[]", "target.json names no target"),
        ("target.json", b"{}", "target.json names no target"),
        ("target.json", b'{"target": 7}', "target.json names no target"),
        ("target.json", b'{"target": "no-such-chip"}', "no target is named 'no-such-chip'"),
        ("target.json", b'{"target": "dynap-sim{steps=x}"}', "option steps=x"),
        ("target.json", b'{"target": "dynap-sim,dynap-sim"}', "should be one name"),
        ("target.json", b'{"target": "dynap-sim{mismatch=7.0}"}', "mismatch=7.0"),
        ("network.txt", b"\xff\xfe", "network makes no valid graph"),
        ("network.txt", b"", "network makes no valid graph"),
        ("network.txt", b"snnc-graph 1\nfoo: bar\n", "network makes no valid graph"),
        ("network.safetensors", b"", "network.safetensors is no safetensors file"),
        ("network.safetensors", b"\xff" * 64, "network.safetensors is no safetensors file"),
        ("teacher.safetensors", pack({}), "teacher makes no valid graph"),
    ],
)
def test_well_hashed_nonsense(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    """A forger can make good hashes; what they cover is still parsed as untrusted."""
    whole = DynapSim().compile(spiking()).bundle
    Bundle("artifact", {**whole.files, name: data}).write(tmp_path / "build")
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(str(tmp_path / "build"), TARGETS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", ["target.json", "network.txt", "network.safetensors", "teacher.txt", "teacher.safetensors"]
)
def test_well_hashed_but_incomplete(tmp_path: Path, name: str) -> None:
    whole = DynapSim().compile(spiking()).bundle
    Bundle("artifact", {k: v for k, v in whole.files.items() if k != name}).write(tmp_path / "build")
    with pytest.raises(ArtifactError, match=f"holds no {name}"):
        Artifact.open(str(tmp_path / "build"), TARGETS)


def test_well_hashed_damage_is_an_artifact_error_whatever_the_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # 1,500 files
    whole = DynapSim().compile(spiking()).bundle
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        name = ("network.txt", "network.safetensors", "target.json", "teacher.txt")[trial % 4]
        data = bytearray(whole.files[name])
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = int(rng.integers(0, 256)) if rng.random() < 0.5 else data[int(rng.integers(len(data)))]
        shutil.rmtree(tmp_path / "build", ignore_errors=True)
        Bundle("artifact", {**whole.files, name: bytes(data)}).write(tmp_path / "build")
        try:
            Artifact.open(str(tmp_path / "build"), TARGETS)
        except ArtifactError:
            refused += 1
    assert refused > 150


# --- atomic


STEPS = ["mkdir", "mkdtemp", "open", "write", "fsync", "chmod", "rename aside", "rename in"]


def fail(step: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make one step of writing raise as a full disk does; gives back what was hit."""
    hit: list[str] = []

    def full(*args: Any, **options: Any) -> Any:
        hit.append(step)
        raise OSError(errno.ENOSPC, "No space left on device")

    real_rename, real_open = Path.rename, Path.open
    if step == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    elif step == "mkdtemp":
        monkeypatch.setattr(tempfile, "mkdtemp", full)
    elif step == "open":
        monkeypatch.setattr(Path, "open", lambda p, *a, **o: full() if p.name == "b.bin" else real_open(p, *a, **o))
    elif step == "write":
        real = artifact._write_file
        monkeypatch.setattr(artifact, "_write_file", lambda p, d: full() if p.name == MANIFEST else real(p, d))
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif step == "chmod":
        monkeypatch.setattr(Path, "chmod", full)
    elif step == "rename aside":
        monkeypatch.setattr(Path, "rename", lambda p, to: full() if Path(to).name == "old" else real_rename(p, to))
    elif step == "rename in":
        monkeypatch.setattr(
            Path, "rename", lambda p, to: full() if p.name.startswith(".build.") else real_rename(p, to)
        )
    return hit


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_leaves_the_old_artifact_whole_and_no_litter(
    place: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tmp_path)
    hit = fail(step, monkeypatch)
    with pytest.raises(ArtifactError, match="cannot be written: No space left on device"):
        bundle(more=1).write(place)
    monkeypatch.undo()
    assert hit
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["build"]
    bundle(more=1).write(place)
    assert Bundle.read(place, "artifact").facts == {"seed": 0, "more": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["build"]


@pytest.mark.parametrize("step", [s for s in STEPS if s != "rename aside"])
def test_a_failure_in_a_new_place_leaves_nothing(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(step, monkeypatch)
    with pytest.raises(ArtifactError, match="cannot be written"):
        bundle().write(tmp_path / "build")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_an_old_artifact_that_cannot_go_back_is_kept_and_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(place)
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if Path(to) == place:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ArtifactError, match="nor can the old one be put back") as caught:
        bundle(more=1).write(place)
    monkeypatch.undo()
    [kept] = tmp_path.glob(".build.old.*/old")
    assert contents(kept) == before
    assert str(kept) in caught.value.hint


def test_a_folder_that_cannot_be_synced_after_the_move_is_still_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = artifact._sync
    calls: list[Path] = []

    def sync(folder: Path) -> None:
        calls.append(folder)
        if folder == place.parent:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(folder)

    monkeypatch.setattr(artifact, "_sync", sync)
    bundle(more=1).write(place)
    assert place.parent in calls
    assert Bundle.read(place, "artifact").facts["more"] == 1


def test_an_interrupt_leaves_the_old_artifact_whole(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tmp_path)
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if path.name.startswith(".build.") and Path(to) == place:
            raise KeyboardInterrupt
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        bundle(more=1).write(place)
    monkeypatch.undo()
    assert contents(tmp_path) == before


# --- what may be replaced


def test_a_damaged_artifact_may_be_replaced(place: Path) -> None:
    (place / "b.bin").write_bytes(b"damaged")
    (place / "a.txt").unlink()
    bundle().write(place)
    assert dict(Bundle.read(place, "artifact").files) == FILES


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    bundle().write(tmp_path / "build")
    bundle().write(tmp_path / "new/deep/build")
    assert Bundle.read(tmp_path / "new/deep/build", "artifact").digest == bundle().digest


def web_app(folder: Path) -> None:
    """A browser extension: its manifest has the same name as ours."""
    (folder / MANIFEST).write_text('{"name": "my extension", "manifest_version": 3}')
    (folder / "background.js").write_text("precious")


def with_a_stranger(folder: Path) -> None:
    bundle().write(folder)
    (folder / "notes.md").write_text("precious")


def plain_folder(folder: Path) -> None:
    (folder / "thesis.tex").write_text("precious")


def unreadable_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


@pytest.mark.parametrize("make", [web_app, with_a_stranger, plain_folder, unreadable_manifest])
def test_folders_that_are_no_artifact_are_not_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "build"
    folder.mkdir()
    make(folder)
    before = contents(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        bundle(more=1).write(folder)
    assert caught.value.message == "is taken by something that is no artifact"
    assert caught.value.at == str(folder)
    assert contents(tmp_path) == before


def test_files_and_links_are_not_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(place)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = contents(tmp_path)
    for name in ("file", "link", "dangling"):
        with pytest.raises(ArtifactError, match="is taken by something"):
            bundle(more=1).write(tmp_path / name)
    with pytest.raises(ArtifactError, match="cannot be written"):
        bundle().write(tmp_path / "file" / "below")
    assert contents(tmp_path) == before

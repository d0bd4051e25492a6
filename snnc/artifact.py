"""What a compile delivers: a folder of named bytes and a manifest that proves them.

    network.txt  network.safetensors    the graph for the chip and its arrays
    teacher.txt  teacher.safetensors    the analog graph that calibration needs
    target.json                         the target and its options
    report.json    report.html          ledger, chips, cost and diagnosis, without times; the same as a page
    manifest.json                       SHA-256 and size of every other file, what it was made from

Equal input gives equal bytes. A folder is built beside its place and moved there by one rename, the manifest written
last; it is verified against the manifest before anything in it is parsed. Nothing in it is code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from .errors import ArtifactError, GraphError
from .ir import Array, Graph, parse, to_text

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST = 2**31
"""Bytes of one file that are read at most."""


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spare room: equal values give equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


@dataclass(frozen=True, eq=False)
class Bundle:
    """Named bytes, and facts about where they came from.

    Attributes:
        kind: what the files describe: `artifact`, `chip` (the state of one calibrated chip) or `yield`.
        files: by plain file name.
        facts: provenance: plain JSON data.
    """

    kind: str
    files: Mapping[str, bytes]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if odd := [name for name in self.files if name in ("", ".", "..") or set(name) & set("/\\:\0")]:
            raise ArtifactError(f"{', '.join(map(repr, odd))} is no plain file name")
        if MANIFEST in self.files:
            raise ArtifactError(f"{MANIFEST} is not one of its own files")

    @property
    def manifest(self) -> bytes:
        """The manifest's bytes."""
        listed = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in self.files.items()
        }
        return canonical({"format": FORMAT, "kind": self.kind, "files": listed, "facts": dict(self.facts)})

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and so of everything."""
        return hashlib.sha256(self.manifest).hexdigest()

    def json(self, name: str) -> Any:
        """A JSON file of the bundle."""
        if name not in self.files:
            raise ArtifactError(f"holds no {name}")
        try:
            return json.loads(self.files[name])
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{name} is no JSON: {error}") from None

    def write(self, folder: str | Path) -> None:
        """Write into `folder`, which is replaced as a whole if it holds a bundle, and must not exist otherwise.

        Raises:
            ArtifactError: the place is taken by something else, or cannot be written; nothing is left behind.
        """
        place = Path(folder)
        self.check_place(place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        except OSError as error:
            raise ArtifactError(f"cannot be written: {error.strerror}", at=str(place)) from None
        try:
            for name, data in [*sorted(self.files.items()), (MANIFEST, self.manifest)]:
                _write_file(made / name, data)
            made.chmod(0o755)
            _sync(made)
            _swap(made, place)
        except OSError as error:
            raise ArtifactError(f"cannot be written: {error.strerror}", at=str(place)) from None
        finally:
            shutil.rmtree(made, ignore_errors=True)

    @staticmethod
    def check_place(place: Path) -> None:
        """Refuse a place where something lies that is neither a bundle nor an empty folder."""
        if place.is_symlink() or (place.exists() and not (place.is_dir() and _replaceable(place))):
            raise ArtifactError(
                "is taken by something that is no artifact", at=str(place), hint="choose another --out, or remove it"
            )

    @classmethod
    def read(cls, folder: str | Path, kind: str) -> Bundle:
        """Read and verify.

        Raises:
            ArtifactError: lists every missing, extra or altered file.
        """
        place = Path(folder)
        manifest_path = place / MANIFEST
        if not manifest_path.is_file() or manifest_path.is_symlink():
            raise ArtifactError(f"is no {kind}: it has no {MANIFEST}", at=str(place))
        raw = _read_file(manifest_path)
        try:
            manifest = json.loads(raw)
            listed = {str(name): (str(f["sha256"]), int(f["size"])) for name, f in manifest["files"].items()}
            found_kind, form, facts = str(manifest["kind"]), int(manifest["format"]), dict(manifest["facts"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ArtifactError(f"{MANIFEST} is damaged: {error!r}", at=str(place)) from None
        if form != FORMAT or found_kind != kind:
            raise ArtifactError(f"holds '{found_kind}', format {form}, not '{kind}', format {FORMAT}", at=str(place))
        problems: list[ArtifactError] = []
        present = _names(place) - {MANIFEST}
        problems += [ArtifactError(f"{name} is missing") for name in sorted(set(listed) - present)]
        problems += [ArtifactError(f"{name} does not belong to it") for name in sorted(present - set(listed))]
        files = {}
        for name in sorted(set(listed) & present):
            sha, size = listed[name]
            plain = (place / name).is_file() and not (place / name).is_symlink()
            data = _read_file(place / name) if plain else b""
            if not plain or len(data) != size or hashlib.sha256(data).hexdigest() != sha:
                problems.append(ArtifactError(f"{name} was altered: it does not match the manifest"))
            files[name] = data
        if problems:
            raise ArtifactError.gather(f"'{place}' is damaged", problems, hint="compile again")
        bundle = cls(found_kind, files, facts)
        try:
            same = bundle.manifest == raw
        except (ValueError, RecursionError):  # NaN, or deeper than it can be written
            same = False
        if not same:
            raise ArtifactError(f"{MANIFEST} was altered: it is not in canonical form", at=str(place))
        return bundle

    def with_facts(self, **facts: Any) -> Bundle:
        """With more facts."""
        return replace(self, facts={**self.facts, **facts})


def graph_files(stem: str, graph: Graph) -> dict[str, bytes]:
    """A graph as two files, `stem`.txt and `stem`.safetensors (no metadata: with it the bytes would vary)."""
    arrays = {name: np.asarray(a, np.uint8 if a.dtype == np.bool_ else a.dtype) for name, a in graph.arrays().items()}
    return {f"{stem}.txt": to_text(graph).encode(), f"{stem}.safetensors": pack(arrays)}


def graph_from(bundle: Bundle, stem: str, teacher: Graph | None = None) -> Graph:
    """The graph behind `graph_files`; verified.

    Raises:
        ArtifactError: the files are missing or make no valid graph.
    """
    if f"{stem}.txt" not in bundle.files:
        raise ArtifactError(f"holds no {stem}.txt")
    try:
        return parse(bundle.files[f"{stem}.txt"].decode(), unpack(bundle, f"{stem}.safetensors"), teacher)
    except (GraphError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{stem} makes no valid graph: {error}") from None


def pack(arrays: Mapping[str, Array]) -> bytes:
    """safetensors without metadata."""
    return save_tensors({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in sorted(arrays.items())})


def unpack(bundle: Bundle, name: str) -> dict[str, Array]:
    """The arrays of a safetensors file."""
    if name not in bundle.files:
        raise ArtifactError(f"holds no {name}")
    try:
        return dict(load_tensors(bundle.files[name]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{name} is no safetensors file: {error}") from None


def _replaceable(place: Path) -> bool:
    """Whether a folder is empty or holds one of our bundles, damaged or not, and nothing else.

    A file called manifest.json alone proves nothing: web apps and browser extensions have one too.
    """
    names = _names(place)
    if not names:
        return True
    try:
        manifest = json.loads(_read_file(place / MANIFEST))
        ours = set(manifest) == {"format", "kind", "files", "facts"}
        return ours and names <= {MANIFEST, *manifest["files"]}
    except (ArtifactError, OSError, ValueError, TypeError, RecursionError):
        return False


def _swap(made: Path, place: Path) -> None:
    """Move `made` to `place`; what was there goes aside first and comes back should the move fail."""
    if not place.exists():
        made.rename(place)
    else:
        room = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
        try:
            place.rename(room / "old")
            _put(made, place, room / "old")
        finally:
            if place.exists():
                shutil.rmtree(room, ignore_errors=True)
    with contextlib.suppress(OSError):  # it stands in its place already
        _sync(place.parent)


def _put(made: Path, place: Path, old: Path) -> None:
    try:
        made.rename(place)
    except BaseException as error:
        try:
            old.rename(place)
        except OSError:
            raise ArtifactError(
                f"cannot be written: {error}; nor can the old one be put back",
                at=str(place),
                hint=f"it is {old}",
            ) from None
        raise


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", at=str(folder)) from None


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise ArtifactError(f"is larger than {LARGEST} bytes", at=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", at=str(path)) from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

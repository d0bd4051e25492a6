"""The hostile corpus through the limited process: a typed error or documented handling, every time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from snnc.errors import SnncError
from snnc.importer import Limits, Options, sandbox
from tests.importer.hostile import CASES, Case, plain, write_all

ROOT = Path(__file__).parents[2]
CPU_SECONDS, MEMORY = 5, 2**30
"""Promised are 10 seconds and 1 GiB: only what would never end comes near."""

OPTIONS = Options(limits=Limits(cpu_seconds=CPU_SECONDS, memory_bytes=MEMORY))
LIMITS = {"cpu-limit", "memory-limit"}
NEVER = {"internal", "crash", "time-limit", "worker", ""}
"""Codes that would be a mistake of ours, or none at all."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Path]:
    return write_all(tmp_path_factory.mktemp("corpus"))


def state(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its kind and content."""
    found = {}
    for place, names, files in os.walk(folder):
        for name in (*names, *files):
            path = Path(place, name)
            plain_file = path.is_file() and not path.is_symlink()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if plain_file else oct(path.lstat().st_mode)
            found[str(path.relative_to(folder))] = content
    return found


def problems(reply: sandbox.Reply) -> list[SnncError]:
    """Every error of an answer."""
    if reply.error is not None:
        return [reply.error]
    assert reply.made is not None
    return [found.problem for found in reply.made.findings if found.problem is not None]


def test_the_corpus_is_large_enough() -> None:
    groups = Counter(case.group for case in CASES)
    assert sum(groups.values()) - groups["legal"] >= 150
    assert groups["legal"] >= 40
    assert groups["external"] >= 30
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)


def test_every_file_ends_well(corpus: dict[Case, Path]) -> None:
    """Expected code, no crash, within the limits, nothing written, nothing printed raw."""
    folder = next(iter(corpus.values())).parents[2]
    before, wrong = state(folder), []
    for case, path in corpus.items():
        reply = sandbox.ask("examine", path, OPTIONS)
        found = problems(reply)
        codes = {error.code for error in found} or {"accepted"}
        as_told = bool(codes & set(case.codes)) or ("any" in case.codes and codes != {"accepted"})
        texts = [str(error) for error in found]
        if reply.made is not None:
            texts += [finding.node for finding in reply.made.findings] + list(reply.made.notes)
        faults = {
            "codes": None if as_told and not codes & NEVER else f"{sorted(codes)}, not {case.codes}",
            "signal": None if reply.usage.code == 0 or codes <= LIMITS else reply.usage.code,
            "CPU": reply.usage.cpu if reply.usage.cpu > CPU_SECONDS + 1 else None,
            "memory": reply.usage.peak if reply.usage.peak > MEMORY else None,
            "raw": next((t for t in texts if not t.replace("\n", "").isprintable() or "Traceback" in t), None),
            "length": next((len(t) for t in texts if len(t) > 20_000), None),
        }
        faults = {name: fault for name, fault in faults.items() if fault is not None}
        if faults:
            wrong.append(f"{case.group}/{case.name}: {faults} {texts[:1]}")
    assert not wrong, "\n".join(map(str, wrong))
    assert state(folder) == before


AUDIT = """
import json, os, pathlib, sys
from snnc.importer import worker
from snnc.importer.options import Limits, Options
from snnc.importer.wire import options_to_json
worker._warm_up()
seen = []
WATCHED = ("open", "os.", "shutil.", "socket.", "subprocess.", "ctypes.", "tempfile.", "urllib.", "ftplib.", "pickle.")
def hook(event, args):
    if event.startswith(WATCHED) and event not in ("os.listdir", "os.scandir"):
        seen.append([event, [a if isinstance(a, int) else os.fsdecode(a) if isinstance(a, (str, bytes, os.PathLike))
                             else str(a) for a in args]])
options = options_to_json(Options(limits=Limits(cpu_seconds=2, memory_bytes=2**30)))
for path in map(str.rstrip, sys.stdin):
    out, into = os.pipe()
    if os.fork() == 0:
        os.close(out)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        import resource
        resource.setrlimit(resource.RLIMIT_CPU, (2, 3))
        sys.dont_write_bytecode = True
        sys.addaudithook(hook)
        for task in ("examine", "digest"):
            worker.respond({"task": task, "path": path, "options": options})
        found = list(seen)
        os.write(into, json.dumps(found).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        content = file.read()
    os.wait()
    print(json.dumps([path, json.loads(content or b"[]")]), flush=True)
"""


def test_nothing_is_opened_outside_the_folder(corpus: dict[Case, Path]) -> None:
    """An audit hook sees every open of Python's: of the model's folder, part by part without following links, or of
    Python's own modules; nothing is opened for writing, removed, renamed, started or connected to.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    given = "".join(f"{path}\n" for case, path in corpus.items() if case.name != "matmul")
    done = subprocess.run(
        [sys.executable, "-c", AUDIT], input=given, env=environment, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(corpus) - 1
    homes = [
        str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, ROOT / "snnc", Path(os.__file__).parent)
    ]
    wrong = [
        (path, event)
        for path, events in answers
        for event in events
        if not allowed(event[0], event[1], Path(path).parent, homes)
    ]
    assert not wrong, "\n".join(map(str, wrong))
    opened = {Path(path).parent.name for path, events in answers if len(events) > 2}
    assert {"external", "external-in-folder", "checksum-wrong"} <= opened, "the hook must see the data files"


def allowed(event: str, args: list[Any], folder: Path, homes: list[str]) -> bool:
    """Whether an event of the audit is one of reading what may be read."""
    if event != "open":
        return False
    path, _, flags = args
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
        return False
    if isinstance(path, int):
        return True  # a file that is open already
    if not path.startswith("/"):  # part of a location, relative to a folder that is open
        return "/" not in path and path != ".." and bool(flags & os.O_NOFOLLOW)
    return Path(path) in (folder, folder / "model.onnx") or any(path.startswith(f"{home}/") for home in homes)


def test_mutated_bytes_give_an_import_or_a_model_error(tmp_path: Path) -> None:
    """300 seeded changes of a valid model: bytes replaced, inserted, removed, blocks doubled and swapped."""
    rng = random.Random(0)
    content, path = plain().SerializeToString(), tmp_path / "model.onnx"
    seen: Counter[str] = Counter()
    for _ in range(300):
        path.write_bytes(mutated(content, rng))
        reply = sandbox.ask("examine", path, OPTIONS)
        codes = {error.code for error in problems(reply)} or {"accepted"}
        assert not codes & NEVER, (codes, problems(reply), path.read_bytes())
        assert reply.usage.code == 0
        seen.update(codes)
    assert len(seen) >= 5, f"mutations that all end alike test little: {seen}"


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` after one to four random changes."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(made)), rng.randint(1, 8)
        how = rng.randrange(5)
        if how == 0:
            made[at] = rng.randrange(256)
        elif how == 1:
            made[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            made[at:at] = rng.randbytes(size)
        elif how == 3:
            del made[at : at + size]
        else:
            made[at:at] = made[at : at + 4 * size]
    return bytes(made)

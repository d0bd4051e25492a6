"""External data: weights in files beside the model, reached without any link and never outside its folder.

Each part of a location is opened relative to the folder before it and refused if it is a link; what counts is the
file that was *opened*, not its name (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34446).
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath

from onnx import TensorProto

from snnc.errors import ModelError

KEYS = {"location", "offset", "length", "checksum"}
DIGITS = 19
"""Of an offset or a length: 2**63 has 19."""

PLAIN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
HINT = "keep the data file as a plain file of its own beside the model"


@dataclass(frozen=True)
class Place:
    """Where the values of a tensor lie: `length` bytes (None: all that it needs) from `offset` of a file."""

    location: str
    offset: int
    length: int | None
    checksum: str


@dataclass(frozen=True)
class Folder:
    """The folder of a model, and the model file in it, which is no data file.

    Attributes:
        model: device and inode of the model file.
        sums: SHA-1 of the data files that were hashed already, by location.
    """

    path: Path
    model: tuple[int, int]
    sums: dict[str, str] = field(default_factory=dict)

    def read_into(self, place: Place, name: str, target: memoryview) -> None:
        """Fill `target` with the values of the tensor `name`.

        Raises:
            ModelError: the file is not what it should be, or too short.
        """
        with self.open(place.location) as file:
            size = os.fstat(file.fileno()).st_size
            end = place.offset + len(target)
            if end > size:
                message = f"external data is cut short: bytes {place.offset} to {end} of a file of {size}"
                raise ModelError(message, at=name, code="external-size")
            self._check_sum(place, name, file)
            file.seek(place.offset)
            done = 0
            while done < len(target):
                if not (count := file.readinto(target[done:])):
                    raise ModelError("external data shrank while it was read", at=name, code="external-size")
                done += count

    def _check_sum(self, place: Place, name: str, file: BufferedReader) -> None:
        """The SHA-1 of the whole data file, where the model gives one."""
        if not place.checksum:
            return
        if place.location not in self.sums:
            self.sums[place.location] = hashlib.file_digest(file, "sha1").hexdigest()
        if (found := self.sums[place.location]) != place.checksum.lower():
            message = f"external data file '{place.location}' has the SHA-1 {found}, not {place.checksum}"
            raise ModelError(message, at=name, hint="it was changed, or belongs to another model", code="external-sum")

    def open(self, location: str) -> BufferedReader:
        """Open the plain file at `location`.

        Raises:
            ModelError: it is reached through a link, has a second name, is no plain file, or is the model itself.
        """
        parts = _parts(location)
        folder = os.open(self.path, FOLDER)
        try:
            for part in parts[:-1]:
                _refuse_link(part, folder, location)
                inner = os.open(part, FOLDER | NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            _refuse_link(parts[-1], folder, location)
            _refuse_special(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False), location)
            file = os.fdopen(os.open(parts[-1], PLAIN, dir_fd=folder), "rb")
        except OSError as error:
            message = f"external data file '{location}' cannot be read: {error.strerror}"
            raise ModelError(message, hint=HINT, code="external-missing") from None
        finally:
            os.close(folder)
        try:
            self._refuse_model(os.fstat(file.fileno()), location)
        except ModelError:
            file.close()
            raise
        return file

    def _refuse_model(self, status: os.stat_result, location: str) -> None:
        _refuse_special(status, location)
        if (status.st_dev, status.st_ino) == self.model:
            raise ModelError(
                f"external data file '{location}' is the model file itself", hint=HINT, code="external-self"
            )


def place_of(tensor: TensorProto) -> Place:
    """Where `tensor` says that its values lie.

    Raises:
        ModelError: unknown or repeated keys, or numbers that are none.
    """
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise ModelError("external data has an entry that is no text", at=tensor.name, code="external-key")
        if entry.key not in KEYS or entry.key in entries:
            kind = "twice" if entry.key in entries else "which ONNX does not know"
            message = f"external data has the key '{entry.key}', {kind}"
            raise ModelError(message, at=tensor.name, code="external-key")
        entries[entry.key] = entry.value
    offset, length = (_number(entries, key, tensor.name) for key in ("offset", "length"))
    return Place(entries.get("location", ""), offset or 0, length, entries.get("checksum", ""))


def _number(entries: dict[str, str], key: str, name: str) -> int | None:
    if key not in entries:
        return None
    text = entries[key]
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
        raise ModelError(f"{key} of external data, '{text}', is no size", at=name, code="external-size")
    return int(text)


def _parts(location: str) -> tuple[str, ...]:
    parts = PurePosixPath(location).parts
    if not parts or location.startswith("/") or ".." in parts or any(c in location for c in "\\:\0"):
        message = f"external data location '{location}' is no relative path inside the model's folder"
        raise ModelError(message, code="external-escape")
    return parts


def _refuse_link(part: str, folder: int, location: str) -> None:
    if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
        message = f"external data file '{location}' is a symbolic link, or lies behind one"
        raise ModelError(message, hint=HINT, code="external-link")


def _refuse_special(status: os.stat_result, location: str) -> None:
    """Folders, pipes and devices are no data files; through a second name a model could read any file of the user's."""
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"external data file '{location}' is not a plain file", hint=HINT, code="external-special")
    if status.st_nlink != 1:
        message = f"external data file '{location}' is not a plain file of its own: it has a second name"
        raise ModelError(message, hint=HINT, code="external-link")

"""The store in a folder: each name is written once and durably, by a hard link."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tidemill.core.errors import OperationNotAllowed, StoreFailed, StoreFull
from tidemill.failpoints import failpoint

_NAME = re.compile(r"(?:[0-9A-Za-z_-][0-9A-Za-z._-]{0,254}/)*[0-9A-Za-z_-][0-9A-Za-z._-]{0,254}")
_NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileStore:
    """A `Store` below `root`. Unfinished files are in a model's `.tmp/` and are never listed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        if path.exists():
            return False
        with self._translate_errors(describe(name, data)), self._temp_file(name, data) as temp_file:
            try:
                os.link(temp_file, path)
            except FileExistsError:
                return False
            with _undo_on_error(path.unlink):
                failpoint("put.linked")
                # Before the temp file is removed, which marks the name as unconfirmed.
                _sync_folder(path.parent)
        return True

    def replace(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._translate_errors(describe(name, data)), self._temp_file(name, data) as temp_file:
            # The marker shows that the move is unconfirmed, as the temp file does for a `put`.
            marker = temp_file.with_suffix(".moved")
            marker.touch()
            try:
                temp_file.replace(path)
                failpoint("put.replaced")
                _sync_folder(path.parent)
            finally:
                marker.unlink()

    def names(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix
        paths = (path for path in folder.rglob("*") if path.is_file())
        names = (path.relative_to(self.root).as_posix() for path in paths)
        return iter(sorted(name for name in names if "/.tmp/" not in f"/{name}"))

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def recover(self, model: str) -> None:
        """Remove files left unfinished by crashed writers.

        Names that they linked but did not sync are made durable first, because later work depends
        on them.
        """
        folder = self.root / model
        if any((folder / ".tmp").glob("*")):
            with self._translate_errors(f"the files of model {model} that an earlier run left"):
                for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                    _sync_folder(path)
        shutil.rmtree(folder / ".tmp", ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.root / validate_name(name)

    @contextmanager
    def _temp_file(self, name: str, data: bytes) -> Iterator[Path]:
        """The bytes in a synced file under a temporary name, which is removed on exit."""
        folder = self.root / name.split("/")[0] / ".tmp"
        _make_folder(self._path(name).parent)
        _make_folder(folder)
        temp_file = folder / uuid.uuid4().hex
        try:
            with temp_file.open("xb") as file:
                file.write(data)
                file.flush()
                failpoint("put.written")
                os.fsync(file.fileno())
            failpoint("put.synced")
            yield temp_file
        finally:
            temp_file.unlink(missing_ok=True)

    @contextmanager
    def _translate_errors(self, subject: str) -> Iterator[None]:
        """Raise `StoreFull` or `StoreFailed` for an error of the disk.

        The data have been discarded by then: after a failed fsync, a second one may succeed with
        nothing on disk, so it is never retried.
        """
        try:
            yield
        except OSError as error:
            message = (
                f"The store {self.root} cannot write {subject}: {os.strerror(error.errno or 0)}."
            )
            if error.errno in _NO_SPACE_ERRNOS:
                remedy = (
                    "Free some space, then run the same command again; nothing is half written."
                )
                raise StoreFull(message, remedy) from error
            raise StoreFailed(
                message,
                "Check the disk (`dmesg`), then run the same command again; what was partly "
                "written is discarded.",
            ) from error


def validate_name(name: str) -> str:
    """Return the name if it is valid in a store. Raises `OperationNotAllowed`."""
    if not _NAME.fullmatch(name):
        raise OperationNotAllowed(
            f"{name[:120]!r} is not a valid name in the store.", "Use letters, digits, _ - ."
        )
    return name


def describe(name: str, data: bytes) -> str:
    """The name and size of an object, for an error message."""
    return f"{name} ({len(data)} bytes)"


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, each synced into the folder that contains it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with _undo_on_error(folder.rmdir):
        _sync_folder(folder.parent)


@contextmanager
def _undo_on_error(undo: Callable[[], None]) -> Iterator[None]:
    """Undo a change that the disk does not confirm, or later work would rely on it."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            undo()
        raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Atomic writes of small text files."""

import os
from pathlib import Path


def atomic_write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Replace a file; readers see the old or the new text. Only its owner reads a `private` one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = path.with_suffix(".new")
    temp_path.unlink(missing_ok=True)
    fd = os.open(temp_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    temp_path.replace(path)

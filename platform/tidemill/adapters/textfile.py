"""Small files of text: replaced at once, and read from the end."""

import os
from pathlib import Path


def write(path: Path, text: str, *, private: bool = False) -> None:
    """Replace a file; readers see the old or the new text. A `private` one is its owner's alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    made = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with os.fdopen(made, "w") as file:
        file.write(text)
    scratch.replace(path)


def last_words(log: Path) -> str:
    """How a log ends, without Java's frames, and where the whole of it is: for a remedy."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    said = [line for line in lines if not line.startswith("\tat ")][-6:]
    return "Its last words are:\n" + "\n".join(said) + f"\nThe whole log is {log}."

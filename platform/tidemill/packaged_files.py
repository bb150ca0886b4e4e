"""The files of `deploy/` that commands need: beside the package in a checkout, in it in a wheel."""

from pathlib import Path


def packaged_file(name: str) -> Path:
    """Where the file or folder of this name is."""
    package = Path(__file__).parent
    installed = package / "deploy" / name
    return installed if installed.exists() else package.parents[1] / "deploy" / name

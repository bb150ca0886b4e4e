"""The files of `deploy/` that commands need: in the package in a wheel, else in the checkout."""

from pathlib import Path


def packaged_file(name: str) -> Path:
    """The path of the file or folder of this name in `deploy/`."""
    package = Path(__file__).parent
    installed = package / "deploy" / name
    return installed if installed.exists() else package.parents[1] / "deploy" / name

"""Programs beyond Python that a test needs: where they are, and how to install them."""

import shutil

import pytest


def require_tools(*tools: str) -> list[str]:
    """The paths of these programs. Skips the test if one is missing."""
    paths = [shutil.which(tool) for tool in tools]
    missing = [tool for tool, path in zip(tools, paths, strict=True) if path is None]
    if missing:
        pytest.skip(f"not run: {', '.join(missing)} is not installed; run `make tools`")
    return [path for path in paths if path is not None]

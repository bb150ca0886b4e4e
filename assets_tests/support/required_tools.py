"""Tools beyond Python that a proof needs: where they are, and what brings them."""

import shutil

import pytest


def require_tools(*tools: str) -> list[str]:
    """Where these programs are. Without one of them the test is reported as not run."""
    paths = [shutil.which(tool) for tool in tools]
    missing = [tool for tool, path in zip(tools, paths, strict=True) if path is None]
    if missing:
        pytest.skip(f"not run: {', '.join(missing)} is not on this machine; `make tools` brings it")
    return [path for path in paths if path is not None]

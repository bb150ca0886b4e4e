"""A small file system that can be filled up."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.processes.required_tools import require_tools


@dataclass(frozen=True)
class SmallDisk:
    """A file system; `fill` uses up all its space, `free` releases it."""

    root: Path

    @classmethod
    @contextmanager
    def mounted(cls, root: Path, size: str) -> "Iterator[SmallDisk]":
        """Mount a tmpfs of this size. Skips the test if not root."""
        mount, umount = require_tools("mount", "umount")
        if os.geteuid() != 0:
            pytest.skip("not run: only root may mount; run `make test-faults` as root")
        root.mkdir()
        mount_options = ("-t", "tmpfs", "-o", f"size={size},mode=0711", "tmpfs", str(root))
        subprocess.run([mount, *mount_options], check=True)
        try:
            yield cls(root)
        finally:
            subprocess.run([umount, "--lazy", str(root)], check=True)

    def fill(self) -> None:
        with (self.root / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        assert shutil.disk_usage(self.root).free == 0

    def free(self) -> None:
        (self.root / "ballast").unlink()

"""A real S3-compatible server: versitygw, a process of its own over a folder."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from dagster_webserver import free_port
from model_harness import ModelHarness, S3Location
from processes import wait_until
from required_tools import require_tools
from tidemill.adapters.s3 import S3Store

KEY, SECRET = "tidemill", "a secret of the tests"


@dataclass(frozen=True)
class S3Server:
    """A server; `credentials` names a file with the keys that it knows."""

    endpoint: str
    folder: Path
    credentials: Path
    pid: int

    def create_bucket(self, name: str) -> str:
        """A new bucket; its name."""
        (self.folder / name).mkdir()
        return name

    def move_store(self, harness: ModelHarness) -> ModelHarness:
        """The same bench with its store in a new bucket; nothing may lie in its folder's yet."""
        assert not list(harness.home.glob("store"))
        harness.s3 = S3Location(
            self.endpoint, self.credentials, self.create_bucket(uuid.uuid4().hex)
        )
        return harness

    def open_store(
        self, bucket: str, prefix: str = "", timeout: float = 20, **overrides: str
    ) -> S3Store:
        """A store in this bucket; `other` says where it is and who we are, if not as told."""
        options = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "credentials": self.credentials,
        }
        return S3Store(bucket, prefix, timeout, **(options | overrides))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The server does not move in here."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: all(map(_is_stopped, Path(f"/proc/{self.pid}/task").iterdir())))
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    """Whether it stands still; a busy machine takes a moment."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def running_s3_server(home: Path) -> Iterator[S3Server]:
    """A server on a free port of this machine. Where none is installed, the test is not run."""
    (program,) = require_tools("versitygw")
    folder, port = home / "buckets", free_port()
    folder.mkdir()
    options = ["--port", f"127.0.0.1:{port}", "--health", "/health", "--quiet"]
    with (home / "versitygw.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *options, "posix", str(folder)],
            env={"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_healthy(endpoint), 120, (home / "versitygw.log").read_text)
        yield S3Server(endpoint, folder, write_credentials(home / "credentials"), process.pid)
    finally:
        process.kill()
        process.wait(30)


def write_credentials(file: Path, key: str = KEY, secret: str = SECRET) -> Path:
    """Write a file of keys as the AWS tools keep it."""
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    return file


def _is_healthy(endpoint: str) -> bool:
    try:
        return requests.get(f"{endpoint}/health", timeout=5).ok
    except requests.ConnectionError:
        return False

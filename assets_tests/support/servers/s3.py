"""A real S3-compatible server: a versitygw process on a folder."""

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.models.harness import ModelHarness, S3Location
from support.processes.commands import background, output, wait_until
from support.processes.required_tools import require_tools
from support.servers.http import free_port, responds
from tidemill.adapters.s3 import S3Store

KEY, SECRET = "tidemill", "a secret of the tests"


@dataclass(frozen=True)
class S3Server:
    """A server; `credentials` is a file with its keys."""

    endpoint: str
    folder: Path
    credentials: Path
    pid: int

    def create_bucket(self, name: str) -> str:
        """Create a bucket; its name."""
        (self.folder / name).mkdir()
        return name

    def move_store(self, harness: ModelHarness) -> ModelHarness:
        """Move a harness's store, which must still be empty, to a new bucket."""
        assert not list(harness.home.glob("store"))
        harness.s3 = S3Location(
            self.endpoint, self.credentials, self.create_bucket(uuid.uuid4().hex)
        )
        return harness

    def open_store(
        self, bucket: str, prefix: str = "", timeout: float = 20, **overrides: str
    ) -> S3Store:
        """A store in this bucket; `overrides` replace the endpoint, region or credentials."""
        options = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "credentials": self.credentials,
        }
        return S3Store(bucket, prefix, timeout, **(options | overrides))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the server with SIGSTOP until the end of the block."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: all(map(_is_stopped, Path(f"/proc/{self.pid}/task").iterdir())))
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    """Whether the thread is stopped, which takes a moment on a busy machine."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def running_s3_server(home: Path) -> Iterator[S3Server]:
    """A server on a free port of this machine. Skips the test if versitygw is not installed."""
    (program,) = require_tools("versitygw")
    folder, port = home / "buckets", free_port()
    folder.mkdir()
    options = ["--port", f"127.0.0.1:{port}", "--health", "/health", "--quiet"]
    env = {"TIDEMILL_HOME": str(home), "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    endpoint = f"http://127.0.0.1:{port}"
    with background(env, program, *options, "posix", str(folder), name="versitygw") as process:
        wait_until(
            lambda: responds(f"{endpoint}/health"), 120, on_timeout=lambda: output(env, "versitygw")
        )
        yield S3Server(endpoint, folder, write_credentials(home / "credentials"), process.pid)


def write_credentials(file: Path, key: str = KEY, secret: str = SECRET) -> Path:
    """Write a credentials file in the format of the AWS tools."""
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    return file

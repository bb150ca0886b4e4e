"""Worker processes whose system calls on the store strace records or makes fail."""

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.models.harness import ModelHarness, window
from support.processes.required_tools import require_tools
from support.processes.workers import resume, wait_until_stopped, worker
from tidemill.core.errors import WindowOpen
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.extract import extract

KINDS = {
    "write": ("write", "writev", "pwrite64"),
    "fsync": ("fsync", "fdatasync"),
    "link": ("link", "linkat"),
    "rename": ("rename", "renameat", "renameat2"),
    "mkdir": ("mkdir", "mkdirat"),
    "unlink": ("unlink", "unlinkat", "rmdir"),
}
"""The system calls that change a store, by kind; no architecture has all of them."""

_KIND = {name: kind for kind, names in KINDS.items() for name in names}
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (.*)")
_PATH = re.compile(r'\d+<(/[^>]*)>|"(/[^"]*)"')
_TEMP_NAME = re.compile(r"/[0-9a-f]{32}\b")


@dataclass(frozen=True)
class Syscall:
    """A call on the store.

    `number` counts its thread's calls of this kind from 1. `paths` are relative to the store; `.`
    is the store itself. A killed call has the result `?`.
    """

    kind: str
    thread: int
    number: int
    paths: tuple[str, ...]
    result: str

    @property
    def description(self) -> str:
        """The call without what differs between runs, the names of drafts."""
        paths = (_TEMP_NAME.sub("/draft", path) for path in self.paths)
        return f"{self.kind} {self.number}: {', '.join(paths)}"


def extract_first_window(ctx: ModelContext) -> None:
    """Extract the first window and try the second one, which is open."""
    extract(ctx, window(ctx.spec, 0))
    with suppress(WindowOpen):
        extract(ctx, window(ctx.spec, 1))


def trace(
    harness: ModelHarness,
    target: Callable[[ModelContext], object],
    fault: str = "",
    threads: bool = False,
) -> tuple[int | None, list[Syscall]]:
    """The exit code of a process that runs `target`, and its calls on the store in order.

    Tracing starts at the first plan, which precedes the first call. A `fault` is
    `kind:action:when=N` in strace's syntax, injected in the main thread only; `threads` traces all
    threads.
    """
    (strace,) = require_tools("strace")
    file = harness.home / "calls"
    command = [strace, "-y", "-s", "0", "-o", str(file), *(["-f"] if threads else [])]
    command += ["-e", f"trace={_optional_calls(_KIND)}"]
    if fault:
        kind, action = fault.split(":", 1)
        command += ["-e", f"inject={_optional_calls(KINDS[kind])}:{action}"]
    with worker(harness, target, "plan.before:stop") as process:
        wait_until_stopped(process)
        attach_command = [*command, "-p", str(process.pid)]
        with subprocess.Popen(attach_command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            exit_code = resume(process)
        lines = file.read_text().splitlines()
        thread_lines = lines if threads else [f"{process.pid} {line}" for line in lines]
    return exit_code, list(_parse_calls(thread_lines, harness.settings.store))


def _optional_calls(names: Iterable[str]) -> str:
    return ",".join(f"?{name}" for name in names)


def _parse_calls(log: list[str], store: Path) -> Iterator[Syscall]:
    counts: Counter[tuple[str, str]] = Counter()
    for thread, name, arguments, result in _CALL.findall("\n".join(_join_unfinished(log))):
        counts[thread, _KIND[name]] += 1
        all_paths = [Path(one or other) for one, other in _PATH.findall(arguments)]
        paths = tuple(str(p.relative_to(store)) for p in all_paths if p.is_relative_to(store))
        if all_paths == [store.parent] and _KIND[name] == "fsync":
            paths = ("..",)
        if paths:
            number = counts[thread, _KIND[name]]
            yield Syscall(_KIND[name], int(thread), number, paths, result)


def _join_unfinished(log: list[str]) -> list[str]:
    """The lines with each call on one line, where it ended: strace splits overlapping calls."""
    unfinished: dict[str, str] = {}
    lines: list[str] = []
    for line in log:
        thread, text = line.split(maxsplit=1)
        if text.endswith(" <unfinished ...>"):
            unfinished[thread] = text.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            lines.append(f"{thread} {unfinished.pop(thread)}{resumed[1]}")
        else:
            lines.append(line)
    return [*lines, *(f"{thread} {text}) = ?" for thread, text in unfinished.items())]

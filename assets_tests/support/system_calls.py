"""Children whose system calls on the store are traced, and made to fail, by strace."""

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench import Bench, window
from children import stopped, woken, working
from tidemill.core.errors import WindowOpen
from tidemill.cycle.extract import extract
from tidemill.cycle.mill import ModelContext
from tools import needs

KINDS = {
    "write": ("write", "writev", "pwrite64"),
    "fsync": ("fsync", "fdatasync"),
    "link": ("link", "linkat"),
    "rename": ("rename", "renameat", "renameat2"),
    "mkdir": ("mkdir", "mkdirat"),
    "unlink": ("unlink", "unlinkat", "rmdir"),
}
"""The system calls that change a store, by what they do; no machine has all of them."""

_KIND = {name: kind for kind, names in KINDS.items() for name in names}
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (.*)")
_PATH = re.compile(r'\d+<(/[^>]*)>|"(/[^"]*)"')
_DRAFT = re.compile(r"/[0-9a-f]{32}\b")


@dataclass(frozen=True)
class Call:
    """A call on the store. `number` counts its thread's calls of this kind, from 1; `paths` are
    within the store, `.` is the store itself. A killed call has the result `?`."""

    kind: str
    thread: int
    number: int
    paths: tuple[str, ...]
    result: str

    @property
    def told(self) -> str:
        """The call as it comes in every run: drafts have no names of their own."""
        paths = (_DRAFT.sub("/draft", path) for path in self.paths)
        return f"{self.kind} {self.number}: {', '.join(paths)}"


def one_extract(mill: ModelContext) -> None:
    """The first window's batch, and a look at the next window, which is open."""
    extract(mill, window(mill.spec, 0))
    with suppress(WindowOpen):
        extract(mill, window(mill.spec, 1))


def traced(
    bench: Bench, does: Callable[[ModelContext], object], fault: str = "", threads: bool = False
) -> tuple[int | None, list[Call]]:
    """The exit code of a process that does this, and its calls on the store in order.

    It is traced from the first plan on, which comes before the first call. A `fault` is
    `kind:what:when=N`, as strace injects it, in the main thread only; `threads` traces all.
    """
    (strace,) = needs("strace")
    file = bench.home / "calls"
    command = [strace, "-y", "-s", "0", "-o", str(file), *(["-f"] if threads else [])]
    command += ["-e", f"trace={_asked(_KIND)}"]
    if fault:
        kind, what = fault.split(":", 1)
        command += ["-e", f"inject={_asked(KINDS[kind])}:{what}"]
    with working(bench, does, "plan.before:stop") as process:
        stopped(process)
        words = [*command, "-p", str(process.pid)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            ended = woken(process)
        lines = file.read_text().splitlines()
        told = lines if threads else [f"{process.pid} {line}" for line in lines]
    return ended, list(_calls(told, bench.settings.store))


def _asked(names: Iterable[str]) -> str:
    return ",".join(f"?{name}" for name in names)


def _calls(log: list[str], store: Path) -> Iterator[Call]:
    counts: Counter[tuple[str, str]] = Counter()
    for thread, name, arguments, result in _CALL.findall("\n".join(_whole(log))):
        counts[thread, _KIND[name]] += 1
        found = [Path(one or other) for one, other in _PATH.findall(arguments)]
        paths = tuple(str(p.relative_to(store)) for p in found if p.is_relative_to(store))
        if found == [store.parent] and _KIND[name] == "fsync":
            paths = ("..",)
        if paths:
            number = counts[thread, _KIND[name]]
            yield Call(_KIND[name], int(thread), number, paths, result)


def _whole(log: list[str]) -> list[str]:
    """The lines with each call on one, where it ended: strace parts those that overlap."""
    begun: dict[str, str] = {}
    lines: list[str] = []
    for line in log:
        thread, text = line.split(maxsplit=1)
        if text.endswith(" <unfinished ...>"):
            begun[thread] = text.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            lines.append(f"{thread} {begun.pop(thread)}{resumed[1]}")
        else:
            lines.append(line)
    return [*lines, *(f"{thread} {text}) = ?" for thread, text in begun.items())]

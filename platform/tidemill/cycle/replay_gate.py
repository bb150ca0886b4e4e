"""Replay: what another gate would have made of the windows that are reported already."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tidemill.core.errors import PredecessorMissing
from tidemill.core.gate import Decision
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.archive import Archive
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.lines import by_line
from tidemill.cycle.mill import Mill
from tidemill.cycle.summary import Summary, summarize


@dataclass(frozen=True)
class Differing:
    """A window with two verdicts, each with its reasons."""

    window: str
    committed: Decision
    replayed: Decision
    committed_reasons: tuple[str, ...]
    replayed_reasons: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """Two gates over the same windows, from the same state before the first of them.

    `changes` are the gate's keys that differ, as (committed by defs.yaml, replayed). In `losses`,
    means over all rows, `champion` is the model that each window would have been served, and
    `challenger` what always serving the newest gives. `persons` counts the persons' entries, which
    both take in the same windows. `pruned` is the window up to which nothing can be judged again.
    """

    model: str
    changes: dict[str, tuple[Any, Any]]
    committed: Summary
    replayed: Summary
    differing: tuple[Differing, ...]
    persons: int
    pruned: str | None


def span(mill: Mill, first: Window | None, last: Window | None) -> list[Window]:
    """The windows to judge again: those reported, and not pruned, in the range that is asked for.

    Raises `PredecessorMissing` where that is none.
    """
    mark, calendar = mill.archive.pruned(), mill.spec.calendar
    window = first or calendar.first
    if mark is not None and window.end <= mark.window_end_ms:
        window = calendar.after(calendar.window(mark.window))
    found: list[Window] = []
    while (last is None or window.end <= last.end) and mill.archive.report(window.key) is not None:
        found.append(window)
        window = calendar.after(window)
    if not found:
        raise PredecessorMissing(
            f"No window of model {mill.model} from {window.key} on is reported, so there is "
            "nothing to judge again.",
            f"Run `tidemill backfill {mill.model}` first, or name other windows.",
        )
    return found


def replay(
    mill: Mill,
    spec: ModelSpec,
    scratch: Archive,
    windows: list[Window],
    progress: Callable[[str], None],
) -> Replayed:
    """Judge the windows of `span` again by the gate of `spec`, into `scratch`.

    `scratch` shows the model's store without its reports, and keeps what is written. Nothing is
    learned: batches, candidates and holdout fits are those that stand. Raises `DigestMismatch`.
    """
    again = replace(mill.over(scratch), spec=spec)
    as_learned = by_line(again)
    before = mill.spec.calendar.before(windows[0])
    if before is not None:
        mill.archive.give(f"reports/{before.key}.json", scratch)
    differing: list[Differing] = []
    persons = 0
    for window in windows:
        progress(window.key)
        stands = mill.archive.report(window.key)
        assert stands is not None  # `span` has seen it
        persons += len(stands.entries)
        made = evaluate(as_learned(window), window, stands.entries)
        if made.verdict != stands.verdict:
            differing.append(
                Differing(window.key, stands.verdict, made.verdict, stands.reasons, made.reasons)
            )
    mark = mill.archive.pruned()
    return Replayed(
        model=mill.model,
        changes=_changes(mill.spec, spec),
        committed=summarize(mill, windows[0], windows[-1]),
        replayed=summarize(again, windows[0], windows[-1]),
        differing=tuple(differing),
        persons=persons,
        pruned=mark.window if mark else None,
    )


def _changes(was: ModelSpec, now: ModelSpec) -> dict[str, tuple[Any, Any]]:
    old, new = was.gate.model_dump(mode="json"), now.gate.model_dump(mode="json")
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}

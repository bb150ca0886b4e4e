"""Evaluate: score the models on the window's rows, which none has learned from, and decide."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from tidemill.core import learner, report
from tidemill.core.decoding import align_to_schema
from tidemill.core.errors import PredecessorMissing
from tidemill.core.features import Array
from tidemill.core.gate import AppliedEntry
from tidemill.core.ledger import manual_entries_since
from tidemill.core.records import Candidate, Manifest
from tidemill.core.report import EvaluationInputs, InputDigests, Report, EvaluationRows
from tidemill.core.windows import Window
from tidemill.cycle.archive import unless_damaged
from tidemill.cycle.deploy import read_chain
from tidemill.cycle.extract import batch_of, rows_of
from tidemill.cycle.lines import current_line, initial_of
from tidemill.cycle.mill import Mill
from tidemill.cycle.update import candidate_of

_AT_ONCE = 4
"""So many models predict at the same time."""


def evaluate(mill: Mill, window: Window, taken: Sequence[AppliedEntry] | None = None) -> Report:
    """The report of a window, and in it the gate's verdict.

    `taken` are the persons' ledger entries to take, by default those that the rules name now; a
    report once made keeps its own. Raises `PredecessorMissing`, `DigestMismatch`, `LineChanged`.
    """
    standing = unless_damaged(lambda: mill.archive.report(window.key))
    if standing is not None:
        return standing
    mill = mill.under(current_line(mill, window).learning_spec)
    manifest = batch_of(mill, window)
    candidate = candidate_of(mill, window)
    previous = _previous(mill, window)
    if taken is None:
        taken = _persons(mill, window, previous)
    case = _case(mill, window, manifest, candidate, previous, taken)
    return mill.archive.commit_report(_judge(mill, case, manifest))


def _previous(mill: Mill, window: Window) -> Report | None:
    """The report of the window before; None for the first. Raises `PredecessorMissing`."""
    before = mill.spec.calendar.before(window)
    if before is None:
        return None
    previous = mill.archive.report(before.key)
    if previous is None:
        raise PredecessorMissing(
            f"Window {before.key} of model {mill.model} has no evaluation report, whose gate "
            f"state {window.key} goes on from.",
            f"Run `tidemill backfill {mill.model} --from {before.key} --to {window.key}`.",
        )
    return previous


def _persons(mill: Mill, window: Window, previous: Report | None) -> list[AppliedEntry]:
    after = previous.ledger_seq if previous else -1
    standing = manual_entries_since(read_chain(mill), after, window.start)
    return [AppliedEntry(s.entry.seq, s.hash, s.entry.kind, s.entry.digest) for s in standing]


def _case(
    mill: Mill,
    window: Window,
    manifest: Manifest,
    candidate: Candidate,
    previous: Report | None,
    taken: Sequence[AppliedEntry],
) -> EvaluationInputs:
    committed = mill.archive.committed
    inputs = InputDigests(
        previous=committed(f"reports/{previous.window}.json") if previous else None,
        batch=committed(f"batches/{window.key}/manifest.json"),
        candidate=committed(mill.archive.candidate_name(candidate.lineage, window.key)),
    )
    return EvaluationInputs(
        model=mill.model,
        spec=mill.spec,
        window=window,
        candidate=candidate,
        initial=initial_of(mill).digest,
        previous=previous,
        input_digests=inputs,
        entries=tuple(taken),
        ages=_ages(previous, candidate),
        timestamps=manifest.timestamps,
    )


def _ages(previous: Report | None, candidate: Candidate) -> dict[str, int]:
    """Windows since each model was made, as far as the report before knows them."""
    before = previous.models.values() if previous else ()
    known = {role.digest: role.age + 1 for role in before if role.age is not None}
    return {candidate.parent: 1} | known | {candidate.digest: 0, candidate.holdout or "": 0}


def _judge(mill: Mill, case: EvaluationInputs, manifest: Manifest) -> Report:
    rows = learner.sort_canonical(rows_of(mill, manifest))
    digests = set(report.scored_roles(case).values())
    candidate, tail, on_tail = case.candidate, None, None
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # LightGBM predicts outside the interpreter's lock
        told = {digest: pool.submit(_predict, mill, digest, rows) for digest in digests}
        if candidate.holdout is not None:
            tail = np.arange(rows.height) >= rows.height - candidate.tail_rows
            on_tail = _predict(mill, candidate.holdout, rows.tail(candidate.tail_rows))
        predictions = {digest: one.result() for digest, one in told.items()}
    return report.build_report(
        case,
        EvaluationRows(
            label=_floats(rows, mill.spec.label),
            timestamp=rows["_timestamp"].to_numpy(),
            tail=tail,
            slices={name: align_to_schema(rows, {name: "category"})[name] for name in mill.spec.gate.slices},
        ),
        predictions,
        on_tail,
    )


def _predict(mill: Mill, digest: str, rows: pl.DataFrame) -> Array:
    """A model's answers through its own bundle: of other fields than its own it knows nothing."""
    model = mill.load(digest)
    return model.predict(align_to_schema(rows, dict(model.header.fields)))


def _floats(rows: pl.DataFrame, column: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return rows[column].cast(pl.Float64).to_numpy()

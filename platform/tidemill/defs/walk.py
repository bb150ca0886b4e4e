"""The walk over windows: each selected asset of one window after the other, then the next."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.defs import metadata as tell
from tidemill.defs.checks import (
    GOLDEN_ROWS,
    batch_checks,
    blocked,
    evaluation,
    pairing_check,
    record_check,
)
from tidemill.defs.keeper import Keeper
from tidemill.defs.lineage import watermarks
from tidemill.defs.resources import Steps

if TYPE_CHECKING:
    from tidemill.cycle.mill import ModelContext

WINDOWED = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation


@dataclass(frozen=True)
class Job:
    """One run's work: the opened mill, who keeps the record, the assets asked for, and whether each
    window deploys."""

    model: str
    spec: ModelSpec
    mill: "ModelContext"
    steps: Steps
    keeper: Keeper
    selected: frozenset[str]
    each: bool
    proven: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Done:
    """What one asset's step of one window has to show."""

    metadata: Mapping[str, dg.MetadataValue]
    checks: Sequence[dg.AssetCheckEvaluation] = ()
    deferred: bool = False


def walk(job: Job, windows: Sequence[Window]) -> Iterator[Event]:
    """Work through the windows in order, telling of each asset as soon as it is durable.

    Where a step fails, the newest deployment that was deferred is made up for, and `dg.Failure`
    names the window, the error and the remedy.
    """
    success = False
    try:
        yield from _windows(job, windows)
        success = True
    finally:
        job.keeper.close(success)


def _windows(job: Job, windows: Sequence[Window]) -> Iterator[Event]:
    deferred: Window | None = None
    for window in windows:
        final = job.each or window is windows[-1]
        for asset in WINDOWED:
            if asset not in job.selected:
                continue
            started = time.perf_counter()
            try:
                done = _STEPS[asset](job, window, final)
            except Exception as error:
                found = blocked(job.model, asset, window.key, error)
                if found is not None:
                    yield found
                told = failure(error, window.key)
                if deferred is not None:
                    yield _make_up(job, deferred, told)
                raise told from error
            seconds = dg.MetadataValue.float(round(time.perf_counter() - started, 3))
            yield dg.AssetMaterialization(
                asset_key=dg.AssetKey([job.model, asset]),
                partition=window.key,
                metadata={**done.metadata, "seconds": seconds},
            )
            yield from done.checks
            if asset == "kafka_batch" and window is windows[-1]:
                yield from _topic(job, window)
            if asset == "deployed_model":
                deferred = window if done.deferred else None


def failure(error: Exception, window: str | None = None) -> dg.Failure:
    """Dagster's form of an error: sentence, remedy and name, found again in the metadata.

    A named error is not tried again by itself: it would end the same way.
    """
    name = type(error).__name__
    place = f"Window {window}: " if window else ""
    metadata: dict[str, dg.MetadataValue] = {"error": dg.MetadataValue.text(name)}
    if window:
        metadata["window"] = dg.MetadataValue.text(window)
    if isinstance(error, TidemillError):
        metadata["what"] = dg.MetadataValue.text(error.message)
        metadata["remedy"] = dg.MetadataValue.text(error.remedy)
    return dg.Failure(
        description=f"{place}{name}: {error}",
        metadata=metadata,
        allow_retries=not isinstance(error, TidemillError),
    )


def _topic(job: Job, window: Window) -> Iterator[dg.AssetObservation]:
    """How far the topic had come when the run's last batch was read."""
    plan = job.mill.repository.plan(window.key)
    if plan is None or plan.topic != job.spec.topic:
        return
    try:
        extents = job.mill.event_log.offset_ranges(plan.topic)
    except TidemillError:  # the batch stands, whatever became of the topic since
        return
    yield watermarks(job.spec, extents, plan)


def _make_up(job: Job, window: Window, told: dg.Failure) -> dg.AssetObservation:
    """Deploy the last finished window, since the one after it failed.

    An observation, since its materialization was told already. If this fails too, the failure of
    the run says both.
    """
    try:
        made = tell.deployment_metadata(job.steps.deploy(job.mill, window, True))
        job.keeper.deployments()
    except Exception as error:
        told.description = f"{told.description} Deploying window {window.key} failed too: {error}"
        made = {"error": dg.MetadataValue.text(f"{type(error).__name__}: {error}")}
    return dg.AssetObservation(
        asset_key=dg.AssetKey([job.model, "deployed_model"]),
        partition=window.key,
        description="Made up for after the next window failed.",
        metadata=made,
    )


def _kafka_batch(job: Job, window: Window, final: bool) -> Done:
    manifest = job.steps.extract(job.mill, window)
    plan = job.mill.repository.plan(window.key)
    checks = batch_checks(job.model, job.spec, window.key, manifest)
    return Done(tell.batch_metadata(manifest, plan), checks)


def _candidate_model(job: Job, window: Window, final: bool) -> Done:
    return Done(tell.candidate_metadata(job.steps.update(job.mill, window)))


def _evaluation_report(job: Job, window: Window, final: bool) -> Done:
    report = job.steps.evaluate(job.mill, window)
    address = job.keeper.window(window)
    told = tell.report_metadata(report) | tell.record_metadata(address)
    return Done(told, [pairing_check(job.model, window.key, report)])


def _deployed_model(job: Job, window: Window, final: bool) -> Done:
    made = job.steps.deploy(job.mill, window, final)
    if made.status != "deployed" and made.digest not in job.proven:
        job.mill.validator.validate(job.mill.repository.bundle(made.digest))  # deploying has proven its own
    job.proven.add(made.digest)
    digest: dict[str, dg.MetadataValue] = {"digest": dg.MetadataValue.text(made.digest)}
    checks = [evaluation(job.model, GOLDEN_ROWS, window.key, True, digest)]
    job.keeper.deployments()
    if final:
        job.steps.prune(job.mill, window)
    if final:
        job.keeper.written()
    if final and not job.keeper.off:
        checks.append(record_check(job.model, window.key, job.keeper.trouble))
    return Done(tell.deployment_metadata(made), checks, made.status == "deferred")


_STEPS = {
    "kafka_batch": _kafka_batch,
    "candidate_model": _candidate_model,
    "evaluation_report": _evaluation_report,
    "deployed_model": _deployed_model,
}

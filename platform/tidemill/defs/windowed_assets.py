"""Materializes windows in order: each selected asset of one window, then the next window."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError
from tidemill.core.windows import Window
from tidemill.defs import metadata
from tidemill.defs.checks import (
    GOLDEN_ROWS,
    batch_checks,
    evaluation,
    failed_check_for,
    mlflow_record_check,
    permutation_test_check,
)
from tidemill.defs.external_assets import watermark_observation
from tidemill.defs.run_tracking import RunTracker

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext

WINDOW_ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation


@dataclass(frozen=True)
class RunContext:
    """What the steps of one run share; `deploy_each` deploys each window, not only the last one.

    `validated` holds the digests of the bundles that were validated in this run.
    """

    ctx: "ModelContext"
    run_tracker: RunTracker
    selected: frozenset[str]
    deploy_each: bool
    validated: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class StepResult:
    """The result of one asset's step for one window; `deferred` if its deployment is deferred."""

    metadata: Mapping[str, dg.MetadataValue]
    checks: Sequence[dg.AssetCheckEvaluation] = ()
    deferred: bool = False


def materialize_windows(run: RunContext, windows: Sequence[Window]) -> Iterator[Event]:
    """Materialize the windows in order, yielding the events of each asset as soon as it is durable.

    If a step fails, the newest deferred deployment is made, and `dg.Failure` names the window, the
    error and the remedy.
    """
    success = False
    try:
        yield from _materialize(run, windows)
        success = True
    finally:
        run.run_tracker.close(success)


def _materialize(run: RunContext, windows: Sequence[Window]) -> Iterator[Event]:
    deferred: Window | None = None
    for window in windows:
        final = run.deploy_each or window is windows[-1]
        for asset in WINDOW_ASSETS:
            if asset not in run.selected:
                continue
            started = time.perf_counter()
            try:
                result = _STEPS[asset](run, window, final)
            except Exception as error:
                failed_check = failed_check_for(run.ctx.model, asset, window.key, error)
                if failed_check is not None:
                    yield failed_check
                run_failure = failure(error, window.key)
                if deferred is not None:
                    yield _deploy_deferred(run, deferred, run_failure)
                raise run_failure from error
            seconds = dg.MetadataValue.float(round(time.perf_counter() - started, 3))
            yield dg.AssetMaterialization(
                asset_key=dg.AssetKey([run.ctx.model, asset]),
                partition=window.key,
                metadata={**result.metadata, "seconds": seconds},
            )
            yield from result.checks
            if asset == "kafka_batch" and window is windows[-1]:
                yield from _observe_topic(run, window)
            if asset == "deployed_model":
                deferred = window if result.deferred else None


def failure(error: Exception, window: str | None = None) -> dg.Failure:
    """Dagster's form of an error, with its name, message and remedy in the metadata.

    A named error is not retried automatically, since it would occur again.
    """
    name = type(error).__name__
    prefix = f"Window {window}: " if window else ""
    failure_metadata: dict[str, dg.MetadataValue] = {"error": dg.MetadataValue.text(name)}
    if window:
        failure_metadata["window"] = dg.MetadataValue.text(window)
    if isinstance(error, TidemillError):
        failure_metadata["what"] = dg.MetadataValue.text(error.message)
        failure_metadata["remedy"] = dg.MetadataValue.text(error.remedy)
    return dg.Failure(
        description=f"{prefix}{name}: {error}",
        metadata=failure_metadata,
        allow_retries=not isinstance(error, TidemillError),
    )


def _observe_topic(run: RunContext, window: Window) -> Iterator[dg.AssetObservation]:
    """The topic's watermarks when the run's last batch was read."""
    plan = run.ctx.repository.plan(window.key)
    if plan is None or plan.topic != run.ctx.spec.topic:
        return
    try:
        offset_ranges = run.ctx.event_log.offset_ranges(plan.topic)
    except TidemillError:  # the batch is valid, whatever happened to the topic since
        return
    yield watermark_observation(run.ctx.spec, offset_ranges, plan)


def _deploy_deferred(
    run: RunContext, window: Window, run_failure: dg.Failure
) -> dg.AssetObservation:
    """Deploy the last completed window, since the next one failed.

    Returns an observation, since its materialization was already reported. If this fails too, the
    run's failure names both errors.
    """
    from tidemill.cycle.steps.deploy import deploy

    try:
        result_metadata = metadata.deployment_metadata(deploy(run.ctx, window, final=True))
        run.run_tracker.record_deployments()
    except Exception as error:
        run_failure.description = (
            f"{run_failure.description} Deploying window {window.key} failed too: {error}"
        )
        result_metadata = {"error": dg.MetadataValue.text(f"{type(error).__name__}: {error}")}
    return dg.AssetObservation(
        asset_key=dg.AssetKey([run.ctx.model, "deployed_model"]),
        partition=window.key,
        description="Deployed after the next window failed.",
        metadata=result_metadata,
    )


def _kafka_batch(run: RunContext, window: Window, final: bool) -> StepResult:
    from tidemill.cycle.steps.extract import extract

    manifest = extract(run.ctx, window)
    plan = run.ctx.repository.plan(window.key)
    checks = batch_checks(run.ctx.spec, window.key, manifest)
    return StepResult(metadata.batch_metadata(manifest, plan), checks)


def _candidate_model(run: RunContext, window: Window, final: bool) -> StepResult:
    from tidemill.cycle.steps.update import update

    return StepResult(metadata.candidate_metadata(update(run.ctx, window)))


def _evaluation_report(run: RunContext, window: Window, final: bool) -> StepResult:
    from tidemill.cycle.steps.evaluate import evaluate

    report = evaluate(run.ctx, window)
    run_url = run.run_tracker.record_window(window)
    result_metadata = metadata.report_metadata(report) | metadata.tracking_metadata(run_url)
    return StepResult(result_metadata, [permutation_test_check(run.ctx.model, window.key, report)])


def _deployed_model(run: RunContext, window: Window, final: bool) -> StepResult:
    from tidemill.cycle.operations.prune import prune
    from tidemill.cycle.steps.deploy import deploy

    deployment = deploy(run.ctx, window, final)
    if deployment.status != "deployed" and deployment.digest not in run.validated:
        # A bundle that was deployed just now is already validated.
        run.ctx.validator.validate(run.ctx.repository.bundle(deployment.digest))
    run.validated.add(deployment.digest)
    digest: dict[str, dg.MetadataValue] = {"digest": dg.MetadataValue.text(deployment.digest)}
    checks = [evaluation(run.ctx.model, GOLDEN_ROWS, window.key, True, digest)]
    run.run_tracker.record_deployments()
    if final:
        prune(run.ctx, window)
        run.run_tracker.flush()
        if not run.run_tracker.disabled:
            checks.append(mlflow_record_check(run.ctx.model, window.key, run.run_tracker.error))
    deferred = deployment.status == "deferred"
    return StepResult(metadata.deployment_metadata(deployment), checks, deferred)


_STEPS = {
    "kafka_batch": _kafka_batch,
    "candidate_model": _candidate_model,
    "evaluation_report": _evaluation_report,
    "deployed_model": _deployed_model,
}

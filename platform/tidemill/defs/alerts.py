"""The sensor that sends alerts: rollbacks, stale models, rejects, permuted labels."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg

from tidemill.core.errors import AlertFailed
from tidemill.defs.checks import PERMUTATION_TEST, REJECT_SHARE, Check
from tidemill.defs.freshness import FRESHNESS
from tidemill.defs.resources import TidemillResource
from tidemill.defs.sensor_cursors import AlertCursor, decode_alert_cursor, encode_cursor

Send = Callable[[Mapping[str, object]], None]

MIN_INTERVAL_SECONDS = 5
"""The minimum interval between two ticks."""
_PAGE_SIZE = 100
_MAX_TEXT_LENGTH = 2000  # characters; part of the text may come from a topic

_REMEDIES = {
    "rollback": "tidemill history {model}",
    "given_up": "tidemill backfill {model} --from {window} --to {window}",
    "stale": "tidemill status {model}",
    "reject_share": "tidemill skip {model} {window} --reason REASON",
    "permutation_test": "tidemill rollback {model} --reason REASON",
}


@dataclass(frozen=True)
class Alert:
    """An event of the event log; it is worth an alert unless `kind` is empty or `fresh`.

    `storage_id` is its id in the event log, `timestamp` is in seconds since 1970.
    """

    storage_id: int
    kind: str
    window: str | None
    what: str
    run_id: str
    timestamp: float


def alerts_sensor(model: str, status: str) -> dg.SensorDefinition:
    """The sensor `<model>_alerts`; its default `status` is `running` or `stopped`."""

    @dg.sensor(
        name=f"{model}_alerts",
        description="Sends alerts by TIDEMILL_ALERTS__WEBHOOK or …__COMMAND: a rollback, a stale "
        "model, a window given up, too many rejects, labels that look permuted. Delivery is "
        "retried until it succeeds.",
        minimum_interval_seconds=MIN_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus(status.upper()),
    )
    def sensor(
        context: dg.SensorEvaluationContext, tidemill: dg.ResourceParam[TidemillResource]
    ) -> dg.SensorResult:
        send = tidemill.alert_sender()
        if send is None:
            return dg.SensorResult(skip_reason="Alerts are off: TIDEMILL_ALERTS__… is not set.")
        cursor, reason = send_new_alerts(context.instance, model, context.cursor, send)
        return dg.SensorResult(skip_reason=reason, cursor=cursor)

    return sensor


def send_new_alerts(
    instance: dg.DagsterInstance, model: str, cursor: str | None, send: Send
) -> tuple[str, str]:
    """Send the alerts that are new since the cursor; returns the next cursor and a summary.

    Without a valid cursor, only events from now on are sent. An alert that could not be delivered
    is sent again at the next tick, before any later alert of its source.
    """
    previous = decode_alert_cursor(cursor)
    current = previous or AlertCursor({}, "fresh")
    sent, failed = 0, ""
    for source, read_alerts in _sources(instance, model):
        last = previous.last_storage_ids.get(source, 0) if previous else None
        for alert in read_alerts(last):
            kind = alert.kind
            is_unchanged = source == FRESHNESS.name and kind == current.freshness
            if last is not None and kind and not is_unchanged and kind != "fresh":
                try:
                    send(_message(model, alert))
                except AlertFailed as error:
                    failed = str(error)
                    break
                sent += 1
            freshness = kind if source == FRESHNESS.name else current.freshness
            current = replace(
                current,
                last_storage_ids=current.last_storage_ids | {source: alert.storage_id},
                freshness=freshness,
            )
    return encode_cursor(current), failed or f"{sent} alerts sent."


def _message(model: str, alert: Alert) -> dict[str, object]:
    remedy = _REMEDIES[alert.kind].format(model=model, window=alert.window)
    return {
        "alert": alert.kind,
        "model": model,
        "window": alert.window,
        "what": alert.what[:_MAX_TEXT_LENGTH],
        "remedy": remedy,
        "run_id": alert.run_id,
        "timestamp": datetime.fromtimestamp(alert.timestamp, UTC).isoformat(timespec="seconds"),
    }


AlertSource = Callable[[int | None], Iterator[Alert]]


def _sources(instance: dg.DagsterInstance, model: str) -> Iterator[tuple[str, AlertSource]]:
    """The sources of alerts: the events after a storage id in order; for None only the newest."""
    yield "reports", partial(_report_alerts, instance, model)
    for check in (REJECT_SHARE, PERMUTATION_TEST, FRESHNESS):
        yield check.name, partial(_check_alerts, instance, model, check)


def _report_alerts(instance: dg.DagsterInstance, model: str, last: int | None) -> Iterator[Alert]:
    key = dg.AssetKey([model, "evaluation_report"])
    records_filter = dg.AssetRecordsFilter(key, after_storage_id=last)
    limit, ascending = (1, False) if last is None else (_PAGE_SIZE, True)
    for record in instance.fetch_materializations(
        records_filter, limit, ascending=ascending
    ).records:
        materialization = record.asset_materialization
        assert materialization is not None
        metadata = {name: value.value for name, value in materialization.metadata.items()}
        kind = "rollback" if metadata.get("verdict") == "rollback" else ""
        window = materialization.partition
        what = f"Window {window} rolls {model} back: {metadata.get('reasons')}"
        yield Alert(record.storage_id, kind, window, what, record.run_id, record.timestamp)


def _check_alerts(
    instance: dg.DagsterInstance, model: str, check: Check, last: int | None
) -> Iterator[Alert]:
    key = dg.AssetCheckKey(dg.AssetKey([model, check.asset]), check.name)
    history = instance.event_log_storage.get_asset_check_execution_history
    records = list(history(key, limit=1 if last is None else _PAGE_SIZE))  # newest first
    while last is not None and records and records[-1].id > last:
        older = history(key, limit=_PAGE_SIZE, cursor=records[-1].id)
        if not older:
            break
        records.extend(older)
    for record in reversed(records):
        event = record.event
        if event is None or event.dagster_event is None or record.id <= (last or 0):
            continue
        evaluation: Any = event.dagster_event.event_specific_data
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            what = _alert_text(model, check, evaluation)
            kind, window = _alert_kind(check, evaluation), evaluation.partition
            yield Alert(record.id, kind, window, what, record.run_id, record.create_timestamp)


def _alert_kind(check: Check, evaluation: dg.AssetCheckEvaluation) -> str:
    """The kind of the alert; empty if the check passed or could not be evaluated."""
    if check is FRESHNESS:
        if evaluation.passed:
            return "fresh"
        return "given_up" if "given_up" in evaluation.metadata else "stale"
    return "" if evaluation.passed or "not_judged" in evaluation.metadata else check.name


def _alert_text(model: str, check: Check, evaluation: dg.AssetCheckEvaluation) -> str:
    metadata = {name: value.value for name, value in evaluation.metadata.items()}
    text = metadata.get("given_up") or evaluation.description or metadata.get("what")
    window = f" of window {evaluation.partition}" if evaluation.partition else ""
    return str(text or f"The check {check.name}{window} of {model} failed: {metadata}")

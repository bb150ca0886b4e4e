"""The sensor that alerts people: of roll backs, a stale model, rejects, permuted labels."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import msgspec

from tidemill.core.errors import AlertFailed
from tidemill.defs.checks import PAIRING_SKILL, REJECT_SHARE, Check
from tidemill.defs.freshness import FRESH

Send = Callable[[Mapping[str, object]], None]

INTERVAL = 5
"""Seconds between two ticks."""
_PAGE = 100
_LONGEST = 2000  # characters of a sentence: part of it may come from a topic

_REMEDIES = {
    "roll_back": "tidemill history {model}",
    "given_up": "tidemill backfill {model} --from {window} --to {window}",
    "stale": "tidemill status {model}",
    "reject_share": "tidemill skip {model} {window} --why REASON",
    "pairing_skill": "tidemill rollback {model} --why REASON",
}


@dataclass(frozen=True)
class Alert:
    """What happened, by what people are to be told of it: nothing, where `alert` is empty.

    `at` is seconds since 1970, `id` the place in the event log.
    """

    id: int
    alert: str
    window: str | None
    what: str
    run: str
    at: float


@dataclass(frozen=True)
class Cursor:
    """Up to which event people were told, by source, and what they know of the freshness."""

    seen: dict[str, int] = field(default_factory=dict)
    fresh: str = "fresh"


def deployment_alerts(model: str, status: str) -> dg.SensorDefinition:
    """The sensor `<model>_alerts`; `status` is `running` or `stopped`, to begin with."""

    @dg.sensor(
        name=f"{model}_alerts",
        description="Alerts by TIDEMILL_ALERTS__WEBHOOK or …__COMMAND: a roll back, a stale "
        "model, a window given up, too many rejects, labels that look permuted. Each is sent "
        "until it is taken.",
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus(status.upper()),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from tidemill import bootstrap
        from tidemill.settings import Settings

        send = bootstrap.make_alert_sender(Settings())
        if send is None:
            return dg.SensorResult(skip_reason="Nobody wants alerts: TIDEMILL_ALERTS__… is unset.")
        cursor, why = tell(context.instance, model, context.cursor, send)
        return dg.SensorResult(skip_reason=why, cursor=cursor)

    return sensor


def tell(
    instance: dg.DagsterInstance, model: str, cursor: str | None, send: Send
) -> tuple[str, str]:
    """Send what is new since the cursor; the next cursor, and what was done.

    Without a cursor only the future counts. What was not taken is sent again next time, and nothing
    of its source goes before it.
    """
    old = msgspec.json.decode(cursor, type=Cursor) if cursor else None
    now = old or Cursor()
    sent, failed = 0, ""
    for source, found in _sources(instance, model):
        last = old.seen.get(source, 0) if old else None
        for alert in found(last):
            kind = alert.alert
            known = source == FRESH.name and kind == now.fresh
            if last is not None and kind and not known and kind != "fresh":
                try:
                    send(_message(model, alert))
                except AlertFailed as error:
                    failed = str(error)
                    break
                sent += 1
            fresh = kind if source == FRESH.name else now.fresh
            now = replace(now, seen=now.seen | {source: alert.id}, fresh=fresh)
    return msgspec.json.encode(now).decode(), failed or f"{sent} alerts sent."


def _message(model: str, alert: Alert) -> dict[str, object]:
    remedy = _REMEDIES[alert.alert].format(model=model, window=alert.window)
    return {
        "alert": alert.alert,
        "model": model,
        "window": alert.window,
        "what": alert.what[:_LONGEST],
        "remedy": remedy,
        "run": alert.run,
        "at": datetime.fromtimestamp(alert.at, UTC).isoformat(timespec="seconds"),
    }


Found = Callable[[int | None], Iterator[Alert]]


def _sources(instance: dg.DagsterInstance, model: str) -> Iterator[tuple[str, Found]]:
    """Where alerts come from. Asked for those after an id, in order; for None, the newest only."""
    yield "reports", lambda last: _reports(instance, model, last)
    for check in (REJECT_SHARE, PAIRING_SKILL, FRESH):
        yield check.name, lambda last, check=check: _checked(instance, model, check, last)  # type: ignore[misc]


def _reports(instance: dg.DagsterInstance, model: str, last: int | None) -> Iterator[Alert]:
    key = dg.AssetKey([model, "evaluation_report"])
    wanted = dg.AssetRecordsFilter(key, after_storage_id=last)
    limit, ascending = (1, False) if last is None else (_PAGE, True)
    for record in instance.fetch_materializations(wanted, limit, ascending=ascending).records:
        made = record.asset_materialization
        assert made is not None
        told = {name: value.value for name, value in made.metadata.items()}
        kind = "roll_back" if told.get("verdict") == "roll_back" else ""
        what = f"Window {made.partition} of {model} rolls back: {told.get('reasons')}"
        yield Alert(record.storage_id, kind, made.partition, what, record.run_id, record.timestamp)


def _checked(
    instance: dg.DagsterInstance, model: str, check: Check, last: int | None
) -> Iterator[Alert]:
    key = dg.AssetCheckKey(dg.AssetKey([model, check.asset]), check.name)
    history = instance.event_log_storage.get_asset_check_execution_history
    records = list(history(key, limit=1 if last is None else _PAGE))  # the newest first
    while last is not None and records and records[-1].id > last:
        older = history(key, limit=_PAGE, cursor=records[-1].id)
        if not older:
            break
        records.extend(older)
    for record in reversed(records):
        event = record.event
        if event is None or event.dagster_event is None or record.id <= (last or 0):
            continue
        evaluation: Any = event.dagster_event.event_specific_data
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            what = _sentence(model, check, evaluation)
            kind, window = _kind(check, evaluation), evaluation.partition
            yield Alert(record.id, kind, window, what, record.run_id, record.create_timestamp)


def _kind(check: Check, evaluation: dg.AssetCheckEvaluation) -> str:
    """What to alert people of; nothing where the check passed or could not judge."""
    if check is FRESH:
        if evaluation.passed:
            return "fresh"
        return "given_up" if "given up" in evaluation.metadata else "stale"
    return "" if evaluation.passed or "not judged" in evaluation.metadata else check.name


def _sentence(model: str, check: Check, evaluation: dg.AssetCheckEvaluation) -> str:
    told = {name: value.value for name, value in evaluation.metadata.items()}
    said = told.get("given up") or evaluation.description or told.get("what")
    window = f" of window {evaluation.partition}" if evaluation.partition else ""
    return str(said or f"The check {check.name}{window} of {model} failed: {told}")

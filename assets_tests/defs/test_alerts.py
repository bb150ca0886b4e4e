"""Each event that needs an operator is alerted once; delivery is retried until it succeeds."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from tidemill.core.errors import AlertFailed
from tidemill.core.retry_policy import FailureState
from tidemill.defs.alerts import send_new_alerts
from tidemill.defs.checks import PERMUTATION_TEST, REJECT_SHARE, evaluation
from tidemill.defs.freshness import FRESHNESS

MODEL = "tides"


class FakeAlertSender:
    """Collects alerts; the next `failures_left` deliveries fail."""

    def __init__(self) -> None:
        self.alerts: list[Mapping[str, Any]] = []
        self.failures_left = 0

    def __call__(self, alert: Mapping[str, object]) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise AlertFailed("The alert was not delivered.", "It is sent again.")
        self.alerts.append(alert)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def report_verdict(instance: dg.DagsterInstance, window: str, verdict: str) -> None:
    key = dg.AssetKey([MODEL, "evaluation_report"])
    metadata = {"verdict": verdict, "reasons": "the champion is worse than the baseline"}
    materialization = dg.AssetMaterialization(key, partition=window, metadata=metadata)
    instance.report_runless_asset_event(materialization)


def report_freshness(
    instance: dg.DagsterInstance, passed: bool, failure_state: FailureState | None = None
) -> None:
    metadata = {"given_up": str(failure_state)} if failure_state else {}
    key = dg.AssetKey([MODEL, "deployed_model"])
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=FRESHNESS.name,
            passed=passed,
            description="Behind.",
            metadata=metadata,
        )
    )


def test_events_before_the_first_tick_are_not_alerted(instance: dg.DagsterInstance) -> None:
    sender = FakeAlertSender()
    report_verdict(instance, "2024-01-01", "rollback")
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    send_new_alerts(instance, MODEL, cursor, sender)
    assert sender.alerts == []


def test_a_rollback_is_alerted_once_with_window_reason_and_command(
    instance: dg.DagsterInstance,
) -> None:
    sender = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    report_verdict(instance, "2024-01-01", "promote")
    report_verdict(instance, "2024-01-02", "rollback")
    for _ in range(2):
        cursor, _ = send_new_alerts(instance, MODEL, cursor, sender)
    (alert,) = sender.alerts
    assert (alert["alert"], alert["model"], alert["window"]) == ("rollback", MODEL, "2024-01-02")
    assert "worse than the baseline" in alert["what"]
    assert alert["remedy"] == "tidemill history tides"


def test_rejects_and_permuted_labels_are_alerted_but_not_an_undecided_check(
    instance: dg.DagsterInstance,
) -> None:
    sender = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    not_judged = {"not_judged": dg.MetadataValue.text("too few rows")}
    for day, check, passed, metadata in (
        (1, REJECT_SHARE, True, None),
        (2, REJECT_SHARE, False, None),
        (3, PERMUTATION_TEST, False, not_judged),
        (4, PERMUTATION_TEST, False, None),
    ):
        instance.report_runless_asset_event(
            evaluation(MODEL, check, f"2024-01-0{day}", passed, metadata)
        )
    send_new_alerts(instance, MODEL, cursor, sender)
    assert [alert["alert"] for alert in sender.alerts] == ["reject_share", "permutation_test"]


def test_a_stale_model_is_alerted_once_until_it_was_fresh_again(
    instance: dg.DagsterInstance,
) -> None:
    sender = FakeAlertSender()
    report_freshness(instance, True)
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    for passed in (False, False, True, False):
        report_freshness(instance, passed)
        cursor, _ = send_new_alerts(instance, MODEL, cursor, sender)
    assert [alert["alert"] for alert in sender.alerts] == ["stale", "stale"]


def test_a_given_up_window_and_a_stale_model_are_different_alerts(
    instance: dg.DagsterInstance,
) -> None:
    sender = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    report_freshness(instance, False)
    report_freshness(
        instance, False, FailureState("w", "LineageChanged", "The lineage changed.", 1, 0, "")
    )
    send_new_alerts(instance, MODEL, cursor, sender)
    assert [alert["alert"] for alert in sender.alerts] == ["stale", "given_up"]
    assert "The lineage changed." in sender.alerts[1]["what"]


def test_an_undelivered_alert_is_sent_again_and_none_is_lost(instance: dg.DagsterInstance) -> None:
    sender = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    for window in ("2024-01-02", "2024-01-03"):
        report_verdict(instance, window, "rollback")
    sender.failures_left = 1
    cursor, summary = send_new_alerts(instance, MODEL, cursor, sender)
    assert "not delivered" in summary
    cursor, summary = send_new_alerts(instance, MODEL, cursor, sender)
    assert [alert["window"] for alert in sender.alerts] == ["2024-01-02", "2024-01-03"]
    assert summary == "2 alerts sent."


def test_a_long_text_is_truncated(instance: dg.DagsterInstance) -> None:
    sender = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, sender)
    long = FailureState("w", "SchemaBroken", "x" * 100_000, 1, 0, "")
    report_freshness(instance, False, long)
    send_new_alerts(instance, MODEL, cursor, sender)
    assert len(sender.alerts[0]["what"]) == 2000


@pytest.mark.parametrize(
    "cursor",
    ['{"seen": {"reports": 1, "fresh": 1}, "fresh": "stale"}', '{"seen": {}}', "no JSON", "[]"],
)
def test_a_cursor_of_another_format_starts_from_the_newest_event(
    instance: dg.DagsterInstance, cursor: str
) -> None:
    sender = FakeAlertSender()
    for window in ("2024-01-01", "2024-01-02"):
        report_verdict(instance, window, "rollback")
    report_freshness(instance, False)
    new_cursor, summary = send_new_alerts(instance, MODEL, cursor, sender)
    assert (sender.alerts, summary) == ([], "0 alerts sent.")
    report_verdict(instance, "2024-01-03", "rollback")
    send_new_alerts(instance, MODEL, new_cursor, sender)
    assert [alert["window"] for alert in sender.alerts] == ["2024-01-03"]

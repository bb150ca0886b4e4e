"""Alerts: each occurrence is told once, of what needs a person, until somebody takes it."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from tidemill.core.errors import AlertFailed
from tidemill.core.retry_policy import FailureState
from tidemill.defs.alerts import send_new_alerts
from tidemill.defs.checks import PAIRING_SKILL, REJECT_SHARE, evaluation

MODEL = "tides"


class FakeAlertSender:
    """Somebody who is told; `ill` times they do not take it."""

    def __init__(self) -> None:
        self.alerts: list[Mapping[str, Any]] = []
        self.failures_left = 0

    def __call__(self, alert: Mapping[str, object]) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise AlertFailed("The alert was not taken.", "It is sent again.")
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
    metadata = {"given up": str(failure_state)} if failure_state else {}
    key = dg.AssetKey([MODEL, "deployed_model"])
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=key,
            check_name="fresh",
            passed=passed,
            description="Behind.",
            metadata=metadata,
        )
    )


def test_the_past_is_no_news(instance: dg.DagsterInstance) -> None:
    taker = FakeAlertSender()
    report_verdict(instance, "2024-01-01", "rollback")
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    send_new_alerts(instance, MODEL, cursor, taker)
    assert taker.alerts == []


def test_a_rollback_is_told_once_with_its_window_reason_and_command(
    instance: dg.DagsterInstance,
) -> None:
    taker = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    report_verdict(instance, "2024-01-01", "promote")
    report_verdict(instance, "2024-01-02", "rollback")
    for _ in range(2):
        cursor, _ = send_new_alerts(instance, MODEL, cursor, taker)
    (alert,) = taker.alerts
    assert (alert["alert"], alert["model"], alert["window"]) == ("rollback", MODEL, "2024-01-02")
    assert "worse than the baseline" in alert["what"]
    assert alert["remedy"] == "tidemill history tides"


def test_rejects_and_permuted_labels_are_told_and_a_check_that_could_not_judge_is_not(
    instance: dg.DagsterInstance,
) -> None:
    taker = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    not_judged = {"not judged": dg.MetadataValue.text("too few rows")}
    for day, check, passed, told in (
        (1, REJECT_SHARE, True, None),
        (2, REJECT_SHARE, False, None),
        (3, PAIRING_SKILL, False, not_judged),
        (4, PAIRING_SKILL, False, None),
    ):
        answered = evaluation(MODEL, check, f"2024-01-0{day}", passed, told)
        instance.report_runless_asset_event(answered)
    send_new_alerts(instance, MODEL, cursor, taker)
    assert [alert["alert"] for alert in taker.alerts] == ["reject_share", "permutation_test"]


def test_a_stale_model_is_told_once_until_it_was_fresh_again(instance: dg.DagsterInstance) -> None:
    taker = FakeAlertSender()
    report_freshness(instance, True)
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    for passed in (False, False, True, False):
        report_freshness(instance, passed)
        cursor, _ = send_new_alerts(instance, MODEL, cursor, taker)
    assert [alert["alert"] for alert in taker.alerts] == ["stale", "stale"]


def test_a_window_given_up_is_told_apart_from_a_stale_model(instance: dg.DagsterInstance) -> None:
    taker = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    report_freshness(instance, False)
    report_freshness(
        instance, False, FailureState("w", "LineChanged", "The line changed.", 1, 0, "")
    )
    send_new_alerts(instance, MODEL, cursor, taker)
    assert [alert["alert"] for alert in taker.alerts] == ["stale", "given_up"]
    assert "The line changed." in taker.alerts[1]["what"]


def test_what_nobody_took_is_told_again_and_nothing_is_lost(instance: dg.DagsterInstance) -> None:
    taker = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    for window in ("2024-01-02", "2024-01-03"):
        report_verdict(instance, window, "rollback")
    taker.failures_left = 1
    cursor, why = send_new_alerts(instance, MODEL, cursor, taker)
    assert "not taken" in why
    cursor, why = send_new_alerts(instance, MODEL, cursor, taker)
    assert [alert["window"] for alert in taker.alerts] == ["2024-01-02", "2024-01-03"]
    assert why == "2 alerts sent."


def test_a_long_sentence_is_cut(instance: dg.DagsterInstance) -> None:
    taker = FakeAlertSender()
    cursor, _ = send_new_alerts(instance, MODEL, None, taker)
    long = FailureState("w", "SchemaBroken", "x" * 100_000, 1, 0, "")
    report_freshness(instance, False, long)
    send_new_alerts(instance, MODEL, cursor, taker)
    assert len(taker.alerts[0]["what"]) == 2000

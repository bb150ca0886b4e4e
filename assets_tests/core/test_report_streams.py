"""Reports over a stream of windows: what is promoted, and what is rolled back."""

from core.report_cases import judge_windows, verdicts
from tidemill.core.gate import AppliedEntry


def test_a_model_against_itself_is_never_promoted() -> None:
    for seed in range(3):
        reports = judge_windows(30, lambda w: 0.7, seed)
        assert verdicts(reports) == ["keep"] * 30
        assert {window_report.state.champion for window_report in reports} == {"initial"}
        assert all(window_report.comparisons[-1].estimate.t is None for window_report in reports)


def test_a_lineage_that_learns_is_promoted_and_becomes_the_baseline() -> None:
    reports = judge_windows(24, lambda w: min(1.0, 0.2 + w / 10))
    assert verdicts(reports)[0] == "promote"
    assert "rollback" not in verdicts(reports)
    assert reports[-1].state.baseline != "initial"
    sums = reports[-1].cumulative_losses.sums
    assert sums["champion"] < sums["initial"]


def test_a_lineage_that_turns_harmful_is_rolled_back_and_not_promoted_again() -> None:
    reports = judge_windows(20, lambda w: 0.9 if w < 12 else -0.5, entries=_approval("k012", 14))
    rollback = verdicts(reports).index("rollback")
    assert rollback == 13  # window 14 judges the model that was approved before it
    assert reports[rollback].opening_state.champion == "k012"
    assert reports[rollback].state.champion == reports[rollback].opening_state.baseline
    assert {window_report.state.mode for window_report in reports[rollback:]} == {"RECOVERY"}
    assert verdicts(reports)[rollback + 1 :] == ["keep"] * (20 - rollback - 1)


def _approval(digest: str, w: int) -> dict[int, tuple[AppliedEntry, ...]]:
    return {w: (AppliedEntry(7, "f" * 64, "approve", digest),)}


def test_a_few_lucky_windows_do_not_replace_the_baseline() -> None:
    reports = judge_windows(10, lambda w: 0.9 if 2 <= w <= 4 else 0.5)
    assert "promote" in verdicts(reports)[:4]
    assert {window_report.state.baseline for window_report in reports[:7]} == {"initial"}


def test_after_a_manual_rollback_a_recovered_lineage_is_promoted_again() -> None:
    entries = {6: (AppliedEntry(5, "e" * 64, "rollback", "initial"),)}
    reports = judge_windows(14, lambda w: 0.2 if w == 0 else 0.9, entries=entries)
    sixth = reports[5]
    assert sixth.previous_state.champion != "initial"
    assert (sixth.opening_state.champion, sixth.opening_state.mode) == ("initial", "RECOVERY")
    assert (sixth.entries, sixth.ledger_seq) == (entries[6], 5)
    assert {window_report.ledger_seq for window_report in reports[6:]} == {5}
    assert {window_report.ledger_seq for window_report in reports[:5]} == {-1}
    assert reports[-1].state.mode == "FOLLOW"
    assert reports[-1].state.champion != "initial"


def test_permuted_labels_raise_the_alarm_and_labels_in_place_do_not() -> None:
    silent = [
        window_report.permutation_check.alarm for window_report in judge_windows(20, lambda w: 0.8)
    ]
    alarmed = [
        window_report.permutation_check.alarm
        for window_report in judge_windows(20, lambda w: 0.8, permuted=True)
    ]
    assert silent == [False] * 20
    assert sum(alarm is True for alarm in alarmed) >= 17

"""Verify the plans and the batches: each against the record that it was made from."""

from tidemill.core.plans import Plan
from tidemill.cycle.audit.verification import Verification
from tidemill.cycle.names import BATCHES, PLANS, manifest_name, plan_name


def check_plans(verification: Verification) -> None:
    """Each plan starts where the previous one ends, and contains its hash."""
    previous: Plan | None = None
    for key in verification.window_keys(PLANS):
        plan = verification.repository.plan(key)
        if plan is None:
            verification.add_finding(f"The plan of window {key} is missing, but later plans exist.")
            return
        verification.accounted_names.add(plan_name(key))
        verification.report.plans += 1
        if previous is not None:
            _check_successor(verification, previous, plan)
        previous = plan


def _check_successor(verification: Verification, previous: Plan, plan: Plan) -> None:
    if plan.previous != verification.repository.hash(plan_name(previous.window)):
        verification.add_finding(
            f"The plan of window {previous.window} was edited after {plan.window}'s."
        )
    starts = {r.partition: r.start for r in plan.ranges}
    if plan.adoption != previous.adoption:
        _check_adoption(verification, plan)
    elif plan.epoch != previous.epoch:
        verification.add_finding(
            f"The plan of window {plan.window} is on another topic without an adoption."
        )
    for partition, end in previous.end_offsets.items():
        if plan.epoch == previous.epoch and starts.get(partition) != end:
            verification.add_finding(
                f"Window {plan.window} starts at offset {starts.get(partition)} of "
                f"partition {partition}, but {previous.window} ends at {end}."
            )


def _check_adoption(verification: Verification, plan: Plan) -> None:
    adoption = verification.repository.adoption(plan.adoption)
    expected = (plan.window, plan.epoch, plan.topic_id)
    if adoption is None or (adoption.window, adoption.epoch, adoption.topic_id) != expected:
        verification.add_finding(
            f"The plan of window {plan.window} was made under adoption {plan.adoption}, which "
            "is missing or does not match it."
        )


def check_batches(verification: Verification) -> None:
    """Each batch accounts for the offsets of its plan."""
    for key in verification.window_keys(BATCHES):
        manifest = verification.repository.manifest(key)
        if manifest is None:  # windows may be extracted in any order
            continue
        verification.accounted_names.add(manifest_name(key))
        verification.report.batches += 1
        may_be_pruned = verification.may_be_pruned(key)
        for ref in manifest.files:
            verification.check_file(ref, may_be_pruned)
        plan = verification.repository.plan(key)
        if manifest.epoch < 0 or plan is None:
            continue
        if manifest.plan != verification.repository.hash(plan_name(key)):
            verification.add_finding(f"The batch of window {key} was made from another plan.")
        if manifest.rows + manifest.rejected + manifest.gaps != plan.offset_count:
            verification.add_finding(f"The batch of window {key} does not account for its offsets.")

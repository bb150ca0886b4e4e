"""Concurrent deployers and unacknowledged appends: every reader sees the same valid entries."""

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import Barrier

import pytest

from faults.ledgers import (
    ENTRIES_PER_WRITER,
    AmbiguousLedger,
    BarrierLedger,
    append_entries,
    ledger_records,
    settings_with_ledger,
)
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from tidemill import bootstrap
from tidemill.adapters.memory import MemoryLedger
from tidemill.core.deployment import Deployment
from tidemill.core.errors import LogUnavailable
from tidemill.core.ledger import Chain, Entry, build_chain
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import rollback
from tidemill.cycle.steps.deploy import deploy
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update

_FORK_CONTEXT = multiprocessing.get_context("forkserver")


def ready_to_deploy(harness: ModelHarness, number: int) -> None:
    """Define a model that deploys every candidate, and run it up to the deploy step of a window."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-3, number + 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, number - 1)
        current = harness.window(number)
        extract(ctx, current)
        update(ctx, current)
        evaluate(ctx, current)


def consistent_chain(harness: ModelHarness, ctx: ModelContext, topic: str | None = None) -> Chain:
    """The chain, which must be equal for a new context, this context and a plain Kafka reader."""
    with bootstrap.open_model(
        ctx.spec, settings_with_ledger(harness, topic or harness.ledger)
    ) as fresh_ctx:
        result = fresh_ctx.chain()
    assert result == ctx.chain() == build_chain(ctx.model, ledger_records(harness, topic))
    return result


@pytest.mark.faults
@pytest.mark.parametrize("names", [("airflow", "operator"), ("tidemill", "tidemill")])
def test_of_two_concurrent_deployers_of_a_window_one_entry_is_valid(
    harness: ModelHarness, names: tuple[str, str]
) -> None:
    """Fault 26: the loser finds its model deployed; of equal entries the first counts for both."""
    ready_to_deploy(harness, 1)
    barrier = Barrier(2)

    def deploy_as(actor: str) -> Deployment:
        with harness.open_model(actor) as ctx:
            synchronized = replace(ctx, ledger=BarrierLedger(ctx.ledger, barrier))
            return deploy(synchronized, harness.window(1), True)

    with harness.open_model() as earlier_ctx, ThreadPoolExecutor(2) as pool:
        before = earlier_ctx.chain()
        deployments = list(pool.map(deploy_as, names))
        chain = consistent_chain(harness, earlier_ctx)
    assert {deployment.seq for deployment in deployments} == {len(before.entries)}
    assert (
        "deployed" in {deployment.status for deployment in deployments} <= {"deployed", "unchanged"}
    )
    assert len(chain.entries) == len(before.entries) + 1
    assert len(chain.invalid_records) == 1
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_two_concurrent_manual_rollbacks_are_both_recorded_in_sequence(
    harness: ModelHarness,
) -> None:
    """Fault 26: the writer of the invalid entry reads the head and decides again."""
    ready_to_deploy(harness, 3)
    barrier = Barrier(2)
    with harness.open_model() as earlier_ctx, ThreadPoolExecutor(2) as pool:
        deployed = earlier_ctx.chain().entries

        def rollback_as(actor: str, digest: str) -> Entry:
            with harness.open_model(actor) as ctx:
                synchronized = replace(ctx, ledger=BarrierLedger(ctx.ledger, barrier))
                return rollback(synchronized, digest, actor, "at once")

        digests = [deployed[0].entry.digest, deployed[1].entry.digest]
        entries = list(pool.map(rollback_as, ("ada", "bob"), digests))
        chain = consistent_chain(harness, earlier_ctx)
    assert {entry.seq for entry in entries} == {len(deployed), len(deployed) + 1}
    entry_by_seq = {s.entry.seq: s.entry for s in chain.entries}
    assert [entry_by_seq[entry.seq] for entry in entries] == entries
    assert len(chain.invalid_records) == 1
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_deployers_of_two_models_in_four_processes_never_disturb_the_chains(
    harness: ModelHarness,
) -> None:
    """Fault 26: in one ledger topic every entry is valid exactly once, with its own number."""
    other = replace(harness, model=f"{harness.model}_other")
    other.define(topic=harness.model)
    harness.produce_windows(-3, 1)
    ledger, start_file = harness.ledger, harness.home / "start"
    specs = (harness.load_spec(), other.load_spec())
    with ExitStack() as stack:
        contexts = [
            stack.enter_context(bootstrap.open_model(spec, settings_with_ledger(harness, ledger)))
            for spec in specs
        ]
        for ctx in contexts:
            initial(ctx)
        workers = [
            _FORK_CONTEXT.Process(
                target=append_entries,
                args=(harness.env, spec.name, ledger, f"{spec.name}-{n}", str(start_file)),
            )
            for spec in specs
            for n in range(2)
        ]
        for worker in workers:
            worker.start()
        start_file.touch()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 4
        invalid_count = 0
        for ctx in contexts:
            chain = consistent_chain(harness, ctx, ledger)
            assert [s.entry.seq for s in chain.entries] == list(range(1 + 2 * ENTRIES_PER_WRITER))
            reasons = Counter(s.entry.reason for s in chain.entries[1:])
            assert reasons == {
                f"{ctx.model}-{n} {i}": 1 for n in range(2) for i in range(ENTRIES_PER_WRITER)
            }
            for valid_entry in chain.entries:
                assert ctx.repository.entry(valid_entry.entry.seq) == valid_entry.value
            invalid_count += len(chain.invalid_records)
    print(f"{4 * ENTRIES_PER_WRITER + 2} entries are valid, {invalid_count} invalid")


def test_an_unacknowledged_append_that_succeeded_is_not_repeated(harness: ModelHarness) -> None:
    """Fault 26, on the real topic: the writer first looks for its entry."""
    ready_to_deploy(harness, 1)
    with harness.open_model() as ctx:
        ledger = AmbiguousLedger(ctx.ledger, is_appended=True)
        deployment = deploy(replace(ctx, ledger=ledger), harness.window(1), True)
        assert (deployment.status, deployment.seq, ledger.append_count) == ("deployed", 2, 1)
        chain = consistent_chain(harness, ctx)
        assert (len(chain.entries), chain.invalid_records) == (3, ())
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_an_unacknowledged_append_is_found_by_the_next_run(harness: ModelHarness) -> None:
    """Fault 26: Kafka is unavailable afterwards, so only a rerun of the step can look for it."""
    ready_to_deploy(harness, 1)
    with harness.open_model() as ctx:
        ledger = AmbiguousLedger(ctx.ledger, is_appended=True, reads_fail=True)
        with pytest.raises(LogUnavailable):
            deploy(replace(ctx, ledger=ledger), harness.window(1), True)
    with harness.open_model() as ctx:
        assert deploy(ctx, harness.window(1), True).status == "unchanged"
        chain = consistent_chain(harness, ctx)
        assert (len(chain.entries), chain.invalid_records) == (3, ())
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_a_lost_append_is_repeated_by_the_next_run_and_invalid_if_it_arrives_late(
    harness: ModelHarness,
) -> None:
    """Fault 26."""
    ready_to_deploy(harness, 1)
    with harness.open_model() as ctx:
        ledger = AmbiguousLedger(ctx.ledger, is_appended=False)
        with pytest.raises(LogUnavailable):
            deploy(replace(ctx, ledger=ledger), harness.window(1), True)
        deployment = deploy(ctx, harness.window(1), True)
        assert (deployment.status, deployment.seq) == ("deployed", 2)
        before = ctx.chain()
        assert before.invalid_records == ()
        assert ledger.unacknowledged is not None
        ctx.ledger.append(ctx.model, ledger.unacknowledged)
        chain = consistent_chain(harness, ctx)
        assert chain.entries == before.entries
        assert len(chain.invalid_records) == 1
    oracle.assert_consistent(harness)


def test_a_lost_acknowledgement_never_doubles_an_entry_of_the_initial_model(
    harness: ModelHarness,
) -> None:
    """Fault 26, with the ledger in memory."""
    harness.produce_windows(-3, 2)
    ledger = MemoryLedger()
    with harness.open_model() as real:
        ctx = replace(real, ledger=ledger)
        ledger.lose_acknowledgement = True
        initial(ctx)
        initial(ctx)
        assert len(ledger.read()) == 1
        for number in (0, 1):
            ledger.lose_acknowledgement = True
            run_window(ctx, number)
            run_window(ctx, number)
        chain = ctx.chain()
        assert len(ledger.read()) == len(chain.entries)

"""Two deployers at once, and appends without an answer: one entry stands, for every reader."""

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import Barrier

import pytest

import oracle
from ledger_tools import (
    ENTRIES_PER_WRITER,
    AmbiguousLedger,
    BarrierLedger,
    append_entries,
    ledger_records,
    settings_with_ledger,
)
from model_harness import ModelHarness, run_window, run_windows
from tidemill import bootstrap
from tidemill.adapters.memory.event_log import MemoryLedger
from tidemill.core.errors import LogUnavailable
from tidemill.core.ledger import Chain, Entry, build_chain
from tidemill.cycle.context import ModelContext
from tidemill.cycle.deploy import Deployment, deploy
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.manual_actions import rollback
from tidemill.cycle.update import update

_FORK_CONTEXT = multiprocessing.get_context("forkserver")


def ready_to_deploy(harness: ModelHarness, number: int) -> None:
    """A model whose every candidate serves, run to this window, whose deploy step is still due."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-3, number + 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, number - 1)
        current = harness.window(number)
        extract(ctx, current)
        update(ctx, current)
        evaluate(ctx, current)


def consistent_chain(harness: ModelHarness, ctx: ModelContext, topic: str | None = None) -> Chain:
    """The chain, which is the same for a new reader, one that read before, and Kafka's client."""
    with bootstrap.open_model(
        ctx.model, settings_with_ledger(harness, topic or harness.ledger)
    ) as fresh_ctx:
        result = fresh_ctx.chain()
    assert result == ctx.chain() == build_chain(ctx.model, ledger_records(harness, topic))
    return result


@pytest.mark.faults
@pytest.mark.parametrize("names", [("airflow", "a person's shell"), ("tidemill", "tidemill")])
def test_of_two_deployers_of_one_window_one_entry_stands(
    harness: ModelHarness, names: tuple[str, str]
) -> None:
    """Row 26: the loser finds its model in service; of equal entries the first one is both's."""
    ready_to_deploy(harness, 1)
    both = Barrier(2)

    def work(by: str) -> Deployment:
        with harness.open_model(by) as mill:
            together = replace(mill, ledger=BarrierLedger(mill.ledger, both))
            return deploy(together, harness.window(1), True)

    with harness.open_model() as seen, ThreadPoolExecutor(2) as pool:
        before = seen.chain()
        ended = list(pool.map(work, names))
        found = consistent_chain(harness, seen)
    assert {each.seq for each in ended} == {len(before.entries)}
    assert "deployed" in {each.status for each in ended} <= {"deployed", "unchanged"}
    assert len(found.entries) == len(before.entries) + 1
    assert len(found.invalid_records) == 1
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_of_two_persons_at_once_both_are_heard_one_after_the_other(harness: ModelHarness) -> None:
    """Row 26: the one whose entry is void reads the head and decides anew."""
    ready_to_deploy(harness, 3)
    both = Barrier(2)
    with harness.open_model() as seen, ThreadPoolExecutor(2) as pool:
        deployed = seen.chain().entries

        def work(by: str, digest: str) -> Entry:
            with harness.open_model(by) as mill:
                together = replace(mill, ledger=BarrierLedger(mill.ledger, both))
                return rollback(together, digest, by, "at once")

        digests = [deployed[0].entry.digest, deployed[1].entry.digest]
        ended = list(pool.map(work, ("ada", "bob"), digests))
        found = consistent_chain(harness, seen)
    assert {entry.seq for entry in ended} == {len(deployed), len(deployed) + 1}
    told = {s.entry.seq: s.entry for s in found.entries}
    assert [told[entry.seq] for entry in ended] == ended
    assert len(found.invalid_records) == 1
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_deployers_of_two_models_in_four_processes_never_disturb_the_chains(
    harness: ModelHarness,
) -> None:
    """Row 26: one ledger topic; every entry stands once, in a place of its own."""
    other = replace(harness, model=f"{harness.model}_other")
    other.define(topic=harness.model)
    harness.produce_windows(-3, 1)
    ledger, go = harness.ledger, harness.home / "go"
    models = (harness.model, other.model)
    with ExitStack() as stack:
        mills = [
            stack.enter_context(bootstrap.open_model(model, settings_with_ledger(harness, ledger)))
            for model in models
        ]
        for mill in mills:
            initial(mill)
        workers = [
            _FORK_CONTEXT.Process(
                target=append_entries, args=(harness.env, model, ledger, f"{model}-{n}", str(go))
            )
            for model in models
            for n in range(2)
        ]
        for worker in workers:
            worker.start()
        go.touch()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 4
        void = 0
        for mill in mills:
            found = consistent_chain(harness, mill, ledger)
            assert [s.entry.seq for s in found.entries] == list(range(1 + 2 * ENTRIES_PER_WRITER))
            why = Counter(s.entry.reason for s in found.entries[1:])
            assert why == {
                f"{mill.model}-{n} {i}": 1 for n in range(2) for i in range(ENTRIES_PER_WRITER)
            }
            for standing in found.entries:
                assert mill.repository.entry(standing.entry.seq) == standing.value
            void += len(found.invalid_records)
    print(f"{4 * ENTRIES_PER_WRITER + 2} entries stand, {void} are void")


def test_an_append_that_stands_without_an_answer_is_not_made_again(harness: ModelHarness) -> None:
    """Row 26, over the real topic: the entry is looked for before anything else is tried."""
    ready_to_deploy(harness, 1)
    with harness.open_model() as mill:
        unsure = AmbiguousLedger(mill.ledger, is_appended=True)
        ended = deploy(replace(mill, ledger=unsure), harness.window(1), True)
        assert (ended.status, ended.seq, unsure.append_count) == ("deployed", 2, 1)
        found = consistent_chain(harness, mill)
        assert (len(found.entries), found.invalid_records) == (3, ())
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_an_append_without_an_answer_is_found_by_the_next_run(harness: ModelHarness) -> None:
    """Row 26: Kafka stays away after it, so nobody can look until the step is run again."""
    ready_to_deploy(harness, 1)
    with harness.open_model() as mill:
        silent = AmbiguousLedger(mill.ledger, is_appended=True, reads_fail=True)
        with pytest.raises(LogUnavailable):
            deploy(replace(mill, ledger=silent), harness.window(1), True)
    with harness.open_model() as mill:
        assert deploy(mill, harness.window(1), True).status == "unchanged"
        found = consistent_chain(harness, mill)
        assert (len(found.entries), found.invalid_records) == (3, ())
    oracle.assert_consistent(harness)


@pytest.mark.faults
def test_an_append_that_was_lost_is_made_by_the_next_run_and_void_if_it_comes_late(
    harness: ModelHarness,
) -> None:
    """Row 26."""
    ready_to_deploy(harness, 1)
    with harness.open_model() as mill:
        lost = AmbiguousLedger(mill.ledger, is_appended=False)
        with pytest.raises(LogUnavailable):
            deploy(replace(mill, ledger=lost), harness.window(1), True)
        ended = deploy(mill, harness.window(1), True)
        assert (ended.status, ended.seq) == ("deployed", 2)
        before = mill.chain()
        assert before.invalid_records == ()
        assert lost.unacknowledged is not None
        mill.ledger.append(mill.model, lost.unacknowledged)
        found = consistent_chain(harness, mill)
        assert found.entries == before.entries
        assert len(found.invalid_records) == 1
    oracle.assert_consistent(harness)


def test_a_lost_acknowledgement_never_doubles_an_entry_of_the_initial_model(
    harness: ModelHarness,
) -> None:
    """Row 26, with the ledger in memory."""
    harness.produce_windows(-3, 2)
    ledger = MemoryLedger()
    with harness.open_model() as real:
        mill = replace(real, ledger=ledger)
        ledger.lose_acknowledgement = True
        initial(mill)
        initial(mill)
        assert len(ledger.read()) == 1
        for number in (0, 1):
            ledger.lose_acknowledgement = True
            run_window(mill, number)
            run_window(mill, number)
        found = mill.chain()
        assert len(ledger.read()) == len(found.entries)

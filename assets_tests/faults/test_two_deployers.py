"""Two deployers at once, and appends without an answer: one entry stands, for every reader."""

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import Barrier

import pytest

import oracle
from bench import Bench, run, turn
from ledger_hands import EACH, Together, Unsure, append_each, over, records
from tidemill import bootstrap
from tidemill.adapters.memory.log import MemoryLedger
from tidemill.core.errors import LogUnavailable
from tidemill.core.ledger import Chain, Entry, build_chain
from tidemill.cycle.deploy import Deployment, deploy
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.intervene import rollback
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.update import update

_FORKS = multiprocessing.get_context("forkserver")


def ready_to_deploy(bench: Bench, number: int) -> None:
    """A model whose every candidate serves, run to this window, whose deploy step is still due."""
    bench.define(gate={"policy": "always"})
    bench.feed(-3, number + 2)
    with bench.mill() as mill:
        run(mill, 0, number - 1)
        at = bench.window(number)
        extract(mill, at)
        update(mill, at)
        evaluate(mill, at)


def for_every_reader(bench: Bench, seen: ModelContext, topic: str | None = None) -> Chain:
    """The chain, which is the same for a new reader, one that read before, and Kafka's client."""
    with bootstrap.open_model(seen.model, over(bench, topic or bench.ledger)) as fresh:
        found = fresh.chain()
    assert found == seen.chain() == build_chain(seen.model, records(bench, topic))
    return found


@pytest.mark.faults
@pytest.mark.parametrize("names", [("airflow", "a person's shell"), ("tidemill", "tidemill")])
def test_of_two_deployers_of_one_window_one_entry_stands(
    bench: Bench, names: tuple[str, str]
) -> None:
    """Row 26: the loser finds its model in service; of equal entries the first one is both's."""
    ready_to_deploy(bench, 1)
    both = Barrier(2)

    def work(by: str) -> Deployment:
        with bench.mill(by) as mill:
            together = replace(mill, ledger=Together(mill.ledger, both))
            return deploy(together, bench.window(1), True)

    with bench.mill() as seen, ThreadPoolExecutor(2) as pool:
        before = seen.chain()
        ended = list(pool.map(work, names))
        found = for_every_reader(bench, seen)
    assert {each.seq for each in ended} == {len(before.entries)}
    assert "deployed" in {each.status for each in ended} <= {"deployed", "unchanged"}
    assert len(found.entries) == len(before.entries) + 1
    assert len(found.invalid_records) == 1
    oracle.check(bench)


@pytest.mark.faults
def test_of_two_persons_at_once_both_are_heard_one_after_the_other(bench: Bench) -> None:
    """Row 26: the one whose entry is void reads the head and decides anew."""
    ready_to_deploy(bench, 3)
    both = Barrier(2)
    with bench.mill() as seen, ThreadPoolExecutor(2) as pool:
        deployed = seen.chain().entries

        def work(by: str, digest: str) -> Entry:
            with bench.mill(by) as mill:
                together = replace(mill, ledger=Together(mill.ledger, both))
                return rollback(together, digest, by, "at once")

        digests = [deployed[0].entry.digest, deployed[1].entry.digest]
        ended = list(pool.map(work, ("ada", "bob"), digests))
        found = for_every_reader(bench, seen)
    assert {entry.seq for entry in ended} == {len(deployed), len(deployed) + 1}
    told = {s.entry.seq: s.entry for s in found.entries}
    assert [told[entry.seq] for entry in ended] == ended
    assert len(found.invalid_records) == 1
    oracle.check(bench)


@pytest.mark.faults
def test_deployers_of_two_models_in_four_processes_never_disturb_the_chains(bench: Bench) -> None:
    """Row 26: one ledger topic; every entry stands once, in a place of its own."""
    other = replace(bench, model=f"{bench.model}_other")
    other.define(topic=bench.model)
    bench.feed(-3, 1)
    ledger, go = bench.ledger, bench.home / "go"
    models = (bench.model, other.model)
    with ExitStack() as stack:
        mills = [
            stack.enter_context(bootstrap.open_model(model, over(bench, ledger))) for model in models
        ]
        for mill in mills:
            initial(mill)
        workers = [
            _FORKS.Process(
                target=append_each, args=(bench.environment, model, ledger, f"{model}-{n}", str(go))
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
            found = for_every_reader(bench, mill, ledger)
            assert [s.entry.seq for s in found.entries] == list(range(1 + 2 * EACH))
            why = Counter(s.entry.reason for s in found.entries[1:])
            assert why == {f"{mill.model}-{n} {i}": 1 for n in range(2) for i in range(EACH)}
            for standing in found.entries:
                assert mill.repository.entry(standing.entry.seq) == standing.value
            void += len(found.invalid_records)
    print(f"{4 * EACH + 2} entries stand, {void} are void")


def test_an_append_that_stands_without_an_answer_is_not_made_again(bench: Bench) -> None:
    """Row 26, over the real topic: the entry is looked for before anything else is tried."""
    ready_to_deploy(bench, 1)
    with bench.mill() as mill:
        unsure = Unsure(mill.ledger, stands=True)
        ended = deploy(replace(mill, ledger=unsure), bench.window(1), True)
        assert (ended.status, ended.seq, unsure.appended) == ("deployed", 2, 1)
        found = for_every_reader(bench, mill)
        assert (len(found.entries), found.invalid_records) == (3, ())
    oracle.check(bench)


@pytest.mark.faults
def test_an_append_without_an_answer_is_found_by_the_next_run(bench: Bench) -> None:
    """Row 26: Kafka stays away after it, so nobody can look until the step is run again."""
    ready_to_deploy(bench, 1)
    with bench.mill() as mill:
        silent = Unsure(mill.ledger, stands=True, silent=True)
        with pytest.raises(LogUnavailable):
            deploy(replace(mill, ledger=silent), bench.window(1), True)
    with bench.mill() as mill:
        assert deploy(mill, bench.window(1), True).status == "unchanged"
        found = for_every_reader(bench, mill)
        assert (len(found.entries), found.invalid_records) == (3, ())
    oracle.check(bench)


@pytest.mark.faults
def test_an_append_that_was_lost_is_made_by_the_next_run_and_void_if_it_comes_late(
    bench: Bench,
) -> None:
    """Row 26."""
    ready_to_deploy(bench, 1)
    with bench.mill() as mill:
        lost = Unsure(mill.ledger, stands=False)
        with pytest.raises(LogUnavailable):
            deploy(replace(mill, ledger=lost), bench.window(1), True)
        ended = deploy(mill, bench.window(1), True)
        assert (ended.status, ended.seq) == ("deployed", 2)
        before = mill.chain()
        assert before.invalid_records == ()
        assert lost.lost is not None
        mill.ledger.append(mill.model, lost.lost)
        found = for_every_reader(bench, mill)
        assert found.entries == before.entries
        assert len(found.invalid_records) == 1
    oracle.check(bench)


def test_a_lost_acknowledgement_never_doubles_an_entry_of_the_initial_model(bench: Bench) -> None:
    """Row 26, with the ledger in memory."""
    bench.feed(-3, 2)
    ledger = MemoryLedger()
    with bench.mill() as real:
        mill = replace(real, ledger=ledger)
        ledger.lose_acknowledgement = True
        initial(mill)
        initial(mill)
        assert len(ledger.read()) == 1
        for number in (0, 1):
            ledger.lose_acknowledgement = True
            turn(mill, number)
            turn(mill, number)
        found = mill.chain()
        assert len(ledger.read()) == len(found.entries)

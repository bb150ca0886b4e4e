"""Deployments cut short, an alias moved, a ledger restored, all under the eyes of a server."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

import oracle
from bench import Bench, turn
from children import KILLED, outcome_of, places_in, reaches, working
from commands import command, until
from deployments import deployed, recorded, tracker_of, turned_and_recorded
from ledger_hands import lose
from serving_hands import Serving, serving
from swarm import swarm
from tidemill.adapters import mlflow
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.cycle import deploy
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.record import find_drift
from tidemill.cycle.restore import restore

pytestmark = pytest.mark.faults


@dataclass
class Scene:
    """A model with a record in MLflow, its mill, and a server that follows its ledger."""

    bench: Bench
    mill: ModelContext
    server: Serving
    tracker: MlflowTracker

    @property
    def head(self) -> str:
        """The digest that the ledger has in service."""
        head = self.mill.chain().head
        assert head is not None
        return head.entry.digest

    def follows(self) -> None:
        """The server comes to serve what the ledger says."""
        head = self.mill.chain().head
        assert head is not None
        told = self.server.until(version=head.entry.seq, stale=None)
        assert (told["digest"], told["last_failure"]) == (head.entry.digest, None)

    def agree(self) -> None:
        """Server, ledger and alias name one model, and MLflow has all of the record."""
        self.follows()
        assert self.tracker.champion(self.bench.model) == self.head
        assert list(find_drift(self.mill, self.tracker).descriptions) == []


@pytest.fixture
def scene(bench: Bench) -> Iterator[Scene]:
    bench = replace(deployed(bench), tracking=None)
    tracker = tracker_of(bench.settings)
    with bench.mill() as mill, serving(bench) as server:
        recorded(mill, bench.settings, 1)
        made = Scene(bench, mill, server, tracker)
        made.agree()
        yield made
        assert server.ended() == 0


def test_killed_between_append_and_alias_all_come_to_agree(scene: Scene) -> None:
    """Row 24: the server follows the ledger at once, whatever else was not done; the next run does
    the rest."""
    places = sorted(places_in([deploy.__file__, mlflow.__file__]) | {"entry.before", "entry.after"})
    assert {"append.after", "version.before", "alias.before", "alias.after"} <= set(places)
    scene.bench.feed(8, 2 + len(places) + 1)
    with swarm(scene.server).asking(4) as clients:
        for number, place in enumerate(places, 2):
            before = scene.mill.chain().entries
            does = partial(turned_and_recorded, settings=scene.bench.settings, number=number)
            assert outcome_of(scene.bench, does, f"{place}:kill") == KILLED, place
            scene.follows()
            stood = len(scene.mill.chain().entries) - len(before)
            assert stood == (place != "append.before"), place
            turned_and_recorded(scene.mill, scene.bench.settings, number)
            scene.agree()
            assert len(scene.mill.chain().entries) == len(before) + 1, place
            assert scene.mill.chain().invalid_records == ()
    clients.right()
    oracle.check(scene.bench)


def test_an_alias_moved_behind_our_back_changes_nothing_that_is_served(scene: Scene) -> None:
    """Row 25: nor after a restart; `verify` tells it, and mends it on command."""
    bench, head = scene.bench, scene.head
    old = scene.mill.chain().entries[0].entry.digest
    scene.tracker.set_champion(bench.model, old)
    with swarm(scene.server).asking(4) as clients:
        told = command(bench.environment, "tidemill", "verify", bench.model)
        assert told.returncode == 4
        assert f"stands at {old}, the ledger's head is {head}" in told.stderr
        with serving(bench, name="again") as again:
            assert again.model()["digest"] == head
        assert scene.tracker.champion(bench.model) == old
        told = command(bench.environment, "tidemill", "verify", bench.model, "--repair")
        assert told.returncode == 0, told.stderr
        scene.agree()
    clients.right()
    assert {digest for digest, _ in clients.seen.values()} == {head}
    oracle.check(bench)


def test_a_server_keeps_its_model_while_the_ledger_is_lost_and_restored(bench: Bench) -> None:
    """Decision 13: the old champions that come by again are not served, not even for a moment."""
    deployed(bench, last=3)
    with bench.mill() as mill:
        head = mill.chain().head
        assert head is not None
    served = {"digest": head.entry.digest, "version": head.entry.seq}
    with serving(bench) as server:
        with swarm(server).asking(8, pause=0.01) as clients:
            lose(bench)
            until(lambda: "the ledger was not reached" in str(server.model()["stale"]), 60)
            with working(bench, restore, "restore.after:sleep=3:3") as restoring:
                reaches(bench, "restore.after", 3)
                told = server.until(ledger_version=2, **served)
                assert told["stale"] == f"the ledger has not reached entry {head.entry.seq} again"
                restoring.join(60)
                assert restoring.exitcode == 0
            server.until(stale=None, ledger_version=head.entry.seq, **served)
            clients.right()
            assert clients.seen.keys() == {head.entry.seq}
            with bench.mill() as mill:
                turn(mill, 4)
            server.until(version=head.entry.seq + 1, stale=None, last_failure=None)
        clients.right()
        assert server.metric("tidemill_swaps_total", model=bench.model) == 1
        assert "is another one; models stay as they are" in server.said()
    oracle.check(bench)

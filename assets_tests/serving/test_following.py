"""What a server takes from the ledger: shown over ledger, store and proof in memory."""

import gc
import weakref
from dataclasses import replace

import pytest

from following_hands import SPEC, World, some_bundles
from tidemill.core import canonical


@pytest.fixture(scope="module")
def bundles() -> list[bytes]:
    return some_bundles()


@pytest.fixture
def world(bundles: list[bytes]) -> World:
    return World(bundles)


def test_the_newest_standing_entry_is_served_and_those_before_it_never(world: World) -> None:
    for number in (0, 1, 2):
        world.deploy(world.digest(number))
    assert not world.status.ready
    told = world.status.describe()["ledger"]
    assert (told["reached"], told["caught_up"], told["behind"]) == (False, False, 0)
    world.step()
    assert (world.served.digest, world.served.entry.seq) == (world.digest(2), 2)
    assert world.status.ready
    assert world.happened == []  # nothing was served that could have been swapped


def test_a_void_entry_changes_nothing(world: World) -> None:
    world.deploy(world.digest(0))
    late = world.entry(world.digest(1))
    world.deploy(world.digest(2))
    world.ledger.append("m", canonical.encode(late))
    world.ledger.append("m", b"no entry")
    world.ledger.append("other", canonical.encode(replace(late, model="other", seq=2)))
    world.step()
    assert world.served.digest == world.digest(2)


def test_an_entry_for_the_same_model_moves_the_version_alone(world: World) -> None:
    world.deploy(world.digest(0))
    world.step()
    predictor = world.served.predictor
    world.deploy(world.digest(0), "adopted")
    world.step()
    assert world.served.entry.seq == 1
    assert world.served.predictor is predictor


@pytest.mark.parametrize("digest", ["0" * 64, "../../../etc/passwd", "A" * 64, ""])
def test_what_cannot_be_loaded_replaces_nothing_and_is_told(world: World, digest: str) -> None:
    world.deploy(world.digest(0))
    world.step()
    world.deploy(digest)
    world.step()
    assert world.served.digest == world.digest(0)
    told = world.status.describe_model("m")
    assert told["last_failure"].version == 1
    assert told["stale"] == "entry 1 could not be taken into service"
    assert world.happened == ["failure"]
    assert world.status.ready


def test_damaged_bytes_are_refused_before_anything_reads_them(world: World) -> None:
    world.deploy(world.digest(0))
    world.step()
    world.store[world.digest(1)] = world.bundles[1][:-1] + b"x"
    world.deploy(world.digest(1))
    world.step()
    assert world.model.failure is not None
    assert world.model.failure.error == "DigestMismatch"
    assert world.served.digest == world.digest(0)


def test_a_bundle_that_comes_later_is_taken_then(world: World) -> None:
    world.deploy(world.digest(0))
    held = world.store.pop(world.digest(1))
    world.deploy(world.digest(1))
    world.step()
    assert world.served.digest == world.digest(0)  # the newest that is sound
    world.store[world.digest(1)] = held
    world.step()
    world.now += 999
    world.step()
    assert world.served.digest == world.digest(0)  # not asked for again yet
    world.now += 1
    world.step()
    assert world.served.digest == world.digest(1)
    assert world.model.failure is None
    assert world.happened == ["failure", "swap"]


def test_a_bundle_that_stays_away_is_asked_for_ever_less_often(world: World) -> None:
    world.deploy(world.digest(0))
    world.deploy("0" * 64)
    for _ in range(600):
        world.step()
        world.now += 1_000
    assert world.happened.count("failure") < 20


def test_a_server_keeps_its_model_while_the_ledger_is_restored(world: World) -> None:
    values = [canonical.encode(world.deploy(world.digest(at))) for at in (0, 1, 2)]
    world.step()
    world.ledger.recreate()
    world.ledger.reattach()
    for value in values:
        world.step()
        assert world.served.entry.seq == 2
        assert world.status.describe_model("m")["stale"] == "the ledger has not reached entry 2 again"
        world.ledger.append("m", value)
    world.step()
    assert world.status.describe_model("m")["stale"] is None
    world.deploy(world.digest(0))
    world.step()
    assert (world.served.digest, world.served.entry.seq) == (world.digest(0), 3)
    assert world.happened == ["swap"]


def test_a_server_started_while_the_ledger_is_restored_serves_what_it_knew(world: World) -> None:
    values = [canonical.encode(world.deploy(world.digest(at))) for at in (0, 1)]
    world.step()
    world.ledger.recreate()
    world.ledger.reattach()
    world.ledger.append("m", values[0])
    world.start()
    world.step()
    assert (world.served.digest, world.served.from_local_copy) == (world.digest(1), True)
    world.ledger.append("m", values[1])
    world.step()
    assert (world.served.digest, world.served.from_local_copy) == (world.digest(1), False)


def test_another_ledger_is_not_followed(world: World) -> None:
    world.deploy(world.digest(0))
    world.step()
    world.ledger.recreate()
    world.ledger.reattach()
    world.deploy(world.digest(1), "another story")
    world.step()
    world.step()
    assert world.served.digest == world.digest(0)
    assert world.model.failure is not None
    assert world.model.failure.error == "LedgerBroken"
    assert world.happened == ["failure"]


def test_without_kafka_a_server_starts_from_its_copy_and_says_so(world: World) -> None:
    world.deploy(world.digest(1))
    world.step()
    world.ledger.unavailable = True
    world.start()
    world.now += 60_000
    assert not world.step()
    assert (world.served.digest, world.served.entry.seq) == (world.digest(1), 0)
    told = world.status.describe()
    assert told["ready"]
    assert not told["ledger"]["reached"]
    assert told["models"]["m"]["from_local_copy"]
    assert told["models"]["m"]["stale"] == "the ledger was not reached for 60 s"
    world.ledger.unavailable = False
    world.deploy(world.digest(2))
    world.step()
    assert (world.served.digest, world.served.from_local_copy) == (world.digest(2), False)


def test_a_server_waits_for_kafka_before_it_serves_its_copy(world: World) -> None:
    world.deploy(world.digest(1))
    world.step()
    world.ledger.unavailable = True
    world.start()
    world.now += 4_999
    world.step()
    assert world.model.slot.served is None
    world.now += 1
    world.step()
    assert world.served.digest == world.digest(1)


def test_a_damaged_copy_is_not_served(world: World) -> None:
    world.deploy(world.digest(1))
    world.step()
    name = f"m/{world.digest(1)}.bundle"
    world.copies.replace(name, world.bundles[1][:-1] + b"x")
    world.ledger.unavailable = True
    world.start()
    world.now += 5_000
    world.step()
    assert world.model.slot.served is None
    assert not world.status.ready
    assert world.model.failure is not None


def test_a_copy_holds_one_bundle_a_model(world: World) -> None:
    for number in (0, 1, 2):
        world.deploy(world.digest(number))
        world.step()
    assert list(world.copies.names("m/")) == sorted([f"m/{world.digest(2)}.bundle", "m/entry.json"])


def test_kafka_away_later_changes_nothing(world: World) -> None:
    world.deploy(world.digest(0))
    world.step()
    world.ledger.unavailable = True
    world.now += 5_000
    assert not world.step()
    assert world.status.ready
    assert world.status.describe_model("m")["stale"] == "the ledger was not reached for 5 s"


def test_an_old_model_is_freed_when_the_last_request_that_took_it_ends(world: World) -> None:
    world.deploy(world.digest(0))
    world.step()
    taken = world.served
    old = weakref.ref(taken.predictor)
    world.deploy(world.digest(1))
    world.step()
    gc.collect()
    assert old() is not None  # the request under way still has it
    del taken
    gc.collect()
    assert old() is None


def test_the_age_is_that_of_the_newest_window_learned(world: World) -> None:
    world.deploy(world.digest(0))
    world.step()
    start = SPEC.calendar.first.start
    world.now = start + 7_000
    assert world.status.age_seconds("m") == 7

"""What a server takes from the ledger: shown over ledger, store and proof in memory."""

import gc
import weakref
from dataclasses import replace

import pytest

from follower_fixture import SPEC, FollowerFixture, distinct_bundles
from tidemill.core import canonical


@pytest.fixture(scope="module")
def bundles() -> list[bytes]:
    return distinct_bundles()


@pytest.fixture
def follower_fixture(bundles: list[bytes]) -> FollowerFixture:
    return FollowerFixture(bundles)


def test_the_newest_standing_entry_is_served_and_those_before_it_never(
    follower_fixture: FollowerFixture,
) -> None:
    for number in (0, 1, 2):
        follower_fixture.deploy(follower_fixture.digest(number))
    assert not follower_fixture.status.ready
    told = follower_fixture.status.describe()["ledger"]
    assert (told["reached"], told["caught_up"], told["behind"]) == (False, False, 0)
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.entry.seq) == (
        follower_fixture.digest(2),
        2,
    )
    assert follower_fixture.status.ready
    assert follower_fixture.events == []  # nothing was served that could have been swapped


def test_a_void_entry_changes_nothing(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    late = follower_fixture.entry(follower_fixture.digest(1))
    follower_fixture.deploy(follower_fixture.digest(2))
    follower_fixture.ledger.append("m", canonical.encode(late))
    follower_fixture.ledger.append("m", b"no entry")
    follower_fixture.ledger.append("other", canonical.encode(replace(late, model="other", seq=2)))
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(2)


def test_an_entry_for_the_same_model_moves_the_version_alone(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    predictor = follower_fixture.served.predictor
    follower_fixture.deploy(follower_fixture.digest(0), "adopted")
    follower_fixture.step()
    assert follower_fixture.served.entry.seq == 1
    assert follower_fixture.served.predictor is predictor


@pytest.mark.parametrize("digest", ["0" * 64, "../../../etc/passwd", "A" * 64, ""])
def test_what_cannot_be_loaded_replaces_nothing_and_is_told(
    follower_fixture: FollowerFixture, digest: str
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.deploy(digest)
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)
    told = follower_fixture.status.describe_model("m")
    assert told["last_failure"].version == 1
    assert told["stale"] == "entry 1 could not be taken into service"
    assert follower_fixture.events == ["failure"]
    assert follower_fixture.status.ready


def test_damaged_bytes_are_refused_before_anything_reads_them(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.store[follower_fixture.digest(1)] = follower_fixture.bundles[1][:-1] + b"x"
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.error == "DigestMismatch"
    assert follower_fixture.served.digest == follower_fixture.digest(0)


def test_a_bundle_that_comes_later_is_taken_then(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    held = follower_fixture.store.pop(follower_fixture.digest(1))
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)  # the newest that is sound
    follower_fixture.store[follower_fixture.digest(1)] = held
    follower_fixture.step()
    follower_fixture.now_ms += 999
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)  # not asked for again yet
    follower_fixture.now_ms += 1
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(1)
    assert follower_fixture.model.failure is None
    assert follower_fixture.events == ["failure", "swap"]


def test_a_bundle_that_stays_away_is_asked_for_ever_less_often(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.deploy("0" * 64)
    for _ in range(600):
        follower_fixture.step()
        follower_fixture.now_ms += 1_000
    assert follower_fixture.events.count("failure") < 20


def test_a_server_keeps_its_model_while_the_ledger_is_restored(
    follower_fixture: FollowerFixture,
) -> None:
    values = [
        canonical.encode(follower_fixture.deploy(follower_fixture.digest(at))) for at in (0, 1, 2)
    ]
    follower_fixture.step()
    follower_fixture.ledger.recreate()
    follower_fixture.ledger.reattach()
    for value in values:
        follower_fixture.step()
        assert follower_fixture.served.entry.seq == 2
        assert (
            follower_fixture.status.describe_model("m")["stale"]
            == "the ledger has not reached entry 2 again"
        )
        follower_fixture.ledger.append("m", value)
    follower_fixture.step()
    assert follower_fixture.status.describe_model("m")["stale"] is None
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.entry.seq) == (
        follower_fixture.digest(0),
        3,
    )
    assert follower_fixture.events == ["swap"]


def test_a_server_started_while_the_ledger_is_restored_serves_what_it_knew(
    follower_fixture: FollowerFixture,
) -> None:
    values = [
        canonical.encode(follower_fixture.deploy(follower_fixture.digest(at))) for at in (0, 1)
    ]
    follower_fixture.step()
    follower_fixture.ledger.recreate()
    follower_fixture.ledger.reattach()
    follower_fixture.ledger.append("m", values[0])
    follower_fixture.start()
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.from_local_copy) == (
        follower_fixture.digest(1),
        True,
    )
    follower_fixture.ledger.append("m", values[1])
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.from_local_copy) == (
        follower_fixture.digest(1),
        False,
    )


def test_another_ledger_is_not_followed(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.ledger.recreate()
    follower_fixture.ledger.reattach()
    follower_fixture.deploy(follower_fixture.digest(1), "another story")
    follower_fixture.step()
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.error == "LedgerBroken"
    assert follower_fixture.events == ["failure"]


def test_without_kafka_a_server_starts_from_its_copy_and_says_so(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    follower_fixture.ledger.unavailable = True
    follower_fixture.start()
    follower_fixture.now_ms += 60_000
    assert not follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.entry.seq) == (
        follower_fixture.digest(1),
        0,
    )
    told = follower_fixture.status.describe()
    assert told["ready"]
    assert not told["ledger"]["reached"]
    assert told["models"]["m"]["from_local_copy"]
    assert told["models"]["m"]["stale"] == "the ledger was not reached for 60 s"
    follower_fixture.ledger.unavailable = False
    follower_fixture.deploy(follower_fixture.digest(2))
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.from_local_copy) == (
        follower_fixture.digest(2),
        False,
    )


def test_a_server_waits_for_kafka_before_it_serves_its_copy(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    follower_fixture.ledger.unavailable = True
    follower_fixture.start()
    follower_fixture.now_ms += 4_999
    follower_fixture.step()
    assert follower_fixture.model.slot.served is None
    follower_fixture.now_ms += 1
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(1)


def test_a_damaged_copy_is_not_served(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    name = f"m/{follower_fixture.digest(1)}.bundle"
    follower_fixture.copy_store.replace(name, follower_fixture.bundles[1][:-1] + b"x")
    follower_fixture.ledger.unavailable = True
    follower_fixture.start()
    follower_fixture.now_ms += 5_000
    follower_fixture.step()
    assert follower_fixture.model.slot.served is None
    assert not follower_fixture.status.ready
    assert follower_fixture.model.failure is not None


def test_a_copy_holds_one_bundle_a_model(follower_fixture: FollowerFixture) -> None:
    for number in (0, 1, 2):
        follower_fixture.deploy(follower_fixture.digest(number))
        follower_fixture.step()
    assert list(follower_fixture.copy_store.names("m/")) == sorted(
        [f"m/{follower_fixture.digest(2)}.bundle", "m/entry.json"]
    )


def test_kafka_away_later_changes_nothing(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.ledger.unavailable = True
    follower_fixture.now_ms += 5_000
    assert not follower_fixture.step()
    assert follower_fixture.status.ready
    assert (
        follower_fixture.status.describe_model("m")["stale"] == "the ledger was not reached for 5 s"
    )


def test_an_old_model_is_freed_when_the_last_request_that_took_it_ends(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    taken = follower_fixture.served
    old = weakref.ref(taken.predictor)
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    gc.collect()
    assert old() is not None  # the request under way still has it
    del taken
    gc.collect()
    assert old() is None


def test_the_age_is_that_of_the_newest_window_learned(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    start = SPEC.calendar.first.start
    follower_fixture.now_ms = start + 7_000
    assert follower_fixture.status.age_seconds("m") == 7

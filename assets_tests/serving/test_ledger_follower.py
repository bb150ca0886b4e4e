"""The ledger follower, with ledger, store and validation in memory."""

import gc
import weakref
from dataclasses import replace

import pytest

from serving.follower_fixture import SPEC, FollowerFixture, distinct_bundles
from tidemill.core import canonical
from tidemill.cycle.names import bundle_name


@pytest.fixture(scope="module")
def bundles() -> list[bytes]:
    return distinct_bundles()


@pytest.fixture
def follower_fixture(bundles: list[bytes]) -> FollowerFixture:
    return FollowerFixture(bundles)


def test_only_the_newest_valid_entry_is_served(
    follower_fixture: FollowerFixture,
) -> None:
    for number in (0, 1, 2):
        follower_fixture.deploy(follower_fixture.digest(number))
    assert not follower_fixture.status.ready
    ledger = follower_fixture.status.describe()["ledger"]
    assert (ledger["connected"], ledger["caught_up"], ledger["lag"]) == (False, False, 0)
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.entry.seq) == (
        follower_fixture.digest(2),
        2,
    )
    assert follower_fixture.status.ready
    assert follower_fixture.events == []  # the first model is not a swap


def test_an_invalid_entry_changes_nothing(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    late = follower_fixture.entry(follower_fixture.digest(1))
    follower_fixture.deploy(follower_fixture.digest(2))
    follower_fixture.ledger.append("m", canonical.encode(late))
    follower_fixture.ledger.append("m", b"no entry")
    follower_fixture.ledger.append("other", canonical.encode(replace(late, model="other", seq=2)))
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(2)


def test_an_entry_of_a_later_format_affects_only_its_own_model(bundles: list[bytes]) -> None:
    fixture = FollowerFixture(bundles, models=("newer", "m"))
    later = replace(fixture.entry(fixture.digest(0)), model="newer")
    fixture.ledger.append("newer", canonical.encode(later))
    fixture.step()
    newer = fixture.follower.states["newer"]
    assert newer.served is not None
    head = newer.chain.next_position[1]
    unsupported = replace(later, seq=1, prev=head, format=canonical.FORMAT + 1)
    fixture.ledger.append("newer", canonical.encode(unsupported))
    fixture.deploy(fixture.digest(1))
    fixture.step()
    assert fixture.served.digest == fixture.digest(1)
    assert newer.served.entry.seq == 0
    assert newer.failure is not None
    assert newer.failure.error == "FormatUnsupported"
    # To a reader of that format, this one is not valid.
    late = replace(later, seq=1, prev=head, digest=fixture.digest(2))
    fixture.ledger.append("newer", canonical.encode(late))
    fixture.step()
    assert newer.served.digest == fixture.digest(0)
    stale = fixture.status.describe_model("newer")["stale"]
    assert "has format 2" in stale


def test_an_entry_for_the_same_model_changes_only_the_version(
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
def test_an_entry_that_cannot_be_loaded_replaces_nothing_and_is_reported(
    follower_fixture: FollowerFixture, digest: str
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.deploy(digest)
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)
    status = follower_fixture.status.describe_model("m")
    assert status["last_failure"].version == 1
    assert status["stale"] == "entry 1 could not be taken into service"
    assert follower_fixture.events == ["failure"]
    assert follower_fixture.status.ready


def test_damaged_bytes_are_rejected_before_they_are_loaded(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.model_store.store.replace(
        f"m/{bundle_name(follower_fixture.digest(1))}", follower_fixture.bundles[1][:-1] + b"x"
    )
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.error == "DigestMismatch"
    assert follower_fixture.served.digest == follower_fixture.digest(0)


def test_a_bundle_that_becomes_available_later_is_served_then(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.model_store.delete(bundle_name(follower_fixture.digest(1)))
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)  # the newest loadable one
    follower_fixture.model_store.put_bundle(follower_fixture.bundles[1])
    follower_fixture.step()
    follower_fixture.now_ms += 999
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)  # not retried yet
    follower_fixture.now_ms += 1
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(1)
    assert follower_fixture.model.failure is None
    assert follower_fixture.events == ["failure", "swap"]


def test_a_missing_bundle_is_retried_at_growing_intervals(
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
        canonical.encode(follower_fixture.deploy(follower_fixture.digest(number)))
        for number in (0, 1, 2)
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


def test_a_server_started_while_the_ledger_is_restored_serves_its_local_copy(
    follower_fixture: FollowerFixture,
) -> None:
    values = [
        canonical.encode(follower_fixture.deploy(follower_fixture.digest(number)))
        for number in (0, 1)
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


def test_a_different_ledger_is_not_followed(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.ledger.recreate()
    follower_fixture.ledger.reattach()
    follower_fixture.deploy(follower_fixture.digest(1), "a different history")
    follower_fixture.step()
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(0)
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.error == "LedgerBroken"
    assert follower_fixture.events == ["failure"]


def test_a_server_without_kafka_serves_its_local_copy_and_reports_it(
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
    status = follower_fixture.status.describe()
    assert status["ready"]
    assert not status["ledger"]["connected"]
    assert status["models"]["m"]["from_local_copy"]
    assert status["models"]["m"]["stale"] == "the ledger was not reached for 60 s"
    follower_fixture.ledger.unavailable = False
    follower_fixture.deploy(follower_fixture.digest(2))
    follower_fixture.step()
    assert (follower_fixture.served.digest, follower_fixture.served.from_local_copy) == (
        follower_fixture.digest(2),
        False,
    )


def test_a_server_waits_for_kafka_before_it_serves_its_local_copy(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    follower_fixture.ledger.unavailable = True
    follower_fixture.start()
    follower_fixture.now_ms += 4_999
    follower_fixture.step()
    assert follower_fixture.model.served is None
    follower_fixture.now_ms += 1
    follower_fixture.step()
    assert follower_fixture.served.digest == follower_fixture.digest(1)


def test_a_damaged_local_copy_is_not_served(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    name = f"m/{follower_fixture.digest(1)}.bundle"
    follower_fixture.copy_store.replace(name, follower_fixture.bundles[1][:-1] + b"x")
    follower_fixture.ledger.unavailable = True
    follower_fixture.start()
    follower_fixture.now_ms += 5_000
    follower_fixture.step()
    assert follower_fixture.model.served is None
    assert not follower_fixture.status.ready
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.error == "DigestMismatch"
    assert "local copy" in follower_fixture.model.failure.message  # before it is validated


def test_a_local_copy_holds_one_bundle_per_model(follower_fixture: FollowerFixture) -> None:
    for number in (0, 1, 2):
        follower_fixture.deploy(follower_fixture.digest(number))
        follower_fixture.step()
    assert list(follower_fixture.copy_store.names("m/")) == sorted(
        [f"m/{follower_fixture.digest(2)}.bundle", "m/entry.json"]
    )


def test_a_later_kafka_outage_changes_nothing(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    follower_fixture.ledger.unavailable = True
    follower_fixture.now_ms += 5_000
    assert not follower_fixture.step()
    assert follower_fixture.status.ready
    assert (
        follower_fixture.status.describe_model("m")["stale"] == "the ledger was not reached for 5 s"
    )


def test_an_old_model_is_freed_when_the_last_request_that_uses_it_ends(
    follower_fixture: FollowerFixture,
) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    served = follower_fixture.served
    old = weakref.ref(served.predictor)
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    gc.collect()
    assert old() is not None  # a request in flight still uses it
    del served
    gc.collect()
    assert old() is None


def test_the_age_is_that_of_the_newest_window_learned(follower_fixture: FollowerFixture) -> None:
    follower_fixture.deploy(follower_fixture.digest(0))
    follower_fixture.step()
    start = SPEC.calendar.first.start
    follower_fixture.now_ms = start + 7_000
    assert follower_fixture.status.age_seconds("m") == 7

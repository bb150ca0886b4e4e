"""What is in service while models are swapped: proven first, whole to the end, named truly."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from follower_fixture import FollowerFixture, distinct_bundles
from rsgi import Request, send_request
from tidemill.adapters.memory import InProcessValidator
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.errors import BundleInvalid
from tidemill.serving.app import MAX_INLINE_ROWS, App
from tidemill.serving.http import RequestLimits, TokenAuth
from tidemill.serving.metrics import Metrics

ROW = {"size": 1, "place": "p1"}


@dataclass
class RecordingValidator:
    """A prover that knows which digest was in service while it proved, and may find fault."""

    follower_fixture: FollowerFixture | None = None
    served_digests: list[str | None] = field(default_factory=list)
    error: BundleInvalid | None = None

    def validate(self, bundle: bytes) -> None:
        assert self.follower_fixture is not None
        served = self.follower_fixture.model.slot.served
        self.served_digests.append(served.digest if served else None)
        if self.error is not None:
            raise self.error
        InProcessValidator().validate(bundle)


@pytest.fixture(scope="module")
def bundles() -> list[bytes]:
    return distinct_bundles()


@pytest.fixture
def validator() -> RecordingValidator:
    return RecordingValidator()


@pytest.fixture
def follower_fixture(bundles: list[bytes], validator: RecordingValidator) -> FollowerFixture:
    """The first bundle is in service."""
    new_fixture = validator.follower_fixture = FollowerFixture(bundles, validator=validator)
    new_fixture.deploy(new_fixture.digest(0))
    new_fixture.step()
    return new_fixture


@pytest.fixture
def app(follower_fixture: FollowerFixture) -> App:
    return App(
        follower_fixture.status,
        Metrics(),
        RequestLimits(100_000, 10, 5),
        TokenAuth(None),
        ThreadPoolExecutor(1),
    )


def request(rows: int = 1) -> Request:
    return Request("/models/m/predict", json.dumps({"rows": [ROW] * rows}).encode())


def predict_offline(bundle: bytes) -> float:
    """What a bundle says of `ROW` by itself."""
    model = Model.load(bundle, canonical.digest(bundle), None)
    answer: float = model.predict(model.decoder().rows([json.dumps(ROW).encode()]))[0].item()
    return answer


def test_the_bundles_can_be_told_from_each_other(bundles: list[bytes]) -> None:
    assert len({predict_offline(each) for each in bundles}) == len(bundles)


def test_a_model_is_proven_before_it_is_in_service(
    follower_fixture: FollowerFixture, validator: RecordingValidator
) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert validator.served_digests == [None, follower_fixture.digest(0)]
    assert follower_fixture.served.digest == follower_fixture.digest(1)


def test_a_model_that_is_not_proven_never_answers(
    follower_fixture: FollowerFixture, validator: RecordingValidator, app: App, bundles: list[bytes]
) -> None:
    validator.error = BundleInvalid("It kills.", "Keep away.")
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    answer = send_request(app, request())
    assert (answer["digest"], answer["predictions"]) == (
        follower_fixture.digest(0),
        [predict_offline(bundles[0])],
    )
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.message == "It kills."


def test_what_a_request_has_taken_answers_after_a_swap_as_before(
    follower_fixture: FollowerFixture,
) -> None:
    taken = follower_fixture.served
    rows = follower_fixture.model.schema.convert_rows([ROW])
    before = (
        taken.predictor.predict_row(rows[0]),
        taken.predictor.predict_matrix(taken.predictor.matrix(rows)),
    )
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert follower_fixture.served is not taken
    assert (
        taken.predictor.predict_row(rows[0]),
        taken.predictor.predict_matrix(taken.predictor.matrix(rows)),
    ) == before


def test_an_answer_names_the_model_that_made_it_though_another_took_over_meanwhile(
    follower_fixture: FollowerFixture, app: App, bundles: list[bytes]
) -> None:
    busy = threading.Event()
    app.executor.submit(busy.wait, 60)  # the batch waits behind it

    async def swapped_under_way() -> Any:
        late = asyncio.create_task(request(MAX_INLINE_ROWS + 1).send(app))
        await asyncio.sleep(0)
        follower_fixture.deploy(follower_fixture.digest(1))
        follower_fixture.step()
        new = await request().send(app)
        assert not late.done()
        busy.set()
        return await late, new

    late, new = asyncio.run(swapped_under_way())
    assert (late["digest"], late["version"]) == (follower_fixture.digest(0), 0)
    assert late["predictions"] == [predict_offline(bundles[0])] * (MAX_INLINE_ROWS + 1)
    assert (new["digest"], new["version"]) == (follower_fixture.digest(1), 1)
    assert new["predictions"] == [predict_offline(bundles[1])]


def test_ready_is_who_could_start_again_by_itself(bundles: list[bytes]) -> None:
    """The copy is on the disk before the first model answers; later ones answer first."""
    world, seen = FollowerFixture(bundles), list[str | None]()
    keep = world.copy_store.replace

    def replace(name: str, data: bytes) -> None:
        served = world.model.slot.served
        seen.append(served.digest if served else None)
        keep(name, data)

    world.copy_store.replace = replace  # type: ignore[method-assign]
    for number in (0, 1):
        world.deploy(world.digest(number))
        world.step()
    assert seen == [None, None, world.digest(1), world.digest(1)]


def test_where_no_copy_can_be_kept_it_serves_nevertheless(bundles: list[bytes]) -> None:
    world = FollowerFixture(bundles)

    def full(name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    world.copy_store.replace = full  # type: ignore[method-assign]
    world.deploy(world.digest(0))
    world.step()
    assert world.status.ready

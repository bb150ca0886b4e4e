"""Swaps: a model is validated first, answers to the end, and is named in its responses."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.follower_fixture import FollowerFixture, distinct_bundles
from serving.rsgi import Request, send_request
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
    """A validator that records the digest in service while it validates, and may raise an error."""

    follower_fixture: FollowerFixture | None = None
    served_digests: list[str | None] = field(default_factory=list)
    error: BundleInvalid | None = None

    def validate(self, bundle: bytes) -> None:
        assert self.follower_fixture is not None
        served = self.follower_fixture.model.served
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
    """The prediction of a bundle for `ROW`."""
    model = Model.load(bundle, canonical.digest(bundle), None)
    prediction: float = model.predict(model.decoder().rows([json.dumps(ROW).encode()]))[0].item()
    return prediction


def test_the_bundles_have_different_predictions(bundles: list[bytes]) -> None:
    assert len({predict_offline(bundle) for bundle in bundles}) == len(bundles)


def test_a_model_is_validated_before_it_is_in_service(
    follower_fixture: FollowerFixture, validator: RecordingValidator
) -> None:
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert validator.served_digests == [None, follower_fixture.digest(0)]
    assert follower_fixture.served.digest == follower_fixture.digest(1)


def test_a_model_that_fails_validation_never_answers(
    follower_fixture: FollowerFixture, validator: RecordingValidator, app: App, bundles: list[bytes]
) -> None:
    validator.error = BundleInvalid("It crashes.", "Restore it.")
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    response = send_request(app, request())
    assert (response["digest"], response["predictions"]) == (
        follower_fixture.digest(0),
        [predict_offline(bundles[0])],
    )
    assert follower_fixture.model.failure is not None
    assert follower_fixture.model.failure.message == "It crashes."


def test_a_model_in_use_by_a_request_predicts_the_same_after_a_swap(
    follower_fixture: FollowerFixture,
) -> None:
    in_use = follower_fixture.served
    rows = follower_fixture.model.schema.convert_rows([ROW])
    before = (
        in_use.predictor.predict_row(rows[0]),
        in_use.predictor.predict_matrix(in_use.predictor.matrix(rows)),
    )
    follower_fixture.deploy(follower_fixture.digest(1))
    follower_fixture.step()
    assert follower_fixture.served is not in_use
    assert (
        in_use.predictor.predict_row(rows[0]),
        in_use.predictor.predict_matrix(in_use.predictor.matrix(rows)),
    ) == before


def test_a_response_names_the_model_that_made_it_even_after_a_swap(
    follower_fixture: FollowerFixture, app: App, bundles: list[bytes]
) -> None:
    busy = threading.Event()
    app.executor.submit(busy.wait, 60)  # the batch waits for it

    async def swap_in_flight() -> Any:
        late = asyncio.create_task(request(MAX_INLINE_ROWS + 1).send(app))
        await asyncio.sleep(0)
        follower_fixture.deploy(follower_fixture.digest(1))
        follower_fixture.step()
        new = await request().send(app)
        assert not late.done()
        busy.set()
        return await late, new

    late, new = asyncio.run(swap_in_flight())
    assert (late["digest"], late["version"]) == (follower_fixture.digest(0), 0)
    assert late["predictions"] == [predict_offline(bundles[0])] * (MAX_INLINE_ROWS + 1)
    assert (new["digest"], new["version"]) == (follower_fixture.digest(1), 1)
    assert new["predictions"] == [predict_offline(bundles[1])]


def test_a_server_is_ready_only_once_its_local_copy_is_written(bundles: list[bytes]) -> None:
    """The copy is written before the first model answers, and after later models answer."""
    fixture, served_digests = FollowerFixture(bundles), list[str | None]()
    original_replace = fixture.copy_store.replace

    def replace(name: str, data: bytes) -> None:
        served = fixture.model.served
        served_digests.append(served.digest if served else None)
        original_replace(name, data)

    fixture.copy_store.replace = replace  # type: ignore[method-assign]
    for number in (0, 1):
        fixture.deploy(fixture.digest(number))
        fixture.step()
    assert served_digests == [None, None, fixture.digest(1), fixture.digest(1)]


def test_a_server_that_cannot_write_its_local_copy_still_serves(bundles: list[bytes]) -> None:
    fixture = FollowerFixture(bundles)

    def raise_disk_full(name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    fixture.copy_store.replace = raise_disk_full  # type: ignore[method-assign]
    fixture.deploy(fixture.digest(0))
    fixture.step()
    assert fixture.status.ready

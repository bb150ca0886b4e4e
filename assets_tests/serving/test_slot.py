"""What is in service while models are swapped: proven first, whole to the end, named truly."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from following_hands import World, some_bundles
from rsgi import Request, asked
from tidemill.adapters.memory import InProcessValidator
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.errors import BundleInvalid
from tidemill.serving.app import MAX_INLINE_ROWS, App
from tidemill.serving.http import RequestLimits, TokenAuth
from tidemill.serving.metrics import Metrics

ROW = {"size": 1, "place": "p1"}


@dataclass
class Witness:
    """A prover that knows which digest was in service while it proved, and may find fault."""

    world: World | None = None
    saw: list[str | None] = field(default_factory=list)
    fault: BundleInvalid | None = None

    def prove(self, bundle: bytes) -> None:
        assert self.world is not None
        served = self.world.model.slot.served
        self.saw.append(served.digest if served else None)
        if self.fault is not None:
            raise self.fault
        InProcessValidator().validate(bundle)


@pytest.fixture(scope="module")
def bundles() -> list[bytes]:
    return some_bundles()


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
def world(bundles: list[bytes], witness: Witness) -> World:
    """The first bundle is in service."""
    made = witness.world = World(bundles, prover=witness)
    made.deploy(made.digest(0))
    made.step()
    return made


@pytest.fixture
def app(world: World) -> App:
    return App(world.status, Metrics(), RequestLimits(100_000, 10, 5), TokenAuth(None), ThreadPoolExecutor(1))


def request(rows: int = 1) -> Request:
    return Request("/models/m/predict", json.dumps({"rows": [ROW] * rows}).encode())


def offline(bundle: bytes) -> float:
    """What a bundle says of `ROW` by itself."""
    model = Model.load(bundle, canonical.digest(bundle), None)
    answer: float = model.predict(model.decoder().rows([json.dumps(ROW).encode()]))[0].item()
    return answer


def test_the_bundles_can_be_told_from_each_other(bundles: list[bytes]) -> None:
    assert len({offline(each) for each in bundles}) == len(bundles)


def test_a_model_is_proven_before_it_is_in_service(world: World, witness: Witness) -> None:
    world.deploy(world.digest(1))
    world.step()
    assert witness.saw == [None, world.digest(0)]
    assert world.served.digest == world.digest(1)


def test_a_model_that_is_not_proven_never_answers(
    world: World, witness: Witness, app: App, bundles: list[bytes]
) -> None:
    witness.fault = BundleInvalid("It kills.", "Keep away.")
    world.deploy(world.digest(1))
    world.step()
    answer = asked(app, request())
    assert (answer["digest"], answer["predictions"]) == (world.digest(0), [offline(bundles[0])])
    assert world.model.failure is not None
    assert world.model.failure.message == "It kills."


def test_what_a_request_has_taken_answers_after_a_swap_as_before(world: World) -> None:
    taken = world.served
    rows = world.model.schema.convert_rows([ROW])
    before = taken.predictor.predict_row(rows[0]), taken.predictor.predict_matrix(taken.predictor.matrix(rows))
    world.deploy(world.digest(1))
    world.step()
    assert world.served is not taken
    assert (
        taken.predictor.predict_row(rows[0]),
        taken.predictor.predict_matrix(taken.predictor.matrix(rows)),
    ) == before


def test_an_answer_names_the_model_that_made_it_though_another_took_over_meanwhile(
    world: World, app: App, bundles: list[bytes]
) -> None:
    busy = threading.Event()
    app.executor.submit(busy.wait, 60)  # the batch waits behind it

    async def swapped_under_way() -> Any:
        late = asyncio.create_task(request(MAX_INLINE_ROWS + 1).answered(app))
        await asyncio.sleep(0)
        world.deploy(world.digest(1))
        world.step()
        new = await request().answered(app)
        assert not late.done()
        busy.set()
        return await late, new

    late, new = asyncio.run(swapped_under_way())
    assert (late["digest"], late["version"]) == (world.digest(0), 0)
    assert late["predictions"] == [offline(bundles[0])] * (MAX_INLINE_ROWS + 1)
    assert (new["digest"], new["version"]) == (world.digest(1), 1)
    assert new["predictions"] == [offline(bundles[1])]


def test_ready_is_who_could_start_again_by_itself(bundles: list[bytes]) -> None:
    """The copy is on the disk before the first model answers; later ones answer first."""
    world, seen = World(bundles), list[str | None]()
    keep = world.copies.replace

    def replace(name: str, data: bytes) -> None:
        served = world.model.slot.served
        seen.append(served.digest if served else None)
        keep(name, data)

    world.copies.replace = replace  # type: ignore[method-assign]
    for number in (0, 1):
        world.deploy(world.digest(number))
        world.step()
    assert seen == [None, None, world.digest(1), world.digest(1)]


def test_where_no_copy_can_be_kept_it_serves_nevertheless(bundles: list[bytes]) -> None:
    world = World(bundles)

    def full(name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    world.copies.replace = full  # type: ignore[method-assign]
    world.deploy(world.digest(0))
    world.step()
    assert world.status.ready

"""Optional logging of predictions to Kafka: responses never wait for it, drops are counted."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tidemill.serving.model_state import ServedModel
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import PredictionRequest

logger = logging.getLogger("tidemill.serving")
_encode = msgspec.json.Encoder().encode


def predictions_topic(model: str) -> str:
    """The topic to which a model's predictions are logged."""
    return f"{model}.predictions"


class Message(Protocol):
    """A record whose delivery has succeeded or failed."""

    def topic(self) -> str | None: ...


class Producer(Protocol):
    """A queue of records that are sent to Kafka in the background, like librdkafka's."""

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes,
        *,
        on_delivery: Callable[[object | None, Message], None],
    ) -> None:
        """Put a record into the queue. Raises `BufferError` if it is full."""
        ...

    def poll(self, timeout_seconds: float) -> int:
        """Call `on_delivery` for the records whose outcome is known, with the error or None."""
        ...

    def flush(self, timeout_seconds: float) -> int:
        """Send what is queued, for at most this many seconds."""
        ...


class PredictionLog:
    """Puts one record per row into the Kafka client's queue, which sends it in the background.

    `logged_fields` are, per model, the fields whose values are logged, too: name and index in a
    row. `on_dropped` is called with the model and the number of records that the queue, or Kafka in
    time, did not accept.
    """

    def __init__(
        self,
        producer: Producer,
        logged_fields: Mapping[str, Mapping[str, int]],
        on_dropped: Callable[[str, int], None],
    ) -> None:
        self._producer, self._logged_fields, self._on_dropped = producer, logged_fields, on_dropped

    def put(
        self,
        prediction_request: PredictionRequest,
        served: ServedModel,
        predictions: Sequence[Prediction],
    ) -> None:
        """Log the predictions for a request. Never waits, never raises."""
        model, digest, version = served.entry.model, served.digest, served.entry.seq
        request_id = prediction_request.id or uuid.uuid4().hex
        fields = self._logged_fields.get(model, {})
        for number, (row, prediction) in enumerate(
            zip(prediction_request.rows, predictions, strict=True)
        ):
            values = msgspec.structs.astuple(row) if fields else ()
            record: dict[str, Any] = {
                "request": request_id,
                "row": number,
                "model": model,
                "digest": digest,
                "version": version,
                "prediction": prediction,
                "fields": {name: values[index] for name, index in fields.items()},
            }
            try:
                self._producer.produce(
                    predictions_topic(model),
                    _encode(record),
                    request_id.encode(errors="replace"),
                    on_delivery=self._on_delivery,
                )
            except BufferError:
                self._on_dropped(model, len(predictions) - number)
                break
            except Exception as error:  # logging must not affect responses
                logger.warning("Model %s: predictions are not logged: %s", model, error)
                self._on_dropped(model, len(predictions) - number)
                break
        self._producer.poll(0)

    def close(self, timeout_seconds: float) -> None:
        """Send what is queued, for at most this many seconds."""
        self._producer.flush(timeout_seconds)

    def _on_delivery(self, error: object | None, message: Message) -> None:
        if error is not None:
            self._on_dropped(str(message.topic()).removesuffix(".predictions"), 1)

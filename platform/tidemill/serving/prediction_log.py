"""Predictions logged to Kafka, for those who ask for it: never waited for, drops counted."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import Asked
from tidemill.serving.slot import Served

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

logger = logging.getLogger("tidemill.serving")
_encode = msgspec.json.Encoder().encode


def topic_of(model: str) -> str:
    """Where a model's predictions are logged."""
    return f"{model}.predictions"


class PredictionLog:
    """Puts one record a row into the client's queue, which sends it when it can.

    `fields` are those whose values are logged, too: name and place in a row. What the queue cannot
    take, or Kafka does not take in time, is `dropped`.
    """

    def __init__(
        self,
        producer: "Producer",
        fields: Mapping[str, Mapping[str, int]],
        dropped: Callable[[str, int], None],
    ) -> None:
        self._producer, self._fields, self._dropped = producer, fields, dropped

    def put(self, asked: Asked, served: Served, told: Sequence[Prediction]) -> None:
        """Log the answers to a request. Never waits, never raises."""
        model, digest, version = served.entry.model, served.digest, served.entry.seq
        request = asked.id or uuid.uuid4().hex
        fields = self._fields.get(model, {})
        for number, (row, prediction) in enumerate(zip(asked.rows, told, strict=True)):
            values = msgspec.structs.astuple(row) if fields else ()
            record: dict[str, Any] = {
                "request": request,
                "row": number,
                "model": model,
                "digest": digest,
                "version": version,
                "prediction": prediction,
                "fields": {name: values[at] for name, at in fields.items()},
            }
            try:
                self._producer.produce(
                    topic_of(model),
                    _encode(record),
                    request.encode(errors="replace"),
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._dropped(model, len(told) - number)
                break
            except Exception as error:  # a log that fails must not touch the answers
                logger.warning("Model %s: predictions are not logged: %s", model, error)
                self._dropped(model, len(told) - number)
                break
        self._producer.poll(0)

    def close(self, seconds: float) -> None:
        """Give what is queued so many seconds."""
        self._producer.flush(seconds)

    def _delivered(self, error: "KafkaError | None", message: "Message") -> None:
        if error is not None:
            self._dropped(str(message.topic()).removesuffix(".predictions"), 1)

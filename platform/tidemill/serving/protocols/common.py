"""The interface of a protocol, and the request that it decodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidemill.core.errors import TidemillError
from tidemill.serving.model_slot import ServedModel
from tidemill.serving.predictor import Prediction
from tidemill.serving.schemas import Rows


@dataclass(slots=True)
class PredictionRequest:
    """The rows of a request, and the id that the client assigned."""

    rows: Rows
    id: str | None = None


class Codec(Protocol):
    """One protocol for one model."""

    def decode(self, body: bytes) -> PredictionRequest:
        """The request in a body. Raises `RequestInvalid`, `TooManyRows`, `RowsInvalid`."""
        ...

    def encode(
        self, request: PredictionRequest, served: ServedModel, predictions: Sequence[Prediction]
    ) -> bytes:
        """The body of a response, which names the digest and the version of the model."""
        ...


class ErrorEncoder(Protocol):
    """How a protocol encodes an error."""

    def __call__(self, error: TidemillError) -> bytes: ...

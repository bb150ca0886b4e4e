"""The interface of a protocol, the request that it decodes, and the schemas of its bodies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tidemill.core.errors import TidemillError
from tidemill.serving.model_state import ServedModel
from tidemill.serving.predictor import Prediction
from tidemill.serving.schemas import RequestSchema, Rows

SCHEMA_REF = "#/components/schemas/{name}"
JsonSchema = dict[str, Any]


@dataclass(slots=True)
class PredictionRequest:
    """The rows of a request, and the id that the client assigned."""

    rows: Rows
    id: str | None = None


@dataclass(frozen=True)
class BodySchemas:
    """The bodies of a protocol, as the OpenAPI document describes them."""

    request: JsonSchema
    response: JsonSchema
    error: JsonSchema


class Codec(Protocol):
    """One protocol for one model."""

    def __init__(self, schema: RequestSchema) -> None: ...

    def decode(self, body: bytes) -> PredictionRequest:
        """The request in a body. Raises `RequestInvalid`, `TooManyRows`, `RowsInvalid`."""
        ...

    def encode(
        self, request: PredictionRequest, served: ServedModel, predictions: Sequence[Prediction]
    ) -> bytes:
        """The body of a response, which names the digest and the version of the model."""
        ...

    @staticmethod
    def encode_error(error: TidemillError) -> bytes:
        """An error in the protocol's format; it need not concern a model."""
        ...

    @staticmethod
    def body_schemas(models: Sequence[str]) -> BodySchemas:
        """The schemas for requests to any of these models."""
        ...


def ref(name: str) -> JsonSchema:
    """A reference to a schema among the document's components."""
    return {"$ref": SCHEMA_REF.format(name=name)}


def rows_name(model: str) -> str:
    """The component that describes the rows of a model."""
    return f"rows_{model}"


def request_name(model: str) -> str:
    """The component that describes a request to a model in tidemill's own protocol."""
    return f"request_{model}"

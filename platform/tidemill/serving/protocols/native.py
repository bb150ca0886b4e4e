"""tidemill's own protocol: typed rows by field name in, predictions out."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, TidemillError
from tidemill.serving.model_state import ServedModel
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import BodySchemas, PredictionRequest, ref, request_name
from tidemill.serving.schemas import FieldError, RequestSchema, RowsInvalid, decode_json

_REMEDY = 'Send {"rows": [{FIELD: VALUE, …}, …]}, optionally with an "id".'
_encode = msgspec.json.Encoder().encode


class PredictResponse(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Predictions in the order of the rows, and the model that made them.

    `version` is the `seq` of the ledger entry that put the model of this digest into service.
    """

    model: str
    digest: str
    version: int
    predictions: Sequence[float | list[float]]
    id: str | None = None


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong: the error's name, message and remedy, and the first errors of fields."""

    type: str
    message: str
    remedy: str
    fields: tuple[FieldError, ...] = ()


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: ErrorDetail


class NativeCodec:
    """A `Codec` for tidemill's own protocol."""

    def __init__(self, schema: RequestSchema) -> None:
        self._schema = schema
        self._decode = schema.decoder(_request_type)

    def decode(self, body: bytes) -> PredictionRequest:
        try:
            payload = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._decode_error(body) from error
        return PredictionRequest(self._schema.check_row_count(payload.rows), payload.id)

    def encode(
        self, request: PredictionRequest, served: ServedModel, predictions: Sequence[Prediction]
    ) -> bytes:
        version = served.entry.seq
        return _encode(
            PredictResponse(self._schema.model, served.digest, version, predictions, request.id)
        )

    @staticmethod
    def encode_error(error: TidemillError) -> bytes:
        field_errors = error.errors if isinstance(error, RowsInvalid) else ()
        name = "RowInvalid" if isinstance(error, RowsInvalid) else type(error).__name__
        return _encode(ErrorResponse(ErrorDetail(name, error.message, error.remedy, field_errors)))

    @staticmethod
    def body_schemas(models: Sequence[str]) -> BodySchemas:
        (model,) = models
        return BodySchemas(
            ref(request_name(model)), ref(PredictResponse.__name__), ref(ErrorResponse.__name__)
        )

    def _decode_error(self, body: bytes) -> Exception:
        payload = decode_json(body)
        if not isinstance(payload, dict):
            return RequestInvalid("The body is not a JSON object.", _REMEDY)
        for key in payload:
            if key not in ("rows", "id"):
                return RequestInvalid(f"The body has an unknown key {key[:80]!r}.", _REMEDY)
        if "rows" not in payload:
            return RequestInvalid("The body has no `rows`.", _REMEDY)
        if not isinstance(payload.get("id"), str | None):
            return RequestInvalid("The body's `id` is not a string.", _REMEDY)
        return self._schema.validation_error(payload["rows"])


def _request_type(rows: Any) -> type[msgspec.Struct]:
    fields: list[Any] = [("rows", rows), ("id", str | None, None)]
    return msgspec.defstruct("PredictRequest", fields, forbid_unknown_fields=True)

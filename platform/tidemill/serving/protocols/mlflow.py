"""MLflow's scoring protocol: `dataframe_split`, `dataframe_records`, `inputs`, `instances`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, TidemillError
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import Asked
from tidemill.serving.schemas import Contract, decode_json
from tidemill.serving.slot import Served

FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_REMEDY = f"Send a JSON object with one of {', '.join(FORMS)}."


class Scored(msgspec.Struct, frozen=True):
    """What MLflow's clients read, and the model that made it."""

    predictions: Sequence[float | list[float]]
    model: str
    digest: str
    version: int


class Mlflow:
    """A `Speaker`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def read(self, body: bytes) -> Asked:
        told = decode_json(body)
        if not isinstance(told, dict):
            raise RequestInvalid("The body is no JSON object.", _REMEDY)
        forms = [key for key in told if key != "params"]
        if len(forms) != 1 or forms[0] not in FORMS:
            found = ", ".join(repr(key[:80]) for key in forms) or "none"
            raise RequestInvalid(f"The body has {found} of the forms.", _REMEDY)
        if told.get("params"):
            raise RequestInvalid("The models here take no `params`.", "Leave `params` out.")
        return Asked(self._contract.rows(_records(forms[0], told[forms[0]])))

    def answer(self, asked: Asked, served: Served, told: Sequence[Prediction]) -> bytes:
        model, version = self._contract.model, served.entry.seq
        return msgspec.json.encode(Scored(told, model, served.digest, version))


def complain(error: TidemillError) -> bytes:
    """An error as MLflow's clients read it."""
    return msgspec.json.encode({"error_code": "BAD_REQUEST", "message": str(error)})


def _records(form: str, told: Any) -> Any:
    """One object a row, whichever form they came in."""
    if form == "dataframe_split":
        return _from_split(told)
    if isinstance(told, dict) and form in ("inputs", "instances"):
        return _from_columns(form, told)
    return told


def _from_split(told: Any) -> list[dict[str, Any]]:
    known = isinstance(told, dict) and told.keys() <= {"columns", "data", "index"}
    columns, data = (told.get("columns"), told.get("data")) if known else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list):
        raise RequestInvalid(
            "`dataframe_split` has no `columns` and `data`.",
            "Send what pandas' `to_dict(orient='split')` gives.",
        )
    names = _names(columns)
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            raise RequestInvalid(
                f"`dataframe_split`: row {number} is no list of {len(names)} values.",
                "Send one value a column.",
            )
    return [dict(zip(names, row, strict=True)) for row in data]


def _names(columns: list[Any]) -> list[str]:
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
        raise RequestInvalid(
            "`dataframe_split`: `columns` are not different names.", "Name each field once."
        )
    return columns


def _from_columns(form: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a list a field; a single value is a list of one, as MLflow takes it."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in told.items()}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) != 1:
        raise RequestInvalid(
            f"`{form}`: the fields have {len(lengths) or 'no'} different lengths.",
            "Send as many values for each field.",
        )
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]

"""A model that answers requests: rows of a contract to predictions, one row without detours."""

import ctypes
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from tidemill.core.bundle import Model, predict_matrix
from tidemill.core.decoding import frame
from tidemill.core.features import Array
from tidemill.core.labels import as_text
from tidemill.core.sections import FieldType
from tidemill.serving.schemas import Contract

if TYPE_CHECKING:
    import lightgbm

Prediction = float | list[float]
_NAN = float("nan")
_NULLS = {"category": pl.String(), "number": pl.Float64(), "boolean": pl.Boolean()}


class Predictor:
    """A loaded model for requests of one contract.

    Fields that the contract has and the model has not are ignored; those that it lost, or has as
    another type, are missing to the model, as they are where it is evaluated. `one` is for a single
    thread; `matrix` and `many` may be called by several.
    """

    def __init__(self, model: Model, contract: Contract) -> None:
        self.model = model
        self._types = {name: field.type for name, field in contract.fields.items()}
        self._lost = {n: kind for n, kind in model.header.fields if self._types.get(n) != kind}
        self._places = self._plan() if model.function is None else None
        self._row = row_function(model.booster)
        if not self._lost:
            self._prove(contract)

    def one(self, row: msgspec.Struct) -> Prediction:
        """The answer to one row, bit for bit that of `Model.predict`. Raises as `matrix`."""
        if self._places is None:
            return self._row(self.matrix([row])[0])
        return self._row(self._values(row, self._places))

    def many(self, given: Array) -> list[Prediction]:
        """The answers to the rows of a matrix."""
        told: list[Prediction] = predict_matrix(self.model.booster, given, 1).tolist()
        return told

    def matrix(self, rows: Sequence[msgspec.Struct]) -> Array:
        """float64[rows, columns]: what the trees see.

        Raises `ValueError` for a category that is no text, and what the feature function raises.
        """
        if self._places is None:
            _settled(rows, self._types)
            made = frame(rows, self._types)
            nulls = [pl.lit(None, _NULLS[kind]).alias(name) for name, kind in self._lost.items()]
            return self.model.matrix(made.with_columns(nulls))
        return np.array([self._values(row, self._places) for row in rows], dtype=np.float64)

    def _plan(self) -> "list[tuple[int, _Codes | None]]":
        """For each column the place in a row that it comes from, and the codes of a category."""
        place = {name: at for at, name in enumerate(self._types) if name not in self._lost}
        known = self.model.vocabulary.values
        return [
            (
                place.get(column.name, -1),
                _Codes(known.get(column.name, ())) if column.kind == "category" else None,
            )
            for column in self.model.header.columns
        ]

    def _values(
        self, row: msgspec.Struct, places: "list[tuple[int, _Codes | None]]"
    ) -> list[float | None]:
        told = (*msgspec.structs.astuple(row), None)  # at -1: a field that defs.yaml lost
        return [told[at] if codes is None else codes[told[at]] for at, codes in places]

    def _prove(self, contract: Contract) -> None:
        """Answer the golden rows on the way that a request takes. Raises `FeatureSkew`."""
        for number, golden in enumerate(self.model.header.golden):
            told = msgspec.json.decode(golden.row)
            rows = contract.rows([{name: told.get(name) for name in contract.fields}])
            self.model.check_prediction(number, self.one(rows[0]))
            self.model.check_prediction(number, self.many(self.matrix(rows))[0])


class _Codes(dict[Any, float]):
    """The codes of a category's texts; what is unknown, or null, is NaN."""

    def __init__(self, texts: Iterable[str]) -> None:
        super().__init__({text: float(code) for code, text in enumerate(texts)})
        self[None] = _NAN

    def __missing__(self, value: str | int | float | bool) -> float:
        return self.get(_text(value), _NAN)


def _text(value: str | int | float | bool) -> str:
    """A category's value as text. Raises `ValueError` for a number that is not whole."""
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(value)
        value = int(value)
    return as_text(value)


def _settled(rows: Sequence[msgspec.Struct], types: Mapping[str, FieldType]) -> None:
    """Let whole numbers in categories be what training takes for them."""
    for place, kind in enumerate(types.values()):
        if kind == "category":
            for row in rows:
                if isinstance(getattr(row, f"f{place}"), float):
                    setattr(row, f"f{place}", _text(getattr(row, f"f{place}")))


def row_function(booster: "lightgbm.Booster") -> Callable[[Any], Prediction]:
    """LightGBM's C path for single rows: as `Booster.predict`, without what surrounds it."""
    from lightgbm.basic import _LIB, _safe_call

    columns, outputs = booster.num_feature(), booster.num_model_per_iteration()
    config = ctypes.c_void_p()
    _safe_call(
        _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
            booster._handle,
            ctypes.c_int(0),  # C_API_PREDICT_NORMAL
            ctypes.c_int(0),
            ctypes.c_int(-1),
            ctypes.c_int(1),  # C_API_DTYPE_FLOAT64
            ctypes.c_int32(columns),
            ctypes.c_char_p(b"num_threads=1"),
            ctypes.byref(config),
        )
    )
    given, told, length = np.empty(columns), np.empty(outputs), ctypes.c_int64()
    call = _LIB.LGBM_BoosterPredictForMatSingleRowFast
    into = told.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    at, count = ctypes.c_void_p(given.ctypes.data), ctypes.byref(length)

    def predict(values: Any) -> Prediction:
        given[:] = values
        _safe_call(call(config, at, count, into))
        answer: Prediction = told.item(0) if outputs == 1 else told.tolist()
        return answer

    # The configuration points into the booster, which must outlive it.
    weakref.finalize(predict, lambda _: _LIB.LGBM_FastConfigFree(config), booster).atexit = False
    return predict

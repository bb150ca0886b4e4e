"""A model that answers requests: rows to predictions, with a fast path for single rows."""

import ctypes
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from tidemill.core.bundle import Model
from tidemill.core.decoding import frame
from tidemill.core.features import Array
from tidemill.core.labels import as_text
from tidemill.core.lightgbm_import import predict_matrix
from tidemill.core.spec_sections import FieldType
from tidemill.serving.schemas import RequestSchema

if TYPE_CHECKING:
    import lightgbm

Prediction = float | list[float]
_NAN = float("nan")
_POLARS_TYPES = {"category": pl.String(), "number": pl.Float64(), "boolean": pl.Boolean()}


class Predictor:
    """A loaded model for requests of one schema.

    Fields that are in the schema but not in the model are ignored. Fields that the schema no longer
    has, or has with a different type, are missing to the model, as in its evaluation. `predict_row`
    must be called by a single thread; `matrix` and `predict_matrix` may be called by several.
    """

    def __init__(self, model: Model, schema: RequestSchema) -> None:
        self.model = model
        self._types = {name: field.type for name, field in schema.fields.items()}
        self._missing_fields = {
            n: kind for n, kind in model.header.fields if self._types.get(n) != kind
        }
        self._column_sources = self._find_column_sources() if model.function is None else None
        self._predict_values = single_row_predictor(model.booster)
        if not self._missing_fields:
            self._check_golden_rows(schema)

    def predict_row(self, row: msgspec.Struct) -> Prediction:
        """The prediction for one row, bit for bit that of `Model.predict`. Raises as `matrix`."""
        if self._column_sources is None:
            return self._predict_values(self.matrix([row])[0])
        return self._predict_values(self._values(row, self._column_sources))

    def predict_matrix(self, matrix: Array) -> list[Prediction]:
        """The predictions for the rows of a matrix."""
        predictions: list[Prediction] = predict_matrix(self.model.booster, matrix, 1).tolist()
        return predictions

    def matrix(self, rows: Sequence[msgspec.Struct]) -> Array:
        """float64[rows, columns]: the input of the trees.

        Raises `ValueError` for a category that is not text, and what the feature function raises.
        """
        if self._column_sources is None:
            _normalize_categories(rows, self._types)
            raw_frame = frame(rows, self._types)
            nulls = [
                pl.lit(None, _POLARS_TYPES[kind]).alias(name)
                for name, kind in self._missing_fields.items()
            ]
            return self.model.matrix(raw_frame.with_columns(nulls))
        return np.array([self._values(row, self._column_sources) for row in rows], dtype=np.float64)

    def _find_column_sources(self) -> "list[tuple[int, _CategoryCodes | None]]":
        """For each column its index in a row, -1 if it is missing, and the codes of a category."""
        positions = {
            name: index
            for index, name in enumerate(self._types)
            if name not in self._missing_fields
        }
        vocabulary = self.model.vocabulary.values
        return [
            (
                positions.get(column.name, -1),
                _CategoryCodes(vocabulary.get(column.name, ()))
                if column.kind == "category"
                else None,
            )
            for column in self.model.header.columns
        ]

    def _values(
        self, row: msgspec.Struct, sources: "list[tuple[int, _CategoryCodes | None]]"
    ) -> list[float | None]:
        row_values = (*msgspec.structs.astuple(row), None)  # the last is for missing fields
        return [
            row_values[index] if codes is None else codes[row_values[index]]
            for index, codes in sources
        ]

    def _check_golden_rows(self, schema: RequestSchema) -> None:
        """Predict the golden rows on the path that a request takes. Raises `FeatureSkew`."""
        for number, golden in enumerate(self.model.header.golden):
            values = msgspec.json.decode(golden.row)
            rows = schema.convert_rows([{name: values.get(name) for name in schema.fields}])
            self.model.check_prediction(number, self.predict_row(rows[0]))
            self.model.check_prediction(number, self.predict_matrix(self.matrix(rows))[0])


class _CategoryCodes(dict[Any, float]):
    """The codes of a category's texts; NaN for null and unknown texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        super().__init__({text: float(code) for code, text in enumerate(texts)})
        self[None] = _NAN

    def __missing__(self, value: str | int | float | bool) -> float:
        return self.get(_category_text(value), _NAN)


def _category_text(value: str | int | float | bool) -> str:
    """A category's value as text. Raises `ValueError` for a number that is not whole."""
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(value)
        value = int(value)
    return as_text(value)


def _normalize_categories(rows: Sequence[msgspec.Struct], types: Mapping[str, FieldType]) -> None:
    """Replace whole numbers in categories by the text that training uses for them."""
    for index, kind in enumerate(types.values()):
        if kind == "category":
            for row in rows:
                if isinstance(getattr(row, f"f{index}"), float):
                    setattr(row, f"f{index}", _category_text(getattr(row, f"f{index}")))


def single_row_predictor(booster: "lightgbm.Booster") -> Callable[[Any], Prediction]:
    """LightGBM's C function for single rows: `Booster.predict` without its overhead."""
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
    input_buffer, output_buffer, length = np.empty(columns), np.empty(outputs), ctypes.c_int64()
    predict_fast = _LIB.LGBM_BoosterPredictForMatSingleRowFast
    output_pointer = output_buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    input_pointer, length_pointer = ctypes.c_void_p(input_buffer.ctypes.data), ctypes.byref(length)

    def predict(values: Any) -> Prediction:
        input_buffer[:] = values
        _safe_call(predict_fast(config, input_pointer, length_pointer, output_pointer))
        prediction: Prediction = output_buffer.item(0) if outputs == 1 else output_buffer.tolist()
        return prediction

    # The configuration points into the booster, which must outlive it.
    weakref.finalize(predict, lambda _: _LIB.LGBM_FastConfigFree(config), booster).atexit = False
    return predict

"""A model as one file: what it needs to answer raw rows, the answers it must give, its trees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
import polars as pl

from tidemill.core import canonical, lightgbm_import
from tidemill.core.decoding import RowDecoder
from tidemill.core.errors import BundleInvalid, DigestMismatch, FeatureSkew
from tidemill.core.features import (
    Array,
    Column,
    FeatureFunction,
    Vocabulary,
    compute_features,
    matrix,
)
from tidemill.core.spec import ModelSpec, Objective
from tidemill.core.spec_sections import FieldType
from tidemill.core.tree_validation import check_trees

if TYPE_CHECKING:
    import lightgbm

FORMAT_VERSION = 1
MAX_GOLDEN_ROWS = 16
"""Rows, at most, whose answers a bundle carries; a quarter of them come from rows with nulls."""
RELATIVE_TOLERANCE = 1e-9
"""Relative difference from which an answer counts as another one."""

_REMEDY = "Restore the bundle from a backup, or make it again by `tidemill verify --recompute`."


@dataclass(frozen=True)
class GoldenRow:
    """A raw JSON row of the declared fields, and the model's answer to it."""

    row: msgspec.Raw
    prediction: float | list[float]


@dataclass(frozen=True)
class Header:
    """What a bundle says before its trees. `features` is the reference of the feature function and
    the sha256 of its source; `window` is the newest the model learned from."""

    format: int
    window: str | None
    objective: Objective
    classes: tuple[str, ...]
    label: str
    fields: tuple[tuple[str, FieldType], ...]
    features: tuple[str, str] | None
    columns: tuple[Column, ...]
    vocabulary: dict[str, tuple[str, ...]]
    num_iterations: int
    golden: tuple[GoldenRow, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded bundle. Predicting does not change it; several threads may."""

    digest: str
    header: Header
    text: str
    booster: "lightgbm.Booster"
    function: FeatureFunction | None

    @classmethod
    def load(cls, bundle: bytes, digest: str, function: FeatureFunction | None) -> "Model":
        """The model of these bytes, which no parser sees before their sha256 is `digest`.

        `function` is the feature function as it is loaded now. Raises `DigestMismatch`,
        `FeatureSkew` where the function is another one, `BundleUnfit`.
        """
        if canonical.digest(bundle) != digest:
            raise DigestMismatch(f"A bundle is not the one of sha256 {digest}.", _REMEDY)
        header_line, _, tree_bytes = bundle.partition(b"\n")
        try:
            header = msgspec.json.decode(header_line, type=Header)
            tree_text = tree_bytes.decode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleInvalid(f"The bundle {digest} cannot be read: {error}.", _REMEDY) from error
        _check_function(digest, header, function)
        booster = load_booster(tree_text)
        outputs = len(header.classes) or 1
        shape = booster.num_feature(), booster.num_model_per_iteration()
        if header.format != FORMAT_VERSION or shape != (len(header.columns), outputs):
            raise BundleInvalid(f"The parts of bundle {digest} do not fit together.", _REMEDY)
        return cls(digest, header, tree_text, booster, function)

    @property
    def num_iterations(self) -> int:
        """Boosting rounds."""
        return self.header.num_iterations

    @property
    def tree_digest(self) -> str:
        """sha256 of the trees, which is the same for other threads and golden rows."""
        return canonical.digest(self.text.encode())

    @property
    def window(self) -> str | None:
        """The newest window that the model learned from; None: the initial model."""
        return self.header.window

    @property
    def vocabulary(self) -> Vocabulary:
        """The known values of the category features."""
        return Vocabulary(self.header.vocabulary)

    def predict(self, rows: pl.DataFrame, num_threads: int = 1) -> Array:
        """float64[rows], or [rows, classes] for `multiclass`, on the scale LightGBM predicts on.

        `rows` has the declared fields; other columns are ignored. Raises `SpecInvalid` and
        `FeatureSkew` from the feature function.
        """
        return predict_matrix(self.booster, self.matrix(rows), num_threads)

    def matrix(self, rows: pl.DataFrame) -> Array:
        """float64[rows, columns]: what the trees see of these rows. Raises as `predict`."""
        features = compute_features(rows, [name for name, _ in self.header.fields], self.function)
        return matrix(features, self.header.columns, self.vocabulary)

    def decoder(self) -> RowDecoder:
        """Decodes the raw JSON rows that this model answers."""
        return RowDecoder(dict(self.header.fields))

    def validate(self) -> None:
        """Look at all trees, then answer the golden rows, one by one, as every request is.

        Raises `BundleUnfit` where a walk through a tree might not end, `FeatureSkew` where an
        answer is not the one of training.
        """
        check_trees(self.booster)
        rows = self.decoder().rows([golden.row for golden in self.header.golden])
        # Only a feature function could answer a row otherwise because of its neighbours.
        batch_matrix = self.matrix(rows) if self.function is None else None
        for index in range(rows.height):
            row_slice = slice(index, index + 1)
            row_matrix = (
                self.matrix(rows[row_slice]) if batch_matrix is None else batch_matrix[row_slice]
            )
            self.check_prediction(index, predict_matrix(self.booster, row_matrix, 1)[0].tolist())

    def check_prediction(self, index: int, prediction: float | list[float]) -> None:
        """Raise `FeatureSkew` unless this is the answer to the golden row of that number."""
        expected = self.header.golden[index].prediction
        if not _is_close(prediction, expected):
            raise FeatureSkew(
                f"Bundle {self.digest} answers its golden row {index} with {prediction}; in "
                f"training it was {expected}.",
                "Compare the versions of the libraries and what the feature function reads "
                "besides its rows with those of training.",
            )


def encode(
    spec: ModelSpec,
    text: str,
    columns: Sequence[Column],
    vocabulary: Vocabulary,
    function: FeatureFunction | None,
    rows: pl.DataFrame,
    window: str | None,
) -> bytes:
    """A bundle: one line of JSON, then LightGBM's text.

    `rows` is a batch in canonical order. The golden answers are those to the whole batch at once,
    so that a row that is answered differently alone is found. Raises `BundleUnfit` where an
    answer is not finite.
    """
    booster = load_booster(text)
    fields = rows[list(spec.fields)]
    golden_indices = golden_row_indices(fields)
    features = compute_features(rows, list(spec.fields), function)
    predictions = predict_matrix(booster, matrix(features, columns, vocabulary), 1)[golden_indices]
    if not np.isfinite(predictions).all():
        raise BundleInvalid(
            "The model that was just trained gives answers that are not finite.",
            "Look for extreme labels in the window's batch.",
        )
    golden = zip(fields[golden_indices].to_dicts(), predictions.tolist(), strict=True)
    header = Header(
        format=FORMAT_VERSION,
        window=window,
        objective=spec.objective,
        classes=tuple(spec.classes),
        label=spec.label,
        fields=tuple((name, field.type) for name, field in spec.fields.items()),
        features=(function.reference, function.source_digest) if function else None,
        columns=tuple(columns),
        vocabulary=dict(vocabulary.values),
        num_iterations=booster.current_iteration(),
        golden=tuple(
            GoldenRow(msgspec.Raw(msgspec.json.encode(row)), prediction)
            for row, prediction in golden
        ),
    )
    return msgspec.json.encode(header, order="sorted") + b"\n" + text.encode()


def feature_function_reference(bundle: bytes) -> str | None:
    """The reference of the feature function that a verified bundle needs. Raises `BundleUnfit`."""
    try:
        header = msgspec.json.decode(bundle.partition(b"\n")[0], type=Header)
    except msgspec.DecodeError as error:
        raise BundleInvalid(f"A bundle's header cannot be read: {error}.", _REMEDY) from error
    return header.features[0] if header.features else None


def golden_row_indices(fields: pl.DataFrame) -> list[int]:
    """Which rows a bundle carries: spread evenly over all, and over those with a null."""
    all_rows = range(fields.height)
    has_null = np.zeros(fields.height, dtype=bool)
    for column in fields.iter_columns():
        has_null |= column.is_null().to_numpy()
    null_rows = set(_evenly_spaced(np.flatnonzero(has_null).tolist(), MAX_GOLDEN_ROWS // 4))
    return sorted(null_rows | set(_evenly_spaced(all_rows, MAX_GOLDEN_ROWS - len(null_rows))))


def load_booster(text: str) -> "lightgbm.Booster":
    """The booster of LightGBM's text. Raises `BundleUnfit` where LightGBM says that it is damaged;
    for damage it does not see, it may crash the process."""
    library = lightgbm_import.import_lightgbm()
    try:
        return cast("lightgbm.Booster", library.Booster(model_str=text))
    except (library.basic.LightGBMError, ValueError) as error:
        raise BundleInvalid(f"LightGBM cannot read the trees: {error}.", _REMEDY) from error


def predict_matrix(booster: "lightgbm.Booster", data: Array, num_threads: int) -> Array:
    """What the booster predicts for a matrix, without rows too."""
    outputs = booster.num_model_per_iteration()
    if len(data) == 0:
        return np.empty((0, outputs) if outputs > 1 else 0)
    return cast(Array, booster.predict(data, num_threads=num_threads))


def _evenly_spaced(positions: Sequence[int], count: int) -> list[int]:
    """At most `count` of the positions, the first and the last among them."""
    if len(positions) <= count:
        return list(positions)
    last = len(positions) - 1
    return [positions[i * last // (count - 1)] for i in range(count)]


def _is_close(actual: float | list[float], expected: float | list[float]) -> bool:
    one, other = (x if isinstance(x, list) else [x] for x in (actual, expected))
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE) for a, b in zip(one, other, strict=True)
    )


def _check_function(digest: str, header: Header, function: FeatureFunction | None) -> None:
    current = (function.reference, function.source_digest) if function else None
    if header.features == current:
        return
    expected, actual = (
        f"{pair[0]} ({pair[1][:12]})" if pair else "none" for pair in (header.features, current)
    )
    raise FeatureSkew(
        f"Bundle {digest} was trained with the feature function {expected}; now there is {actual}.",
        "Bring back the source that it was trained with, or deploy a model of the present one.",
    )

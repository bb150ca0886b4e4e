"""A model as one file: a header with golden rows, then the trees in LightGBM's text format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl

from tidemill.core import canonical
from tidemill.core.decoding import RowDecoder
from tidemill.core.errors import (
    BUNDLE_REMEDY,
    BundleInvalid,
    DigestMismatch,
    FeatureSkew,
)
from tidemill.core.features import (
    Array,
    Column,
    FeatureFunction,
    Vocabulary,
    compute_features,
    matrix,
)
from tidemill.core.golden_rows import GoldenRow, golden_row_indices, golden_rows
from tidemill.core.lightgbm_import import load_booster, predict_matrix
from tidemill.core.spec import ModelSpec, Objective
from tidemill.core.spec_sections import FieldType
from tidemill.core.tree_validation import check_trees

if TYPE_CHECKING:
    import lightgbm


@dataclass(frozen=True)
class Header:
    """The first line of a bundle.

    `features` is the reference of the feature function and the sha256 of its source; `window` is
    the newest window that the model has learned from, None for the initial model.
    """

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
    """A loaded bundle. Predicting does not change it, so several threads may predict at once."""

    digest: str
    header: Header
    text: str
    booster: "lightgbm.Booster"
    function: FeatureFunction | None

    @classmethod
    def load(cls, bundle: bytes, digest: str, function: FeatureFunction | None) -> "Model":
        """The model in these bytes. Their sha256 is compared with `digest` before they are parsed.

        `function` is the feature function as it is loaded now. Raises `DigestMismatch`,
        `BundleInvalid`, `FormatUnsupported`, `FeatureSkew` if the function is not that of training.
        """
        if canonical.digest(bundle) != digest:
            raise DigestMismatch(
                f"The bytes of bundle {digest} have a different sha256.", BUNDLE_REMEDY
            )
        header_line, _, tree_bytes = bundle.partition(b"\n")
        try:
            header = msgspec.json.decode(header_line, type=Header)
            tree_text = tree_bytes.decode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleInvalid(f"Cannot read bundle {digest}: {error}.", BUNDLE_REMEDY) from error
        _check_function(digest, header, function)
        if header.format != canonical.FORMAT:
            raise canonical.format_error(
                f"The bundle {digest}", header.format, "Use the version of tidemill that wrote it."
            )
        booster = load_booster(tree_text)
        outputs = len(header.classes) or 1
        shape = booster.num_feature(), booster.num_model_per_iteration()
        if shape != (len(header.columns), outputs):
            raise BundleInvalid(f"The parts of bundle {digest} do not match.", BUNDLE_REMEDY)
        return cls(digest, header, tree_text, booster, function)

    @property
    def num_iterations(self) -> int:
        """Boosting rounds."""
        return self.header.num_iterations

    @property
    def tree_digest(self) -> str:
        """sha256 of the trees: independent of the number of threads and of the golden rows."""
        return canonical.digest(self.text.encode())

    @property
    def window(self) -> str | None:
        """The newest window that the model has learned from; None for the initial model."""
        return self.header.window

    @property
    def vocabulary(self) -> Vocabulary:
        """The known values of the category features."""
        return Vocabulary(self.header.vocabulary)

    def predict(self, rows: pl.DataFrame, num_threads: int = 1) -> Array:
        """float64[rows], or [rows, classes] for `multiclass`, on LightGBM's scale of predictions.

        `rows` has the declared fields; other columns are ignored. Raises `SpecInvalid` and
        `FeatureSkew` from the feature function.
        """
        return predict_matrix(self.booster, self.matrix(rows), num_threads)

    def matrix(self, rows: pl.DataFrame) -> Array:
        """float64[rows, columns]: the input of the trees for these rows. Raises as `predict`."""
        features = compute_features(rows, [name for name, _ in self.header.fields], self.function)
        return matrix(features, self.header.columns, self.vocabulary)

    def decoder(self) -> RowDecoder:
        """A decoder for raw JSON rows of this model's fields."""
        return RowDecoder(dict(self.header.fields))

    def validate(self) -> None:
        """Check all trees, then predict the golden rows one by one, as requests are.

        Raises `BundleInvalid` if a walk through a tree might not end, `FeatureSkew` if a
        prediction differs from the one of training.
        """
        check_trees(self.booster)
        rows = self.decoder().rows([golden.row for golden in self.header.golden])
        # Only a feature function can make a prediction depend on the other rows of a batch.
        batch_matrix = self.matrix(rows) if self.function is None else None
        for index in range(rows.height):
            row_slice = slice(index, index + 1)
            row_matrix = (
                self.matrix(rows[row_slice]) if batch_matrix is None else batch_matrix[row_slice]
            )
            self.check_prediction(index, predict_matrix(self.booster, row_matrix, 1)[0].tolist())

    def check_prediction(self, index: int, prediction: float | list[float]) -> None:
        """Raise `FeatureSkew` unless this is the prediction of the golden row with this index."""
        golden = self.header.golden[index]
        if not golden.is_reproduced_by(prediction):
            raise FeatureSkew(
                f"Bundle {self.digest} predicts {prediction} for its golden row {index}; in "
                f"training it was {golden.prediction}.",
                "Compare the versions of the libraries, and what the feature function reads "
                "besides its rows, with those of training.",
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

    `rows` is a batch in canonical order. The golden predictions are those of the whole batch, so
    that validation finds a row whose prediction differs on its own. Raises `BundleInvalid` if a
    prediction is not finite.
    """
    booster = load_booster(text)
    fields = rows[list(spec.fields)]
    golden_indices = golden_row_indices(fields)
    features = compute_features(rows, list(spec.fields), function)
    predictions = predict_matrix(booster, matrix(features, columns, vocabulary), 1)[golden_indices]
    if not np.isfinite(predictions).all():
        raise BundleInvalid(
            "The model that was just trained makes predictions that are not finite.",
            "Look for extreme labels in the window's batch.",
        )
    header = Header(
        format=canonical.FORMAT,
        window=window,
        objective=spec.objective,
        classes=tuple(spec.classes),
        label=spec.label,
        fields=tuple((name, field.type) for name, field in spec.fields.items()),
        features=(function.reference, function.source_digest) if function else None,
        columns=tuple(columns),
        vocabulary=dict(vocabulary.values),
        num_iterations=booster.current_iteration(),
        golden=golden_rows(fields[golden_indices], predictions),
    )
    return msgspec.json.encode(header, order="sorted") + b"\n" + text.encode()


def feature_function_reference(bundle: bytes) -> str | None:
    """The feature function reference of a verified bundle; None without. Raises `BundleInvalid`."""
    try:
        header = msgspec.json.decode(bundle.partition(b"\n")[0], type=Header)
    except msgspec.DecodeError as error:
        raise BundleInvalid(f"Cannot read a bundle's header: {error}.", BUNDLE_REMEDY) from error
    return header.features[0] if header.features else None


def _check_function(digest: str, header: Header, function: FeatureFunction | None) -> None:
    current = (function.reference, function.source_digest) if function else None
    if header.features == current:
        return
    expected, actual = (
        f"{pair[0]} ({pair[1][:12]})" if pair else "none" for pair in (header.features, current)
    )
    raise FeatureSkew(
        f"Bundle {digest} was trained with the feature function {expected}; now it is {actual}.",
        "Restore the source that it was trained with, or deploy a model of the present one.",
    )

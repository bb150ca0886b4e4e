"""A model as one file: what it needs to answer raw rows, the answers it must give, its trees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
import polars as pl

from tidemill.core import boosting, canonical
from tidemill.core.decoding import RowDecoder
from tidemill.core.errors import BundleUnfit, DigestMismatch, FeatureSkew
from tidemill.core.features import Array, Column, FeatureFunction, Vocabulary, features, matrix
from tidemill.core.sections import FieldType
from tidemill.core.spec import ModelSpec, Objective
from tidemill.core.trees import check_trees

if TYPE_CHECKING:
    import lightgbm

FORMAT = 1
GOLDEN_ROWS = 16
"""Rows, at most, whose answers a bundle carries; a quarter of them come from rows with nulls."""
TOLERANCE = 1e-9
"""Relative difference from which an answer counts as another one."""

_REMEDY = "Restore the bundle from a backup, or make it again by `tidemill verify --recompute`."


@dataclass(frozen=True)
class Golden:
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
    trees: int
    golden: tuple[Golden, ...]


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
        first, _, text = bundle.partition(b"\n")
        try:
            header = msgspec.json.decode(first, type=Header)
            trees = text.decode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleUnfit(f"The bundle {digest} cannot be read: {error}.", _REMEDY) from error
        _check_function(digest, header, function)
        booster = booster_of(trees)
        outputs = len(header.classes) or 1
        shape = booster.num_feature(), booster.num_model_per_iteration()
        if header.format != FORMAT or shape != (len(header.columns), outputs):
            raise BundleUnfit(f"The parts of bundle {digest} do not fit together.", _REMEDY)
        return cls(digest, header, trees, booster, function)

    @property
    def trees(self) -> int:
        """Boosting rounds."""
        return self.header.trees

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
        return scores(self.booster, self.matrix(rows), num_threads)

    def matrix(self, rows: pl.DataFrame) -> Array:
        """float64[rows, columns]: what the trees see of these rows. Raises as `predict`."""
        made = features(rows, [name for name, _ in self.header.fields], self.function)
        return matrix(made, self.header.columns, self.vocabulary)

    def decoder(self) -> RowDecoder:
        """Decodes the raw JSON rows that this model answers."""
        return RowDecoder(dict(self.header.fields))

    def prove(self) -> None:
        """Look at all trees, then answer the golden rows, one by one, as every request is.

        Raises `BundleUnfit` where a walk through a tree might not end, `FeatureSkew` where an
        answer is not the one of training.
        """
        check_trees(self.booster)
        rows = self.decoder().rows([golden.row for golden in self.header.golden])
        # Only a feature function could answer a row otherwise because of its neighbours.
        given = self.matrix(rows) if self.function is None else None
        for number in range(rows.height):
            at = slice(number, number + 1)
            alone = self.matrix(rows[at]) if given is None else given[at]
            self.compare(number, scores(self.booster, alone, 1)[0].tolist())

    def compare(self, number: int, answer: float | list[float]) -> None:
        """Raise `FeatureSkew` unless this is the answer to the golden row of that number."""
        wanted = self.header.golden[number].prediction
        if not _close(answer, wanted):
            raise FeatureSkew(
                f"Bundle {self.digest} answers its golden row {number} with {answer}; in "
                f"training it was {wanted}.",
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
    booster = booster_of(text)
    fields = rows[list(spec.fields)]
    at = golden_rows(fields)
    made = features(rows, list(spec.fields), function)
    answers = scores(booster, matrix(made, columns, vocabulary), 1)[at]
    if not np.isfinite(answers).all():
        raise BundleUnfit(
            "The model that was just trained gives answers that are not finite.",
            "Look for extreme labels in the window's batch.",
        )
    golden = zip(fields[at].to_dicts(), answers.tolist(), strict=True)
    header = Header(
        format=FORMAT,
        window=window,
        objective=spec.objective,
        classes=tuple(spec.classes),
        label=spec.label,
        fields=tuple((name, field.type) for name, field in spec.fields.items()),
        features=(function.reference, function.source) if function else None,
        columns=tuple(columns),
        vocabulary=dict(vocabulary.values),
        trees=booster.current_iteration(),
        golden=tuple(Golden(msgspec.Raw(msgspec.json.encode(row)), told) for row, told in golden),
    )
    return msgspec.json.encode(header, order="sorted") + b"\n" + text.encode()


def function_of(bundle: bytes) -> str | None:
    """The reference of the feature function that a verified bundle needs. Raises `BundleUnfit`."""
    try:
        header = msgspec.json.decode(bundle.partition(b"\n")[0], type=Header)
    except msgspec.DecodeError as error:
        raise BundleUnfit(f"A bundle's header cannot be read: {error}.", _REMEDY) from error
    return header.features[0] if header.features else None


def golden_rows(fields: pl.DataFrame) -> list[int]:
    """Which rows a bundle carries: spread evenly over all, and over those with a null."""
    everywhere = range(fields.height)
    null = np.zeros(fields.height, dtype=bool)
    for column in fields.iter_columns():
        null |= column.is_null().to_numpy()
    some = set(_spread(np.flatnonzero(null).tolist(), GOLDEN_ROWS // 4))
    return sorted(some | set(_spread(everywhere, GOLDEN_ROWS - len(some))))


def booster_of(text: str) -> "lightgbm.Booster":
    """The booster of LightGBM's text. Raises `BundleUnfit` where LightGBM says that it is damaged;
    for damage it does not see, it may crash the process."""
    library = boosting.lightgbm()
    try:
        return cast("lightgbm.Booster", library.Booster(model_str=text))
    except (library.basic.LightGBMError, ValueError) as error:
        raise BundleUnfit(f"LightGBM cannot read the trees: {error}.", _REMEDY) from error


def scores(booster: "lightgbm.Booster", given: Array, num_threads: int) -> Array:
    """What the booster predicts for a matrix, without rows too."""
    outputs = booster.num_model_per_iteration()
    if len(given) == 0:
        return np.empty((0, outputs) if outputs > 1 else 0)
    return cast(Array, booster.predict(given, num_threads=num_threads))


def _spread(positions: Sequence[int], count: int) -> list[int]:
    """At most `count` of the positions, the first and the last among them."""
    if len(positions) <= count:
        return list(positions)
    last = len(positions) - 1
    return [positions[i * last // (count - 1)] for i in range(count)]


def _close(answer: float | list[float], wanted: float | list[float]) -> bool:
    one, other = (x if isinstance(x, list) else [x] for x in (answer, wanted))
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(one, other, strict=True)
    )


def _check_function(digest: str, header: Header, function: FeatureFunction | None) -> None:
    found = (function.reference, function.source) if function else None
    if header.features == found:
        return
    was, now = (
        f"{pair[0]} ({pair[1][:12]})" if pair else "none" for pair in (header.features, found)
    )
    raise FeatureSkew(
        f"Bundle {digest} was trained with the feature function {was}; now there is {now}.",
        "Bring back the source that it was trained with, or deploy a model of the present one.",
    )

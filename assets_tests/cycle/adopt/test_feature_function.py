"""Adoption of another feature function: each model is scored through its own."""

from pathlib import Path

import pytest

from cycle.adopt.adoption import COMPLETED_WINDOWS, adopt_at, candidate_at, valid_entries, window_at
from cycle.memory_model import make_memory_model, produce, stored_files, with_changes
from support.models.harness import run_window, run_windows
from support.models.oracle import assert_verified
from tidemill.core.errors import (
    FeatureSkew,
    LineageChanged,
)
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.extract import extract

_FUNCTION = """import polars as pl

def features(rows):
    return rows.with_columns(many=pl.col("price") * {factor})
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of importable modules: `shop_one` and `shop_two`."""
    for name, factor in (("one", 2), ("two", 3)):
        (tmp_path / f"shop_{name}.py").write_text(_FUNCTION.format(factor=factor))
        monkeypatch.delitem(__import__("sys").modules, f"shop_{name}", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def shop_ctx(modules: Path) -> ModelContext:
    """A model with a feature function and four completed windows."""
    model = with_changes(make_memory_model(), features="shop_one:features")
    produce(model, -2, COMPLETED_WINDOWS + 4)
    run_windows(model, 0, COMPLETED_WINDOWS - 1)
    return model


def test_each_model_is_scored_through_its_own_function(shop_ctx: ModelContext) -> None:
    ctx = with_changes(shop_ctx, features="shop_two:features")
    done = adopt_at(ctx)
    assert done.changed_keys == ("features", "features_source")
    for number in (COMPLETED_WINDOWS, COMPLETED_WINDOWS + 1):
        run_window(ctx, number)
    champion, new = valid_entries(ctx)[0].digest, candidate_at(ctx, COMPLETED_WINDOWS).digest
    functions = [ctx.load(digest).header.features for digest in (champion, new)]
    assert [reference for reference, _ in filter(None, functions)] == [
        "shop_one:features",
        "shop_two:features",
    ]
    assert_verified(ctx)
    plain = with_changes(ctx)
    adopt_at(plain, COMPLETED_WINDOWS + 2)
    run_window(plain, COMPLETED_WINDOWS + 2)
    assert plain.load(candidate_at(plain, COMPLETED_WINDOWS + 2).digest).header.features is None
    assert_verified(plain)


def test_a_feature_function_edited_in_place_is_refused_while_its_models_are_scored(
    shop_ctx: ModelContext, modules: Path
) -> None:
    file = modules / "shop_one.py"
    source = file.read_text()
    file.write_text(_FUNCTION.format(factor=5))
    edited = with_changes(shop_ctx, features="shop_one:features")
    before, entries = stored_files(edited), valid_entries(edited)
    with pytest.raises(LineageChanged, match="`features_source` differ"):
        extract(edited, window_at(edited, COMPLETED_WINDOWS))
    with pytest.raises(FeatureSkew, match=r"shop_one.*a module of another name"):
        adopt_at(edited)
    assert (stored_files(edited), valid_entries(edited)) == (before, entries)
    file.write_text(source)
    moved = with_changes(shop_ctx, features="shop_two:features")
    adopt_at(moved)
    run_window(moved, COMPLETED_WINDOWS)
    file.unlink()
    gone = with_changes(moved, features="shop_two:features")
    with pytest.raises(FeatureSkew, match="shop_one"):
        run_window(gone, COMPLETED_WINDOWS + 1)

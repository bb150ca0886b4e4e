"""Fault 35: hostile window keys and model names raise a named error, and nothing is written."""

import os
import sys
from pathlib import Path

import dagster as dg
import pytest

from support.models.harness import ModelHarness
from tidemill.cli import main
from tidemill.core.errors import TidemillError, UnknownWindow
from tidemill.defs.assets import build_assets
from tidemill.defs.resources import TidemillResource

# Dagster calls functions that pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

KEYS = [
    "../../etc/passwd",
    "/etc/passwd",
    "2026-01-01T0000Z/../../x",
    "2026-01-01T0000Z\n",
    "2026-01-01T0000Z'; DROP TABLE runs; --",
    "2026-01-01T0001Z",
    "2025-12-31T2355Z",
    "２026-01-01T0000Z",
    "",
    "x" * 300,
]
MODELS = ["../models/evil", "/etc", "Ünïcode", "a;b", "[red]x[/red]", "", "m" * 300]
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture
def process_harness(harness: ModelHarness, monkeypatch: pytest.MonkeyPatch) -> ModelHarness:
    """The harness, with its settings in the environment of this process."""
    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(harness.home / "dagster"))
    return harness


def exit_code_of(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """The exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["tidemill", *args])
    with pytest.raises(SystemExit) as raised:
        main()
    assert isinstance(raised.value.code, int)
    return raised.value.code


def written_files(harness: ModelHarness) -> set[str]:
    """All files below the harness's home except Dagster's databases, definitions and locks."""
    paths = (path.relative_to(harness.home) for path in harness.home.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.parts[0] not in ("dagster", "models", "locks")}


@pytest.mark.parametrize("key", KEYS)
def test_a_hostile_key_is_refused_by_every_command(process_harness, monkeypatch, capsys, key):
    model, good = process_harness.model, process_harness.window(0).key
    for args in (
        ("backfill", model, "--from", good, f"--to={key}"),
        ("backfill", model, f"--from={key}", "--to", good),
        ("skip", model, "--reason", "it is bad", "--", key),
        ("close", model, f"--through={key}"),
    ):
        assert exit_code_of(monkeypatch, *args) == 1
        stderr = capsys.readouterr().err
        assert stderr.startswith("UnknownWindow: ")
        assert len(stderr) < 500
    assert written_files(process_harness) == set()


@pytest.mark.parametrize("model", MODELS)
def test_a_hostile_model_name_is_refused_by_every_command(
    process_harness, monkeypatch, capsys, model
):
    good = process_harness.window(0).key
    before = sorted(os.listdir(process_harness.home))
    for args in (
        ("backfill", f"--from={good}", f"--to={good}", "--", model),
        ("skip", "--reason", "it is bad", "--", model, good),
        ("rollback", "--reason", "it is bad", "--", model),
        ("verify", "--", model),
        ("history", "--", model),
    ):
        assert exit_code_of(monkeypatch, *args) == 1
        stderr = capsys.readouterr().err
        assert stderr.startswith("UnknownModel: ")
        assert len(stderr) < 500
    assert sorted(os.listdir(process_harness.home)) == before


@pytest.mark.parametrize("key", KEYS)
def test_a_run_for_a_hostile_key_never_succeeds(process_harness, key):
    """Dagster accepts some of them: the tags of a run are not validated."""
    spec = process_harness.load_spec()
    job = dg.Definitions(
        assets=build_assets(spec),
        resources={"tidemill": TidemillResource(process_harness.settings)},
    ).resolve_implicit_global_asset_job_def()
    batch = [dg.AssetKey([process_harness.model, "kafka_batch"])]
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises((dg.Failure, dg.DagsterError, ValueError)) as raised:
            job.execute_in_process(
                instance=instance, asset_selection=batch, tags={START: key, END: key}
            )
        if isinstance(raised.value, dg.Failure):
            assert isinstance(raised.value.__cause__, UnknownWindow)
        assert not instance.fetch_materializations(batch[0], limit=1).records
    assert written_files(process_harness) == set()


def test_a_window_of_the_future_is_refused(process_harness):
    spec, key = process_harness.load_spec(), "2999-01-01T0000Z"
    assets = build_assets(spec)
    with pytest.raises((dg.DagsterError, dg.Failure, TidemillError)):
        dg.materialize(
            assets,
            partition_key=key,
            selection=[dg.AssetKey([process_harness.model, "kafka_batch"])],
            resources={"tidemill": TidemillResource(process_harness.settings)},
        )
    assert written_files(process_harness) == set()


def test_a_store_name_never_leaves_the_store(process_harness):
    with process_harness.open_model() as ctx:
        for name in ("../../x", "a/../../x", "/x", "a//x", ".", "a/.tmp/x"):
            with pytest.raises(TidemillError):
                ctx.repository.store.put(f"{process_harness.model}/{name}", b"x")
    assert not Path(process_harness.home / "x").exists()

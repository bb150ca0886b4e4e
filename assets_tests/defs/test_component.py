"""One folder with a `defs.yaml` is one model; errors in it are reported with their line."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from tidemill.bootstrap import load_spec, model_files
from tidemill.core import spec_parser
from tidemill.core.errors import SpecInvalid
from tidemill.defs import IncrementalModel
from tidemill.defs.assets import build_assets
from tidemill.defs.loading import PACKAGED_MODELS, load_models
from tidemill.defs.resources import TidemillResource
from tidemill.model_files import COMPONENT_TYPE, read_spec
from tidemill.settings import Settings

ROOT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("asset_specs.json")
GOOD = """\
type: tidemill.defs.IncrementalModel
attributes:
  topic: tides
  fields:
    height: number
    wind: number?
  label: flood
  windows:
    start: 2024-01-01
"""
# Dagster calls functions that pydantic has deprecated, and its own that are in beta.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Parameter `execution_type` of function `AssetsDefinition"),
]


def write(folder: Path, model: str, text: str = GOOD) -> Path:
    file = folder / model / "defs.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def run(*command: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    bin_ = Path(sys.executable).parent
    return subprocess.run(
        [str(bin_ / command[0]), *command[1:]],
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "300", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def keys_of(definitions: dg.Definitions) -> set[str]:
    merged = dg.Definitions.merge(
        definitions, dg.Definitions(resources={"tidemill": TidemillResource(Settings())})
    )
    return {spec.key.to_user_string() for spec in merged.resolve_all_asset_specs()}


def describe_assets(assets: list[dg.AssetsDefinition]) -> dict[str, object]:
    """Everything in the specs that other assets or readers rely on."""
    description: dict[str, object] = {}
    for definition in assets:
        for spec in definition.specs:
            description[spec.key.to_user_string()] = {
                "description": spec.description,
                "deps": {d.asset_key.to_user_string(): mapping_label(d) for d in spec.deps},
                "group": spec.group_name,
                "kinds": sorted(spec.kinds),
                "owners": list(spec.owners),
                "skippable": spec.skippable,
                "partitions": str(spec.partitions_def) if spec.partitions_def else None,
                "op": definition.op.name,
                "pool": definition.op.pool,
                "single run": definition.backfill_policy == dg.BackfillPolicy.single_run(),
                "subsettable": definition.can_subset,
            }
        for check in definition.check_specs:
            name = f"{check.asset_key.to_user_string()}:{check.name}"
            description[name] = {"description": check.description, "blocking": check.blocking}
    return dict(sorted(description.items()))


def mapping_label(dep: dg.AssetDep) -> str:
    partition_mapping = dep.partition_mapping
    if partition_mapping is None:
        return "same window, or all"
    return f"from {partition_mapping.start_offset} to {partition_mapping.end_offset} windows"


def test_the_asset_specs_match_the_snapshot(spec):
    description = json.dumps(describe_assets(build_assets(spec)), indent=2) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(description)
    assert description == SNAPSHOT.read_text()


def test_only_a_dependency_on_itself_looks_back(spec):
    for definition in build_assets(spec):
        for asset in definition.specs:
            back = [d.asset_key for d in asset.deps if d.partition_mapping is not None]
            assert back in ([], [asset.key])


def test_a_folder_with_only_defs_yaml_files_defines_all_its_models(tmp_path):
    write(tmp_path, "tides")
    write(tmp_path, "ebbs")
    keys = keys_of(load_models(tmp_path))
    names = ("initial_model", "kafka_batch", "candidate_model", "evaluation_report")
    models = {f"{m}/{n}" for m in ("tides", "ebbs") for n in (*names, "deployed_model")}
    assert keys == models | {"kafka/tides"}  # both learn from one topic


def test_models_of_several_folders_are_merged(tmp_path):
    write(tmp_path / "mine", "tides")
    write(tmp_path / "live", "ebbs")
    keys = keys_of(
        load_models(PACKAGED_MODELS, tmp_path / "mine", tmp_path / "live", tmp_path / "mine")
    )
    assert {f"{m}/kafka_batch" for m in ("flights", "tides", "ebbs")} <= keys
    assert {"kafka/flights", "kafka/tides"} <= keys


@pytest.mark.parametrize("file_name", ["defs.yaml", "defs.yml"])
def test_commands_and_dagster_find_the_same_models(tmp_path, monkeypatch, file_name):
    write(tmp_path / "models", "tides").rename(tmp_path / "models" / "tides" / file_name)
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIDEMILL_MODELS", str(tmp_path / "models"))
    settings = Settings()
    assert set(model_files(settings)) == {"tides"}  # and not the packaged ones
    assert load_spec("tides", settings).topic == "tides"
    loaded = keys_of(load_models(*settings.model_folders))
    assert {key.partition("/")[0] for key in loaded} == {"tides", "kafka"}


def test_each_file_is_parsed_once_per_load(tmp_path, monkeypatch):
    parsed: list[str] = []

    def parse(text: str, file: str, *args: str):
        parsed.append(file)
        return spec_parser.parse(text, file, *args)

    monkeypatch.setattr("tidemill.model_files.parse", parse)
    files = [str(write(tmp_path, model)) for model in ("ebbs", "tides")]
    keys_of(load_models(tmp_path))
    assert parsed == files


def test_the_type_in_a_defs_yaml_is_the_component():
    module, _, name = COMPONENT_TYPE.rpartition(".")
    assert getattr(importlib.import_module(module), name) is IncrementalModel


def test_every_tick_of_a_process_gets_the_same_resource(tmp_path):
    write(tmp_path, "tides")
    seen: list[TidemillResource] = []

    class RecordingResource(TidemillResource):
        def alert_sender(self) -> None:
            seen.append(self)

    resource = RecordingResource(Settings())
    definitions = dg.Definitions.merge(
        load_models(tmp_path), dg.Definitions(resources={"tidemill": resource})
    )
    repository = definitions.get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            resources = repository.get_top_level_resources()  # as Dagster's code server does
            context = dg.build_sensor_context(instance, resources=resources)
            tick = repository.get_sensor_def("tides_alerts").evaluate_tick(context)
            assert tick.skip_message.startswith("Alerts are off")
    assert len(seen) == 2
    assert all(each is resource for each in seen)


def test_a_model_with_two_files_is_refused(tmp_path):
    file = write(tmp_path, "tides")
    file.with_name("defs.yml").write_text(file.read_text())
    with pytest.raises(SpecInvalid, match=r"has a defs\.yaml and a defs\.yml"):
        load_models(tmp_path)


def test_an_empty_folder_has_no_models(tmp_path):
    assert keys_of(load_models(tmp_path)) == set()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SpecInvalid, match="does not exist"):
        load_models(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["Tides", "9tides", "tides-1", "t" * 64, "tides.v2"])
def test_an_invalid_model_name_is_refused(tmp_path, name):
    with pytest.raises(SpecInvalid, match="not a valid model name"):
        read_spec(write(tmp_path, name))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (GOOD.replace("label:", "lable:"), 7, "did you mean `label`"),
        (GOOD.replace("wind: number?", "wind: nummer?"), 6, "did you mean `number`"),
        (GOOD.replace("2024-01-01", "soon"), 9, "windows.start"),
        (GOOD + "  learner: {retrain_every: 0}\n", 10, "retrain_every"),
    ],
)
def test_an_invalid_key_or_value_is_reported_with_file_and_line(tmp_path, text, line, message):
    file = write(tmp_path, "tides", text)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster wraps it
        load_models(tmp_path)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, SpecInvalid):
        error = error.__cause__
    assert f"{file}:{line}:" in str(error)
    assert message in str(error)


def test_the_schema_is_that_of_the_spec():
    schema = IncrementalModel.get_model_cls().model_json_schema()
    schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert {"topic", "fields", "label", "windows", "learner", "gate"} <= schema["properties"].keys()
    assert schema["properties"]["topic"]["description"]
    assert schema["additionalProperties"] is False


def test_definitions_load_nothing_heavy():
    code = (
        "import sys; from tidemill.definitions import defs; defs(); "
        "heavy = {'lightgbm', 'polars', 'pyarrow', 'confluent_kafka', 'mlflow', 'scipy'}; "
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = run("python", "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr.replace("parse_obj_as", "")


def test_dg_finds_the_component_and_accepts_the_definitions():
    platform = ROOT / "platform"
    checked = run("dg", "check", "defs", cwd=platform)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "tidemill.defs.IncrementalModel" in run("dg", "list", "components", cwd=platform).stdout
    listed = run("dg", "list", "defs", "--json", cwd=platform)
    assert "flights/deployed_model" in {a["asset_key"] for a in json.loads(listed.stdout)["assets"]}


def test_dg_check_defs_reports_file_and_line_of_an_invalid_value(tmp_path):
    file = write(tmp_path, "tides", GOOD.replace("number?", "nummer?"))
    done = run("dg", "check", "defs", cwd=ROOT / "platform", TIDEMILL_MODELS=str(tmp_path))
    assert done.returncode != 0
    assert f"{file}:6:" in (done.stdout + done.stderr).replace("\n", "")

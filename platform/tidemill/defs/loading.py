"""Loads models from folders with one subfolder and one `defs.yaml` per model."""

import sys
from pathlib import Path
from types import ModuleType

import dagster as dg

import tidemill.models
from tidemill.core.spec import ModelSpec
from tidemill.defs.alerts import alerts_sensor
from tidemill.defs.component import IncrementalModel
from tidemill.defs.dagster_compat import suppress_dagster_warnings, without_component_tree
from tidemill.defs.external_assets import external_assets
from tidemill.defs.sensors import window_closed_sensor
from tidemill.model_files import find_models

PACKAGED_MODELS = Path(tidemill.models.__path__[0]).resolve()


@suppress_dagster_warnings  # about preview features that Dagster itself uses
def load_models(*folders: Path, sensor_status: str = "stopped") -> dg.Definitions:
    """The definitions of every model in the folders, packaged or not, with their external assets
    and their sensors, whose default status is `running` or `stopped`.

    Raises `SpecInvalid` if a folder does not exist; an invalid `defs.yaml` fails the load.
    """
    files = find_models(folders)
    if not files:
        return dg.Definitions()
    # Like `dg.load_from_defs_folder`, but without a dg.toml, which an installed wheel lacks.
    trees = {
        folder: dg.ComponentTree.from_module(_folder_module(folder, number), project_root=folder)
        for number, folder in enumerate(dict.fromkeys(f.parent.parent for f in files.values()))
    }
    specs = [_load_spec(trees[file.parent.parent], file.parent) for file in files.values()]
    first, *others = [tree.build_defs() for tree in trees.values()]
    loaded = [first, *map(without_component_tree, others)]
    sensors = [
        *(window_closed_sensor(spec, sensor_status) for spec in specs),
        *(alerts_sensor(spec.name, sensor_status) for spec in specs),
    ]
    shared = dg.Definitions(assets=external_assets(specs), sensors=sensors)
    return dg.Definitions.merge(*loaded, shared)


def _load_spec(tree: dg.ComponentTree, folder: Path) -> ModelSpec:
    """The spec of the model in a folder; the tree keeps the component for its definitions."""
    return tree.load_component(folder, IncrementalModel).spec


def _folder_module(folder: Path, number: int) -> ModuleType:
    """A module for the folder: Dagster requires one as the root of a component tree."""
    if folder == PACKAGED_MODELS:
        return tidemill.models
    module = ModuleType(f"tidemill_models_{number}")
    module.__path__ = [str(folder)]
    module.__file__ = str(folder / "__init__.py")
    sys.modules[module.__name__] = module
    return module

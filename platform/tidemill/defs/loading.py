"""Models found in a folder: one subfolder and one `defs.yaml` a model."""

import sys
from pathlib import Path
from types import ModuleType

import dagster as dg
from dagster._utils.warnings import suppress_dagster_warnings
from dagster.components.core.component_tree import ComponentTree

import tidemill.models
from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.defs.component import load_model
from tidemill.defs.lineage import sources

PACKAGED = Path(tidemill.models.__path__[0]).resolve()


@suppress_dagster_warnings  # Dagster's own, about previews inside of it
def load_models(folder: Path) -> dg.Definitions:
    """The assets of every model in the folder, this package's own or any other, and their sources.

    Raises `SpecInvalid` where there is no such folder; a wrong `defs.yaml` ends the load.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise SpecInvalid(
            f"The models' folder {folder} does not exist.",
            "Let TIDEMILL_MODELS name a folder with one subfolder and one defs.yaml a model.",
        )
    # What `dg.load_from_defs_folder` does, without a dg.toml: an installed wheel has none.
    tree = ComponentTree.from_module(_module(folder), project_root=folder)
    if not any(folder.glob("*/defs.y*ml")):
        return dg.Definitions()
    return dg.Definitions.merge(tree.build_defs(), dg.Definitions(assets=sources(_specs(folder))))


def _specs(folder: Path) -> dict[str, ModelSpec]:
    """The spec of every model in the folder."""
    files = sorted(folder.glob("*/defs.y*ml"))
    return {file.parent.name: load_model(file).spec for file in files}


def _module(folder: Path) -> ModuleType:
    """Dagster takes a module for the root of a tree; a folder of defs.yaml files needs not be."""
    if folder == PACKAGED:
        return tidemill.models
    module = ModuleType("tidemill_models")
    module.__path__ = [str(folder)]
    module.__file__ = str(folder / "__init__.py")
    sys.modules[module.__name__] = module
    return module

"""The models as files: one folder with one `defs.yaml` per model."""

from collections.abc import Iterable
from pathlib import Path

from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import MODEL_NAME, ModelSpec
from tidemill.core.spec_parser import parse

COMPONENT_TYPE = "tidemill.defs.IncrementalModel"
"""The `type` of every `defs.yaml`, by which Dagster finds the component."""


def find_models(folders: Iterable[Path]) -> dict[str, Path]:
    """The `defs.yaml` (or `defs.yml`) of every model in the folders, by the model's name.

    Raises `SpecInvalid` if a folder does not exist, or if a model has both files.
    """
    files: dict[str, Path] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        if not folder.is_dir():
            raise SpecInvalid(
                f"The model folder {folder} does not exist.",
                "Set TIDEMILL_MODELS to a folder with one subfolder and one defs.yaml per model.",
            )
        for model_folder in sorted(folder.iterdir()):
            if (file := find_defs_file(model_folder)) is not None:
                files[model_folder.name] = file
    return files


def find_defs_file(folder: Path) -> Path | None:
    """The `defs.yaml` (or `defs.yml`) in a folder. Raises `SpecInvalid` if it has both files."""
    match [file for name in ("defs.yaml", "defs.yml") if (file := folder / name).exists()]:
        case []:
            return None
        case [file]:
            return file
    raise SpecInvalid(f"{folder} has a defs.yaml and a defs.yml.", "Remove one of the two files.")


def read_spec(file: Path) -> ModelSpec:
    """The spec in a `defs.yaml`, of the model that is named after its folder.

    Raises `SpecInvalid` with the line of each error, and for a folder whose name is not valid.
    """
    name = file.parent.name
    if not MODEL_NAME.fullmatch(name):
        raise SpecInvalid(
            f"{file}: the folder's name {name!r} is not a valid model name.",
            "Start with a letter; use at most 63 lowercase letters, digits and underscores.",
        )
    return parse(file.read_text(encoding="utf-8"), str(file), name, COMPONENT_TYPE)

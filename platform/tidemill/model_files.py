"""Which models exist: one folder with one `defs.yaml` per model."""

from collections.abc import Iterable
from pathlib import Path

from tidemill.core.errors import SpecInvalid


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
        in_folder = {file.parent.name: file for file in sorted(folder.glob("*/defs.yaml"))}
        for file in sorted(folder.glob("*/defs.yml")):
            if file.parent.name in in_folder:
                raise SpecInvalid(
                    f"{file.parent} has a defs.yaml and a defs.yml.", "Remove one of the two files."
                )
            in_folder[file.parent.name] = file
        files |= in_folder
    return files

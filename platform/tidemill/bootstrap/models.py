"""The models of the settings, and their specs."""

from pathlib import Path

from tidemill.core.errors import UnknownModel
from tidemill.core.spec import MODEL_NAME, ModelSpec
from tidemill.model_files import find_models, read_spec
from tidemill.settings import Settings


def model_files(settings: Settings) -> dict[str, Path]:
    """The models of these settings, for every command, for the server and for Dagster: those in
    `TIDEMILL_MODELS` (by default the packaged ones) and the live model of `tidemill up`."""
    return find_models(settings.model_folders)


def load_spec(model: str, settings: Settings) -> ModelSpec:
    """The spec of a model. Raises `UnknownModel`, `SpecInvalid`."""
    return read_spec(model_file(model, settings))


def model_file(model: str, settings: Settings) -> Path:
    files = model_files(settings)
    if model not in files or not MODEL_NAME.fullmatch(model):
        raise UnknownModel(
            f"No model {model[:80]!r} is defined.",
            f"The defined models are: {', '.join(files)}. A model is a folder with a defs.yaml in "
            f"{settings.models} (TIDEMILL_MODELS).",
        )
    return files[model]

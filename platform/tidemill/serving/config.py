"""What a server serves, and where: the same for all of its worker processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.settings_groups import ServeSettings


@dataclass(frozen=True)
class ServerConfig:
    """The models of a server by name, and the IP address and the port that it listens on.

    `on_listening` is called with these two, in whichever process, once the first connection can be
    made. Raises `SpecInvalid` if a field to be logged is not a field of any model.
    """

    settings: ServeSettings
    specs: Mapping[str, ModelSpec]
    address: str
    port: int
    on_listening: Callable[[str, int], None]

    def __post_init__(self) -> None:
        for name in self.settings.prediction_fields:
            if not any(name in spec.fields for spec in self.specs.values()):
                raise SpecInvalid(
                    f"TIDEMILL_SERVE__PREDICTION_FIELDS names {name!r}, which no served model has.",
                    "Use fields of the models' defs.yaml.",
                )

    @property
    def logged_fields(self) -> dict[str, dict[str, int]]:
        """Per model the fields whose values are logged with its predictions: name and index."""
        return {
            model: {
                name: index
                for index, name in enumerate(spec.fields)
                if name in self.settings.prediction_fields
            }
            for model, spec in self.specs.items()
        }

"""The settings of this machine: the only reader of the environment."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from tidemill.core.errors import SpecInvalid
from tidemill.settings_groups import (
    AlertSettings,
    Bucket,
    DagsterSettings,
    KafkaSettings,
    MlflowSettings,
    S3Settings,
    ServeSettings,
    UpSettings,
)

_PREFIX = "TIDEMILL_"
_MODELS = Path(__file__).parent / "models"
_BUCKET = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[0-9A-Za-z_-][0-9A-Za-z._-]*)*)/?"
)


class Settings(BaseSettings):
    """All settings, read from environment variables: `TIDEMILL_HOME`, `TIDEMILL_KAFKA__…`.

    Raises `SpecInvalid`, which names the variable and never shows its value.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: Path = Field(
        Path(".tidemill"), validate_default=True, description="The folder of everything local."
    )
    store: Annotated[Path | Bucket, NoDecode] = Field(
        default_factory=lambda values: values["home"] / "store",
        description="A folder, or `s3://BUCKET/PREFIX`. Default: `store` in `home`.",
    )
    models: Path = Field(_MODELS, description="A folder with one folder per model.")
    failpoints: str = Field("", description="For fault tests: `NAME:ACTION`, separated by commas.")
    num_threads: int = Field(1, ge=1, le=1024, description="Threads of one training.")
    kafka: KafkaSettings = KafkaSettings()
    s3: S3Settings = S3Settings()
    mlflow: MlflowSettings = MlflowSettings()
    dagster: DagsterSettings = DagsterSettings()
    alerts: AlertSettings = AlertSettings()
    serve: ServeSettings = ServeSettings()
    up: UpSettings = UpSettings()
    sensors_default_status: Literal["running", "stopped"] = Field(
        "stopped", description="The sensors' initial status; the UI starts and stops each."
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _translate_error(error) from None
        except SettingsError as error:
            raise SpecInvalid(
                f"The environment cannot be read: {error}.",
                f"Set single values with {_PREFIX}KAFKA__NAME, not {_PREFIX}KAFKA as a whole.",
            ) from None

    @field_validator("home", "models")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("store", mode="before")
    @classmethod
    def _parse_store(cls, value: object) -> object:
        if not isinstance(value, str) or "://" not in value:
            return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value
        match = _BUCKET.fullmatch(value)
        if match is None:
            raise ValueError("an object store must be given as s3://BUCKET/PREFIX")
        return Bucket(match[1], match[2].strip("/"))

    @property
    def serving_data(self) -> Path:
        """The prediction server's local copies of what it serves."""
        return self.home / "serving"

    @property
    def kafka_data(self) -> Path:
        """The folder of the embedded broker."""
        return self.home / "kafka"

    @property
    def mlflow_data(self) -> Path:
        """The folder of MLflow's local database and artifacts."""
        return self.home / "mlflow"

    @property
    def dagster_home(self) -> Path:
        """The home folder of Dagster's instance."""
        return self.home / "dagster"

    @property
    def airflow_home(self) -> Path:
        """The home folder of the Airflow of `tidemill up`."""
        return self.home / "airflow"

    @property
    def postgres_data(self) -> Path:
        """The data folder of the PostgreSQL of `tidemill up --postgres`."""
        return self.home / "postgres"

    @property
    def up_data(self) -> Path:
        """The state of the services of `tidemill up`, and the model of its stream."""
        return self.home / "up"

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """The folders of models besides the packaged ones: the user's, and that of `up`."""
        live = self.up_data / "models"
        return (self.models, live) if live.is_dir() else (self.models,)


_GROUPS: dict[str, type[BaseModel]] = {
    "kafka": KafkaSettings,
    "s3": S3Settings,
    "mlflow": MlflowSettings,
    "dagster": DagsterSettings,
    "alerts": AlertSettings,
    "serve": ServeSettings,
    "up": UpSettings,
}


def _translate_error(error: ValidationError) -> SpecInvalid:
    first = error.errors(include_input=False, include_url=False)[0]
    variable = _PREFIX + "__".join(str(part) for part in first["loc"]).upper()
    if first["type"] == "extra_forbidden":
        group = str(first["loc"][0])
        kind = _GROUPS[group]
        available = ", ".join(f"{_PREFIX}{group}__{name}".upper() for name in kind.model_fields)
        return SpecInvalid(f"{variable} is not a valid setting.", f"Valid are {available}.")
    return SpecInvalid(
        f"The environment variable {variable} is not valid: {first['msg']}.",
        f"Change {variable}, or unset it to use its default.",
    )

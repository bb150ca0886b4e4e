"""The settings of this machine: the only reader of the environment."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from tidemill.core.errors import SpecInvalid

_PREFIX = "TIDEMILL_"
_MODELS = Path(__file__).parent / "models"
_BUCKET = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[0-9A-Za-z_-][0-9A-Za-z._-]*)*)/?"
)


class KafkaSettings(BaseModel):
    """How to connect to Kafka; without `bootstrap_servers`, the embedded broker is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: str | None = Field(None, min_length=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: Path | None = None
    ssl_certificate_location: Path | None = None
    ssl_key_location: Path | None = None
    ssl_key_password: SecretStr | None = None
    timeout: float = Field(60, gt=0, le=3600, description="Seconds to wait for Kafka.")
    ledger_topic: str = Field("tidemill.ledger", pattern=r"^[a-zA-Z0-9._-]{1,249}$")


@dataclass(frozen=True)
class Bucket:
    """A location in S3-compatible storage; `prefix` precedes every name, unless it is empty."""

    name: str
    prefix: str = ""


class S3Settings(BaseModel):
    """How to connect to a store on S3-compatible storage.

    What is not set here is read from AWS's own variables: `AWS_ENDPOINT_URL`, `AWS_REGION`,
    `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or those of a role.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        None, pattern=r"^https?://", description="URL of a service other than AWS."
    )
    region: str | None = Field(None, min_length=1)
    credentials: Path | None = Field(
        None, description="Credentials file in the AWS format; its profile `default` is used."
    )
    timeout: float = Field(30, gt=0, le=300, description="Seconds to wait for the storage.")


class MlflowSettings(BaseModel):
    """Where runs are tracked; without `tracking_uri`, in a local database."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tracking_uri: str | None = Field(
        None, min_length=1, description="URI of a tracking server or database; `off` disables it."
    )
    ui_url: str = Field("http://127.0.0.1:5000", description="Address of MLflow's UI, for links.")
    timeout: float = Field(5, ge=1, le=300, description="Seconds to wait for one request.")


class DagsterSettings(BaseModel):
    """The address of Dagster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ui_url: str = Field("http://127.0.0.1:3000", description="Address of Dagster's UI, for links.")


class AlertSettings(BaseModel):
    """Where alerts are sent, by default nowhere: about a rollback, a stale model, too many rejects,
    permuted labels, or a window that is no longer retried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: SecretStr | None = Field(
        None, description="An http(s) URL that receives the alert as JSON in a POST request."
    )
    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="A JSON list: program and arguments; no shell is used."
    )
    timeout: float = Field(10, gt=0, le=300, description="Seconds to wait for each of them.")

    @field_validator("webhook")
    @classmethod
    def _require_http_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("a URL must start with http:// or https://")
        return value


class ServeSettings(BaseModel):
    """How predictions are served, and the limits of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65_535, description="0: any free port.")
    workers: int = Field(1, ge=1, le=64, description="Processes that answer requests.")
    models: tuple[str, ...] | None = Field(None, min_length=1, description="Default: all.")
    token: SecretStr | None = Field(
        None, min_length=16, description="Required on all routes but the probes."
    )
    max_rows: int = Field(1_000, ge=1, le=100_000, description="Rows per request, at most.")
    max_bytes: int = Field(4_000_000, ge=1_000, le=1_000_000_000, description="Bytes per body.")
    max_chunks: int = Field(4_000, ge=1, description="Chunks per body, at most.")
    body_timeout: float = Field(10, gt=0, le=600, description="Seconds for a request's body.")
    header_timeout: float = Field(
        60, gt=0, le=3600, description="Seconds for a request's head; idle connections are closed."
    )
    max_connections: int = Field(16_384, ge=16, le=1_000_000, description="Per worker, at most.")
    startup_timeout: float = Field(
        5, ge=0, le=600, description="Seconds to wait for Kafka before serving the local copy."
    )
    drain_seconds: float = Field(
        1, ge=0, le=600, description="Seconds from reporting not ready to refusing requests."
    )
    shutdown_grace_seconds: float = Field(
        10, gt=0, le=600, description="Seconds that requests in progress have to finish."
    )
    prediction_log: bool = Field(False, description="Log to the topic `MODEL.predictions`.")
    prediction_fields: tuple[str, ...] = Field((), description="Fields to log with them.")


class UpSettings(BaseModel):
    """The loopback ports of the services of `tidemill up`, and the length of its windows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dagster_port: int = Field(3000, ge=1, le=65_535)
    mlflow_port: int = Field(5000, ge=1, le=65_535)
    airflow_port: int = Field(8080, ge=1, le=65_535)
    postgres_port: int = Field(5432, ge=1, le=65_535, description="With `--postgres`.")
    window_minutes: Literal[1, 2, 5, 10, 15, 30] = Field(
        5, description="Minutes per window of the live flights; each window is one day of 2013."
    )

    @field_validator("window_minutes", mode="before")
    @classmethod
    def _parse_minutes(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdigit() else value


class Settings(BaseSettings):
    """All settings, read from environment variables: `TIDEMILL_HOME`, `TIDEMILL_KAFKA__…`.

    Raises `SpecInvalid`, which names the variable and never shows its value.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: Path = Field(Path(".tidemill"), validate_default=True)
    store: Annotated[Path | Bucket, NoDecode] = Field(
        default_factory=lambda values: values["home"] / "store",
        description="A folder, or `s3://BUCKET/PREFIX`. Default: `store` in `home`.",
    )
    models: Path = Field(_MODELS, description="A folder with one folder per model.")
    failpoints: str = ""
    num_threads: int = Field(1, ge=1, le=1024)
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

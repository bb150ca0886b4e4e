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
    """Where Kafka is and how to prove who we are; without `bootstrap_servers`, the embedded one."""

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
    timeout: float = Field(60, gt=0, le=3600, description="Seconds Kafka may be away.")
    ledger_topic: str = Field("tidemill.ledger", pattern=r"^[a-zA-Z0-9._-]{1,249}$")


@dataclass(frozen=True)
class Bucket:
    """A place in S3-compatible storage; `prefix` is empty, or begins every name that is kept."""

    name: str
    prefix: str = ""


class S3Settings(BaseModel):
    """How a store on S3-compatible storage is reached.

    What is not set here is read from AWS's own variables: `AWS_ENDPOINT_URL`, `AWS_REGION`,
    `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or those of a role.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        None, pattern=r"^https?://", description="Of another service than AWS."
    )
    region: str | None = Field(None, min_length=1)
    credentials: Path | None = Field(
        None, description="A file of keys as the AWS tools keep it; its `default` is used."
    )
    timeout: float = Field(30, gt=0, le=300, description="Seconds the storage may be away.")


class MlflowSettings(BaseModel):
    """Where the record is kept; without `tracking_uri`, in a database of one's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tracking_uri: str | None = Field(
        None, min_length=1, description="A tracking server or database; `off` keeps no record."
    )
    ui_url: str = Field("http://127.0.0.1:5000", description="Where people see it; for links.")
    timeout: float = Field(5, ge=1, le=300, description="Seconds that one request may take.")


class DagsterSettings(BaseModel):
    """How Dagster is linked to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ui_url: str = Field("http://127.0.0.1:3000", description="Address of Dagster's UI, for links.")


class AlertSettings(BaseModel):
    """Who is told of a roll back, a stale model, too many rejects, permuted labels, a window given
    up; nobody by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: SecretStr | None = Field(
        None, description="An http(s) address that takes the alert as JSON by POST."
    )
    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="A JSON list: program and arguments; no shell is asked."
    )
    timeout: float = Field(10, gt=0, le=300, description="Seconds that each may take.")

    @field_validator("webhook")
    @classmethod
    def _require_http_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://")
        return value


class ServeSettings(BaseModel):
    """How predictions are served, and what a request may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65_535, description="0: one that is free.")
    workers: int = Field(1, ge=1, le=64, description="Processes that answer.")
    models: tuple[str, ...] | None = Field(None, min_length=1, description="Default: all.")
    token: SecretStr | None = Field(
        None, min_length=16, description="Asked for on all routes but the probes."
    )
    max_rows: int = Field(1_000, ge=1, le=100_000, description="Rows that one request may ask.")
    max_bytes: int = Field(4_000_000, ge=1_000, le=1_000_000_000, description="Bytes of a body.")
    max_chunks: int = Field(4_000, ge=1, description="Chunks that a body may come in.")
    body_timeout: float = Field(10, gt=0, le=600, description="For the body of a request.")
    header_timeout: float = Field(
        60, gt=0, le=3600, description="For the head of a request; idle connections are closed."
    )
    max_connections: int = Field(16_384, ge=16, le=1_000_000, description="At once, a worker.")
    startup_timeout: float = Field(
        5, ge=0, le=600, description="Seconds to wait for Kafka before the local copy is served."
    )
    drain_seconds: float = Field(
        1, ge=0, le=600, description="Seconds between not being ready and taking no more requests."
    )
    shutdown_grace_seconds: float = Field(
        10, gt=0, le=600, description="Seconds that requests under way get."
    )
    prediction_log: bool = Field(False, description="Log to the topic `MODEL.predictions`.")
    prediction_fields: tuple[str, ...] = Field((), description="Fields to log, too.")


class UpSettings(BaseModel):
    """Where the services of `tidemill up` listen on the loopback, and how its stream is cut."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dagster_port: int = Field(3000, ge=1, le=65_535)
    mlflow_port: int = Field(5000, ge=1, le=65_535)
    airflow_port: int = Field(8080, ge=1, le=65_535)
    postgres_port: int = Field(5432, ge=1, le=65_535, description="With `--postgres`.")
    window_minutes: Literal[1, 2, 5, 10, 15, 30] = Field(
        5, description="Length of a window of the live flights; each is a day of 2013."
    )

    @field_validator("window_minutes", mode="before")
    @classmethod
    def _parse_minutes(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdigit() else value


class Settings(BaseSettings):
    """Everything that is told by environment variables: `TIDEMILL_HOME`, `TIDEMILL_KAFKA__…`.

    Raises `SpecInvalid`, which names the variable and never shows its value.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: Path = Field(Path(".tidemill"), validate_default=True)
    store: Annotated[Path | Bucket, NoDecode] = Field(
        default_factory=lambda told: told["home"] / "store",
        description="A folder, or `s3://BUCKET/PREFIX`; without it, `store` in `home`.",
    )
    models: Path = Field(_MODELS, description="The folder with one folder a model.")
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
        "stopped", description="How sensors begin; the UI starts and stops each."
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _translate_error(error) from None
        except SettingsError as error:
            raise SpecInvalid(
                f"The environment cannot be read: {error}.",
                f"Set single values by {_PREFIX}KAFKA__NAME, not {_PREFIX}KAFKA as a whole.",
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
            raise ValueError("an object store is written s3://BUCKET/PREFIX")
        return Bucket(match[1], match[2].strip("/"))

    @property
    def serving_data(self) -> Path:
        """The prediction server's copies of what it serves."""
        return self.home / "serving"

    @property
    def kafka_data(self) -> Path:
        """The folder of the embedded broker."""
        return self.home / "kafka"

    @property
    def mlflow_data(self) -> Path:
        """The folder of MLflow's own database and artifacts."""
        return self.home / "mlflow"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance."""
        return self.home / "dagster"

    @property
    def airflow_home(self) -> Path:
        """The Airflow of `tidemill up`."""
        return self.home / "airflow"

    @property
    def postgres_data(self) -> Path:
        """The PostgreSQL of `tidemill up --postgres`."""
        return self.home / "postgres"

    @property
    def up_data(self) -> Path:
        """What `tidemill up` keeps of its services, and the model of its stream."""
        return self.home / "up"

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Where models are, beside the packaged ones: those of the user, and that of `up`."""
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
        return SpecInvalid(f"{variable} is no setting.", f"There are {available}.")
    return SpecInvalid(
        f"The environment variable {variable} is wrong: {first['msg']}.",
        f"Change {variable}, or unset it for its default.",
    )

"""The groups of settings, such as `TIDEMILL_KAFKA__…`; `settings.py` reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class KafkaSettings(BaseModel):
    """How to connect to Kafka; without `bootstrap_servers`, the embedded broker is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: str | None = Field(
        None, min_length=1, description="Brokers as `host:port`, separated by commas."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: Path | None = Field(
        None, description="File of the certificate authority that signed the brokers' certificates."
    )
    ssl_certificate_location: Path | None = Field(
        None, description="File of this client's certificate."
    )
    ssl_key_location: Path | None = Field(None, description="File of this client's private key.")
    ssl_key_password: SecretStr | None = None
    timeout: float = Field(60, gt=0, le=3600, description="Seconds to wait for Kafka.")
    ledger_topic: str = Field(
        "tidemill.ledger",
        pattern=r"^[a-zA-Z0-9._-]{1,249}$",
        description="The topic of the ledger of deployments.",
    )


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

"""The composition root: builds what the commands and Dagster need from the settings.

Importing it loads no client of Kafka, S3 or MLflow, and nothing of the prediction server, whose
module, `bootstrap.server`, only `tidemill serve` imports.
"""

from tidemill.bootstrap.alerts import make_alert_sender
from tidemill.bootstrap.databases import local_databases, local_postgres
from tidemill.bootstrap.kafka import kafka_cluster
from tidemill.bootstrap.locks import exclusive_lock, is_locked
from tidemill.bootstrap.model_context import open_model, open_model_readonly
from tidemill.bootstrap.models import load_spec, model_files
from tidemill.bootstrap.store import make_store
from tidemill.bootstrap.tracker import make_tracker

__all__ = [
    "exclusive_lock",
    "is_locked",
    "kafka_cluster",
    "load_spec",
    "local_databases",
    "local_postgres",
    "make_alert_sender",
    "make_store",
    "make_tracker",
    "model_files",
    "open_model",
    "open_model_readonly",
]

"""The three Airflow DAGs of the flights model: one run per day of 2013, without waiting."""

from datetime import datetime
from zoneinfo import ZoneInfo

from tidemill_airflow.factory import ModelConfig, model_dags

_NEW_YORK = ZoneInfo("America/New_York")

model_dags(
    ModelConfig(
        "flights",
        cron="0 0 * * *",
        timezone="America/New_York",
        start=datetime(2013, 2, 1, tzinfo=_NEW_YORK),
        end=datetime(2014, 1, 1, tzinfo=_NEW_YORK),
    )
)

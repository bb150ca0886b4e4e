"""The model of the platform: the flights live, written once, when it is first brought up."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from tidemill import bootstrap, models
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import from_ms
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text

MODEL, TOPIC = "flights_live", "flights-up"
_MINUTES_PER_DAY = 24 * 60
_HALF_LIFE_MINUTES = (
    60 * _MINUTES_PER_DAY
)  # minutes, as by default, and as on the flights' own clock
_PAST_WINDOWS = 2
"""Windows that lie behind us at the start, so that there is something to see at once."""
_HEADER = """\
# Written once, by `tidemill up` or `prepare`, which fixed the start: the model `flights` on today's
# clock, a day of 2013 in each window. It stays as it is; begin anew with other data.
"""


def ensure_live_model(settings: Settings, models_folder: Path, now_ms: int) -> ModelSpec:
    """The spec of the live model; its `defs.yaml` is written below `models` if there is none.

    That is one of the folders where the settings look for models. `now`: ms.
    """
    spec_file = models_folder / MODEL / "defs.yaml"
    if not spec_file.exists():
        atomic_write_text(
            spec_file, _HEADER + yaml.safe_dump(_document(settings, now_ms), sort_keys=False)
        )
    return bootstrap.load_spec(MODEL, settings)


def _document(settings: Settings, now_ms: int) -> dict[str, Any]:
    minutes = settings.up.window_minutes
    window_ms = minutes * 60_000
    start = from_ms(now_ms // window_ms * window_ms - _PAST_WINDOWS * window_ms)
    packaged_spec = Path(models.__path__[0]) / "flights" / "defs.yaml"
    document: dict[str, Any] = yaml.safe_load(packaged_spec.read_text())
    attributes = document["attributes"]
    for key in ("initial", "freshness"):  # all there is, and this machine's clock
        attributes.pop(key)
    attributes["topic"] = TOPIC
    attributes["windows"] = {"cron": f"*/{minutes} * * * *", "start": start}
    half_life = _HALF_LIFE_MINUTES * minutes // _MINUTES_PER_DAY
    attributes["learner"] = {"replay": {"half_life": f"{half_life}m"}}
    return document


def write_dags(folder: Path, spec: ModelSpec, end_ms: int) -> None:
    """Write Airflow's three DAGs of the live model, until the flights have `ended` (ms)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODEL}.py").write_text(_dags_source(spec, end_ms))


def _dags_source(spec: ModelSpec, end_ms: int) -> str:
    first_window = spec.calendar.first
    arguments = {
        "cron": spec.windows.cron,
        "start": from_ms(first_window.start),
        "end": from_ms(end_ms),
        "live": True,
        "follow_interval": 10.0,
        "wait": timedelta(milliseconds=first_window.end - first_window.start),
    }
    arguments_source = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
    return f'''\
"""The DAGs of the live flights, written by tidemill."""

import datetime

from tidemill_airflow.factory import Model, model_dags

model_dags(
    Model(
        "{MODEL}",
{arguments_source}    )
)
'''

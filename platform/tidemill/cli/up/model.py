"""The model of the platform: the flights live, written once, when it is first brought up."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from tidemill import bootstrap, models
from tidemill.adapters.textfile import atomic_write_text
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import from_ms
from tidemill.settings import Settings

MODEL, TOPIC = "flights_live", "flights-up"
_DAY = 24 * 60
_HALF_LIFE = 60 * _DAY  # minutes, as by default, and as on the flights' own clock
_EARLIER = 2
"""Windows that lie behind us at the start, so that there is something to see at once."""
_HEAD = """\
# Written once, by `tidemill up` or `prepare`, which fixed the start: the model `flights` on today's
# clock, a day of 2013 in each window. It stays as it is; begin anew with other data.
"""


def live_model(settings: Settings, models: Path, now: int) -> ModelSpec:
    """The spec of the live model; its `defs.yaml` is written below `models` if there is none.

    That is one of the folders where the settings look for models. `now`: ms.
    """
    file = models / MODEL / "defs.yaml"
    if not file.exists():
        atomic_write_text(file, _HEAD + yaml.safe_dump(_document(settings, now), sort_keys=False))
    return bootstrap.load_spec(MODEL, settings)


def _document(settings: Settings, now: int) -> dict[str, Any]:
    minutes = settings.up.window_minutes
    length = minutes * 60_000
    start = from_ms(now // length * length - _EARLIER * length)
    packaged = Path(models.__path__[0]) / "flights" / "defs.yaml"
    document: dict[str, Any] = yaml.safe_load(packaged.read_text())
    attributes = document["attributes"]
    for told in ("initial", "freshness"):  # all there is, and this machine's clock
        attributes.pop(told)
    attributes["topic"] = TOPIC
    attributes["windows"] = {"cron": f"*/{minutes} * * * *", "start": start}
    half_life = _HALF_LIFE * minutes // _DAY
    attributes["learner"] = {"replay": {"half_life": f"{half_life}m"}}
    return document


def write_dags(folder: Path, spec: ModelSpec, ended: int) -> None:
    """Write Airflow's three DAGs of the live model, until the flights have `ended` (ms)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODEL}.py").write_text(_dags(spec, ended))


def _dags(spec: ModelSpec, ended: int) -> str:
    first = spec.calendar.first
    told = {
        "cron": spec.windows.cron,
        "start": from_ms(first.start),
        "end": from_ms(ended),
        "live": True,
        "follow_interval": 10.0,
        "wait": timedelta(milliseconds=first.end - first.start),
    }
    words = "".join(f"        {name}={value!r},\n" for name, value in told.items())
    return f'''\
"""The DAGs of the live flights, written by tidemill."""

import datetime

from tidemill_airflow.factory import Model, model_dags

model_dags(
    Model(
        "{MODEL}",
{words}    )
)
'''

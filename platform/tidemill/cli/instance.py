"""The folder of Dagster's instance: its configuration, and where that keeps runs and events."""

import json
import os
import re
from pathlib import Path

from tidemill import bootstrap
from tidemill.adapters.textfile import atomic_write_text
from tidemill.core.errors import SpecInvalid
from tidemill.deployed import packaged_file
from tidemill.settings import Settings

_MARK = "\n# From here on tidemill writes it anew: where runs and events are kept.\n"
_URL = "DAGSTER_POSTGRES_URL"


def dagster_home(settings: Settings) -> Path:
    """The folder of the Dagster instance, with its configuration in it.

    Its storage is the PostgreSQL of one's own where that is in use, else the one that
    `DAGSTER_POSTGRES_URL` tells of, else SQLite in the folder. Whatever else somebody has changed
    in `dagster.yaml` stays. Raises `SpecInvalid` where that names a storage, too.
    """
    home = settings.dagster_home.resolve()
    config = home / "dagster.yaml"
    before = config.read_text() if config.exists() else None
    told, _, _ = (before or packaged_file("dagster.yaml").read_text()).partition(_MARK)
    told += _storage(told, settings)
    if told != before:
        atomic_write_text(config, told)
    return home


def _storage(told: str, settings: Settings) -> str:
    """What is to be added to this configuration."""
    own, block = bootstrap.local_postgres(settings), packaged_file("dagster-postgres.yaml").read_text()
    if own.port is None:
        return f"{_MARK}{block}" if _URL in os.environ else ""
    if re.search(r"^storage:", told, re.MULTILINE):
        raise SpecInvalid(
            f"{settings.dagster_home}/dagster.yaml names a storage of its own.",
            "Take it out, or run `tidemill up` without `--postgres`.",
        )
    # The URL itself, so that everybody's `dagster` finds it, whatever their environment.
    return _MARK + re.sub(rf"\n +env: {_URL}", f" {json.dumps(own.url('dagster'))}", block)

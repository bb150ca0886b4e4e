"""The folder of Dagster's instance: its configuration, and where that keeps runs and events."""

import json
import os
import re
from pathlib import Path

from tidemill import bootstrap
from tidemill.core.errors import SpecInvalid
from tidemill.packaged_files import packaged_file
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text

_STORAGE_MARKER = "\n# From here on tidemill writes it anew: where runs and events are kept.\n"
_POSTGRES_URL_ENV = "DAGSTER_POSTGRES_URL"


def ensure_dagster_home(settings: Settings) -> Path:
    """The folder of the Dagster instance, with its configuration in it.

    Its storage is the PostgreSQL of one's own where that is in use, else the one that
    `DAGSTER_POSTGRES_URL` tells of, else SQLite in the folder. Whatever else somebody has changed
    in `dagster.yaml` stays. Raises `SpecInvalid` where that names a storage, too.
    """
    home = settings.dagster_home.resolve()
    config_file = home / "dagster.yaml"
    existing = config_file.read_text() if config_file.exists() else None
    content, _, _ = (existing or packaged_file("dagster.yaml").read_text()).partition(
        _STORAGE_MARKER
    )
    content += _storage_section(content, settings)
    if content != existing:
        atomic_write_text(config_file, content)
    return home


def _storage_section(content: str, settings: Settings) -> str:
    """What is to be added to this configuration."""
    local_postgres, block = (
        bootstrap.local_postgres(settings),
        packaged_file("dagster-postgres.yaml").read_text(),
    )
    if local_postgres.port is None:
        return f"{_STORAGE_MARKER}{block}" if _POSTGRES_URL_ENV in os.environ else ""
    if re.search(r"^storage:", content, re.MULTILINE):
        raise SpecInvalid(
            f"{settings.dagster_home}/dagster.yaml names a storage of its own.",
            "Take it out, or run `tidemill up` without `--postgres`.",
        )
    # The URL itself, so that everybody's `dagster` finds it, whatever their environment.
    return _STORAGE_MARKER + re.sub(
        rf"\n +env: {_POSTGRES_URL_ENV}", f" {json.dumps(local_postgres.url('dagster'))}", block
    )

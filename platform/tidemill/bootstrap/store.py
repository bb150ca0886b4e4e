"""The store of the settings."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.ports import Store


def make_store(settings: Settings, max_timeout_seconds: float = math.inf) -> "Store":
    """The store of the settings: in a folder, or on S3-compatible storage.

    Calls to the latter time out after `s3.timeout` seconds, or `max_timeout_seconds` if shorter.
    """
    location, s3 = settings.store, settings.s3
    if isinstance(location, Path):
        from tidemill.adapters.files import FileStore

        return FileStore(location)
    from tidemill.adapters.s3 import S3Store

    timeout = min(s3.timeout, max_timeout_seconds)
    return S3Store(location.name, location.prefix, timeout, s3.endpoint, s3.region, s3.credentials)

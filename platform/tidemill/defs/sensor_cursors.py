"""What the sensors remember between ticks: JSON in Dagster's sensor cursors."""

from dataclasses import dataclass

import msgspec

from tidemill.core.retry_policy import FailureState


@dataclass(frozen=True)
class AlertCursor:
    """The newest processed event per source, and the freshness that was reported last.

    Neither field has a default: a cursor of an older format must not decode as an empty one, after
    which every event since the beginning would count as new.
    """

    last_storage_ids: dict[str, int]
    freshness: str


@dataclass(frozen=True)
class WindowCursor:
    """The state of the window sensor; after a reset it evaluates everything again.

    `done` is the key of a reported window, `last_run_id` the newest run whose outcome was recorded.
    `last_freshness` is the freshness that was reported last (passed, newest completed window,
    milliseconds since 1970), `last_offsets` the last stable offsets of the topic that were reported
    last (their sum, milliseconds since 1970).
    """

    done: str | None = None
    last_run_id: str | None = None
    failure_state: FailureState | None = None
    last_freshness: tuple[bool, str | None, int] | None = None
    last_offsets: tuple[int, int] | None = None


def encode_cursor(cursor: AlertCursor | WindowCursor) -> str:
    """The cursor as JSON."""
    return msgspec.json.encode(cursor).decode()


def decode_alert_cursor(text: str | None) -> AlertCursor | None:
    """The cursor; None if there is none, or if it is not valid in this version."""
    try:
        return msgspec.json.decode(text, type=AlertCursor) if text else None
    except msgspec.DecodeError:
        return None


def decode_window_cursor(text: str | None) -> WindowCursor:
    """The cursor; an empty one if there is none, or if it is not valid in this version."""
    try:
        return (
            msgspec.json.decode(text, type=WindowCursor, strict=False) if text else WindowCursor()
        )
    except msgspec.DecodeError:
        return WindowCursor()

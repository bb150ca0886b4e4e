"""How alerts are sent."""

from collections.abc import Callable, Mapping
from functools import partial

from tidemill.settings import Settings


def make_alert_sender(settings: Settings) -> Callable[[Mapping[str, object]], None] | None:
    """A function that sends an alert as configured; None if alerts are not configured."""
    alerts = settings.alerts
    if alerts.webhook is None and alerts.command is None:
        return None
    from tidemill.adapters.alert import send

    webhook = alerts.webhook.get_secret_value() if alerts.webhook else None
    return partial(send, webhook=webhook, command=alerts.command, timeout=alerts.timeout)

"""The address that a server listens on."""

import ipaddress
import socket

from tidemill.core.errors import OperationNotAllowed, PrerequisiteMissing
from tidemill.settings_groups import ServeSettings


def resolve_address(settings: ServeSettings) -> tuple[str, int]:
    """The IP address and the port to serve on, on which no other process listens.

    Raises `OperationNotAllowed` for a non-loopback address without a token, `PrerequisiteMissing`
    if the address is not available.
    """
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        address = str(socket_address[0])
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Granian shares ports, so a second server on the port would go unnoticed.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, settings.port))
            port = int(probe.getsockname()[1])
    except OSError as error:
        raise PrerequisiteMissing(
            f"The server cannot listen on {settings.host}, port {settings.port}: {error.strerror}.",
            "Choose another address with --host and --port.",
        ) from error
    if settings.token is None and not ipaddress.ip_address(address).is_loopback:
        raise OperationNotAllowed(
            f"{settings.host} is reachable from other machines, and no token is configured.",
            "Set TIDEMILL_SERVE__TOKEN to a secret of at least 16 characters, or serve on "
            "127.0.0.1.",
        )
    return address, port

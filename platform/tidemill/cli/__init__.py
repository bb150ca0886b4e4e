"""The command line: `tidemill COMMAND`."""

from tidemill.cli.app import main

__all__ = ["main"]

"""All commands, and their exit codes.

0: success. 1: a named error. 2: wrong usage, or an invalid defs.yaml or setting. 3: a window is
still open. 4: `verify` has found damage. 130: interrupted.
"""

import importlib.metadata
import re
import sys

import typer
from rich.console import Console

from tidemill.cli import (
    backfill,
    backtest,
    demo,
    inspect,
    kafka,
    ledger,
    manual_actions,
    platform,
    postgres,
    serve,
    simulate,
    ui,
)
from tidemill.core.errors import (
    PrerequisiteMissing,
    SpecInvalid,
    TidemillError,
    VerificationFailed,
    WindowOpen,
)

app = typer.Typer(
    name="tidemill",
    help="Keeps a LightGBM model up to date from a Kafka topic of labelled events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(kafka.app, name="kafka")
app.add_typer(simulate.app, name="simulate")
app.add_typer(ledger.app, name="ledger")
for module in (demo, platform, backfill, manual_actions, inspect, backtest, serve, ui, postgres):
    for command in module.COMMANDS:
        app.command(command.__name__)(command)
app.command("init", hidden=True)(platform.init)
app.add_typer(platform.runs_app, name="runs", hidden=True)

_EXIT_CODES = {SpecInvalid: 2, WindowOpen: 3, VerificationFailed: 4}
_INTERRUPTED_EXIT_CODE = 130  # typer's exit code after Ctrl-C


def main() -> None:
    """Run a command; a named error is printed with its remedy, without a traceback."""
    try:
        _run()
    except TidemillError as error:
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        console.print(f"{type(error).__name__}: {error.message}", style="red")
        console.print(error.remedy.strip())
        sys.exit(next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1))
    except SystemExit as system_exit:
        if system_exit.code == _INTERRUPTED_EXIT_CODE:
            message = (
                "Interrupted. Completed windows are kept; run the same command again to continue."
            )
            print(message, file=sys.stderr)
        raise


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError as error:
        extra = _extra(error.name or "")
        if extra is None:
            raise
        raise PrerequisiteMissing(
            f"This command needs {error.name}, which is not installed here.",
            f"Install tidemill with its extra `{extra}`: `uv pip install 'tidemill[{extra}]'`.",
        ) from error


def _extra(module: str) -> str | None:
    """The extra of tidemill that installs this module, if there is one."""
    package = re.escape(module.partition(".")[0]).replace("_", "[_-]")
    pattern = re.compile(rf"{package}\b.*extra == ['\"]([a-z]+)")
    matches = map(pattern.match, importlib.metadata.requires("tidemill") or ())
    return next((match[1] for match in matches if match), None)

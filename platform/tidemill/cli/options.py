"""Arguments and options of several commands, and how commands print."""

import getpass
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The name of a model: its folder.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, recorded with the decision.")]
Actor = Annotated[
    str,
    typer.Option(
        "--actor", help="Who decides, recorded with the decision.", show_default="the current user"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Deploy = Annotated[
    Literal["each", "last"] | None,
    typer.Option("--deploy", help="Which windows may be deployed; default: as in defs.yaml."),
]

console = Console(highlight=False)


def current_user() -> str:
    """The name of the current user, for the record of a decision."""
    return getpass.getuser()


def print_json(record: object) -> None:
    """Print a record as JSON on standard output, for programs."""
    print(msgspec.json.format(msgspec.json.encode(record), indent=2).decode())


def print_result(record: object, message: str, as_json: bool) -> None:
    """Print the outcome of a decision: the record as JSON, or a sentence."""
    if as_json:
        print_json(record)
    else:
        console.print(message, markup=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their columns; square brackets are text and not markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell).replace("[", r"\[") for cell in row))
    console.print(table)

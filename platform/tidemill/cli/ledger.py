"""`tidemill ledger`: maintenance of the ledger topic."""

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, console, print_json
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.operations.restore import RestoreResult

app = typer.Typer(
    help="Maintenance of the ledger topic.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _ledger() -> None:
    """Keeps `restore` a subcommand."""


@app.command()
def restore(
    model: Annotated[str | None, typer.Argument(metavar="MODEL")] = None, as_json: Json = False
) -> None:
    """Restore the entries of one model, or of all, that the ledger topic has lost.

    The entries are appended from the byte-exact copies in the store. If the command is interrupted
    or repeated, no entry is duplicated.
    """
    from tidemill.cycle.operations.restore import restore as restore_entries

    settings = Settings()
    results: list[RestoreResult] = []
    for name in [model] if model else list(bootstrap.model_files(settings)):
        spec = bootstrap.load_spec(name, settings)
        with bootstrap.open_model(spec, settings, exclusive=True) as ctx:
            results.append(restore_entries(ctx))
            if not as_json:
                console.print(_describe(results[-1]), markup=False, soft_wrap=True)
    if as_json:
        print_json(results)


def _describe(result: "RestoreResult") -> str:
    if not result.appended and not result.moved:
        return f"{result.model}: nothing was lost, {result.entries} valid entries."
    return (
        f"{result.model}: {result.appended} entries restored, {result.entries} valid in topic "
        f"{result.topic_id} of cluster {result.cluster_id}."
    )

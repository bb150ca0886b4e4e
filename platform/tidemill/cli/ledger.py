"""`tidemill ledger`: what is done about the ledger's topic itself."""

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, console, print_json
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.restore import RestoreResult

app = typer.Typer(
    help="The ledger's topic.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _ledger() -> None:
    """Keeps `restore` a command of its own."""


@app.command()
def restore(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None, as_json: Json = False
) -> None:
    """Bring the entries of one model, or of all, back into a ledger topic that has lost them.

    The same bytes are appended again, from the copies in the store. Repeated or interrupted, no
    entry is doubled.
    """
    from tidemill.cycle.restore import restore as bring_back

    settings = Settings()
    results: list[RestoreResult] = []
    for name in [model] if model else list(bootstrap.model_files(settings)):
        with bootstrap.open_model(name, settings, exclusive=True) as ctx:
            results.append(bring_back(ctx))
            if not as_json:
                console.print(_describe(results[-1]), markup=False, soft_wrap=True)
    if as_json:
        print_json(results)


def _describe(result: "RestoreResult") -> str:
    if not result.appended and not result.moved:
        return f"{result.model}: nothing was lost, {result.entries} entries stand."
    return (
        f"{result.model}: {result.appended} entries brought back, {result.entries} stand in topic "
        f"{result.topic_id} of cluster {result.cluster_id}."
    )

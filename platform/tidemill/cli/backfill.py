"""`tidemill backfill`: process a range of windows with the four assets."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tidemill import bootstrap
from tidemill.cli.options import Deploy, Json, ModelName, console, print_json
from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from tidemill.defs.in_process_run import Materialized

_ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")


@dataclass
class BackfillResult:
    """The result of a backfill: the Dagster run, and its duration in total and per window."""

    run_id: str
    seconds: float
    windows: dict[str, float] = field(default_factory=dict)


def backfill(
    model: ModelName,
    first: Annotated[str, typer.Option("--from", help="The first window's key.")],
    last: Annotated[str, typer.Option("--to", help="The last window's key.")],
    select: Annotated[
        list[str] | None,
        typer.Option("--select", help="An asset to materialize; may be repeated; default: all."),
    ] = None,
    deploy: Deploy = None,
    as_json: Json = False,
) -> None:
    """Process the windows --from to --to in one Dagster run; repeating it changes nothing."""
    settings = Settings()
    spec = bootstrap.load_spec(model, settings)
    for name in select or ():
        if name not in _ASSETS:
            raise SpecInvalid(
                f"{name!r} is not an asset of a window.", f"Select from {', '.join(_ASSETS)}."
            )
    result = run_backfill(settings, spec, first, last, select or _ASSETS, deploy, quiet=as_json)
    if as_json:
        print_json(result)
    else:
        console.print(
            f"{model}: {first} to {last} processed in {result.seconds:.1f} s, "
            f"Dagster run {result.run_id[:8]}. See `tidemill status`."
        )


def run_backfill(
    settings: Settings,
    spec: ModelSpec,
    first: str,
    last: str,
    select: Sequence[str] = _ASSETS,
    deploy: Deploy = None,
    *,
    quiet: bool = False,
) -> BackfillResult:
    """Run a backfill on the persistent Dagster instance. Raises the error that failed the run."""
    from tidemill.defs.in_process_run import backfill as launch
    from tidemill.defs.resources import TidemillResource

    calendar = spec.calendar
    windows = list(calendar.between(calendar.window(first), calendar.window(last)))
    started = time.monotonic()
    seconds: dict[str, float] = {}
    with (
        _dagster_instance(settings) as instance,
        _progress_bar(len(windows), max(select, key=_ASSETS.index), quiet) as show_progress,
    ):

        def on_materialized(event: "Materialized") -> None:
            _add_seconds(seconds, event)
            show_progress(event)

        outcome = launch(
            instance,
            spec,
            first,
            last,
            tidemill=TidemillResource(settings),
            selection=select,
            deploy=deploy,
            progress=on_materialized,
        )
    if outcome.error is not None:
        raise outcome.error
    return BackfillResult(outcome.run_id, time.monotonic() - started, seconds)


def _add_seconds(seconds: dict[str, float], event: "Materialized") -> None:
    """Add the duration of a step to that of its window."""
    if event.window is not None:
        elapsed = float(event.metadata.get("seconds") or 0.0)
        seconds[event.window] = seconds.get(event.window, 0.0) + elapsed


@contextmanager
def _dagster_instance(settings: Settings) -> "Iterator[dg.DagsterInstance]":
    """The persistent instance, whose database is running; its errors are translated."""
    os.environ.setdefault("DAGSTER_HOME", str(ensure_dagster_home(settings)))
    from tidemill.defs.dagster_compat import open_instance
    from tidemill.defs.in_process_run import translate_instance_errors

    with (
        bootstrap.local_databases(settings),
        translate_instance_errors(),
        open_instance(os.environ["DAGSTER_HOME"]) as instance,
    ):
        yield instance


@contextmanager
def _progress_bar(
    total: int, last_asset: str, quiet: bool
) -> "Iterator[Callable[[Materialized], None]]":
    """A progress bar on a terminal, one line per window otherwise.

    `last_asset` is the asset that completes a window.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=quiet,
        transient=True,
    )
    with bar:
        task = bar.add_task("windows", total=total, note="initial model")
        notes: list[str] = []

        def on_materialized(event: "Materialized") -> None:
            if event.window is None:
                return
            notes.append(_note(event.asset, event.metadata))
            bar.update(task, note=f"{event.window} {notes[-1]}")
            if event.asset == last_asset:
                bar.advance(task)
                if not quiet and not console.is_terminal:
                    console.print(f"{event.window}  {', '.join(filter(None, notes))}")
                notes.clear()

        yield on_materialized


def _note(asset: str, metadata: "Mapping[str, Any]") -> str:
    """The summary of one asset's materialization."""
    if asset == "kafka_batch":
        return f"{metadata['rows']} rows"
    if asset == "candidate_model":
        return f"{metadata['kind']}"
    if asset == "evaluation_report":
        return f"{metadata['verdict']}"
    return f"{metadata['status']} {metadata['digest'][:8]}"


COMMANDS = (backfill,)

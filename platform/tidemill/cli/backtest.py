"""`tidemill backtest`: evaluate the existing windows with another gate, without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, ModelName, console, print_json, print_table
from tidemill.core.spec_parser import with_gate_overrides
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.operations.backtest import BacktestResult

Gate = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="KEY=VALUE",
        help="A key of `gate`, such as min_effect=0; may be repeated.",
    ),
]
GateFile = Annotated[
    Path | None,
    typer.Option(
        "--gate-file", exists=True, dir_okay=False, help="A YAML file with keys of `gate`."
    ),
]


def backtest(
    model: ModelName,
    gate: Gate = None,
    gate_file: GateFile = None,
    start: Annotated[
        str | None, typer.Option("--from", help="The first window; default: the oldest one.")
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", help="The last window; default: the newest one with a report."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the windows with another gate and compare; the model is not changed."""
    from tidemill.cycle.operations.backtest import backtest as run_backtest
    from tidemill.cycle.operations.backtest import windows_to_backtest

    settings = Settings()
    overrides = [*([gate_file.read_text()] if gate_file else []), *map(_override_yaml, gate or [])]
    spec = bootstrap.load_spec(model, settings)
    changed_spec = with_gate_overrides(spec, overrides)
    with (
        bootstrap.open_model_readonly(spec, settings) as (ctx, scratch),
        console.status("backtesting") as spinner,
    ):
        calendar = ctx.spec.calendar
        windows = windows_to_backtest(
            ctx, calendar.window(start) if start else None, calendar.window(end) if end else None
        )
        result = run_backtest(
            ctx, changed_spec, scratch, windows, lambda key: spinner.update(f"backtesting {key}")
        )
    if as_json:
        print_json(result)
    else:
        _print_result(result)


def _override_yaml(option: str) -> str:
    key, separator, value = option.partition("=")
    if not separator:
        raise typer.BadParameter(
            f"{option!r} is not KEY=VALUE, such as min_effect=0", param_hint="--gate"
        )
    return f"{key}: {value}"


def _print_result(result: "BacktestResult") -> None:
    committed, backtested = result.committed, result.backtested
    gate_changes = ", ".join(f"{key} {was} → {now}" for key, (was, now) in result.changes.items())
    console.print(
        f"{result.model}: {committed.windows} windows, {committed.first} to {committed.last}, "
        f"{committed.rows} rows; gate: {gate_changes or 'unchanged'}",
        markup=False,
    )
    if result.pruned is not None:
        console.print(
            f"Windows up to {result.pruned} were pruned by `retention_windows` and are left out."
        )
    if result.manual_entries:
        console.print(f"Both sides include the {result.manual_entries} manual ledger entries.")
    sides = (committed, backtested)
    baseline_loss = committed.losses["initial"]
    rows = [[name, *(side.verdicts[name] for side in sides)] for name in committed.verdicts]
    names = {
        "champion": "loss as served",
        "initial": "initial model",
        "challenger": "newest candidate",
    }
    for role, name in names.items():
        losses = [side.losses[role] for side in sides]
        rows.append([name, *(f"{loss:.4f} ({loss / baseline_loss - 1:+.2%})" for loss in losses)])
    rows.append(["champion at the end", *(side.champion[:16] for side in sides)])
    print_table(["", "committed", "backtested"], rows)
    if result.verdict_changes:
        print_table(
            ["window", "committed", "backtested", "reason"],
            [
                [
                    change.window,
                    change.committed,
                    change.backtested,
                    "; ".join(change.backtested_reasons),
                ]
                for change in result.verdict_changes
            ],
        )


COMMANDS = (backtest,)

"""`tidemill backtest`: another gate over the windows there are, without training anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, ModelName, console, print_json, print_table
from tidemill.core.spec_parser import with_gate_overrides
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.backtest import BacktestResult


def backtest(
    model: ModelName,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="KEY=VALUE", help="A key of `gate`; may be repeated."),
    ] = None,
    gate_file: Annotated[
        Path | None,
        typer.Option(
            "--gate-file", exists=True, dir_okay=False, help="The keys of `gate` as YAML."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="The first window; default: the first there is.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="The last window; default: the newest reported.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the windows again by another gate and compare; the model itself is not touched."""
    from tidemill.cycle.backtest import backtest as judge_again
    from tidemill.cycle.backtest import windows_to_backtest

    settings = Settings()
    overrides = [*([gate_file.read_text()] if gate_file else []), *map(_override_yaml, gate or [])]
    spec = with_gate_overrides(bootstrap.load_spec(model, settings), overrides)
    with (
        bootstrap.open_model_readonly(model, settings) as (ctx, scratch),
        console.status("judging again") as spinner,
    ):
        calendar = ctx.spec.calendar
        windows = windows_to_backtest(
            ctx, calendar.window(start) if start else None, calendar.window(end) if end else None
        )
        result = judge_again(
            ctx, spec, scratch, windows, lambda key: spinner.update(f"judging {key} again")
        )
    if as_json:
        print_json(result)
    else:
        _print_result(result)


def _override_yaml(option: str) -> str:
    key, separator, value = option.partition("=")
    if not separator:
        raise typer.BadParameter(
            f"{option!r} is no KEY=VALUE, such as min_effect=0", param_hint="--gate"
        )
    return f"{key}: {value}"


def _print_result(result: "BacktestResult") -> None:
    committed, backtested = result.committed, result.backtested
    gate_changes = ", ".join(f"{key} {was} → {now}" for key, (was, now) in result.changes.items())
    console.print(
        f"{result.model}: {committed.windows} windows, {committed.first} to {committed.last}, "
        f"{committed.rows} rows; gate: {gate_changes or 'as it is'}",
        markup=False,
    )
    if result.pruned is not None:
        console.print(
            f"Windows up to {result.pruned} are pruned by `retention_windows` and are not judged again."
        )
    if result.manual_entries:
        console.print(f"Both gates take the {result.manual_entries} entries that persons made.")
    sides = (committed, backtested)
    baseline_loss = committed.losses["initial"]
    rows = [[name, *(side.verdicts[name] for side in sides)] for name in committed.verdicts]
    names = {"champion": "loss as served", "initial": "initial model", "challenger": "newest"}
    for role, name in names.items():
        losses = [side.losses[role] for side in sides]
        rows.append([name, *(f"{loss:.4f} ({loss / baseline_loss - 1:+.2%})" for loss in losses)])
    rows.append(["champion at the end", *(side.champion[:16] for side in sides)])
    print_table(["", "committed", "replayed"], rows)
    if result.verdict_changes:
        print_table(
            ["window", "committed", "replayed", "why"],
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

"""`tidemill replay`: another gate over the windows there are, without training anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, ModelName, console, print_json, print_table
from tidemill.core.specfile import with_gate_overrides
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.replay_gate import BacktestResult


def replay(
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
    from tidemill.cycle.replay_gate import backtest as judge_again
    from tidemill.cycle.replay_gate import windows_to_backtest

    settings = Settings()
    texts = [*([gate_file.read_text()] if gate_file else []), *map(_line, gate or [])]
    spec = with_gate_overrides(bootstrap.load_spec(model, settings), texts)
    with (
        bootstrap.open_model_readonly(model, settings) as (mill, scratch),
        console.status("judging again") as shown,
    ):
        calendar = mill.spec.calendar
        windows = windows_to_backtest(
            mill, calendar.window(start) if start else None, calendar.window(end) if end else None
        )
        told = judge_again(
            mill, spec, scratch, windows, lambda key: shown.update(f"judging {key} again")
        )
    if as_json:
        print_json(told)
    else:
        _show(told)


def _line(option: str) -> str:
    key, equals, value = option.partition("=")
    if not equals:
        raise typer.BadParameter(
            f"{option!r} is no KEY=VALUE, such as min_effect=0", param_hint="--gate"
        )
    return f"{key}: {value}"


def _show(told: "BacktestResult") -> None:
    committed, replayed = told.committed, told.backtested
    changed = ", ".join(f"{key} {was} → {now}" for key, (was, now) in told.changes.items())
    console.print(
        f"{told.model}: {committed.windows} windows, {committed.first} to {committed.last}, "
        f"{committed.rows} rows; gate: {changed or 'as it is'}",
        markup=False,
    )
    if told.pruned is not None:
        console.print(
            f"Windows up to {told.pruned} are pruned by `keep_windows` and are not judged again."
        )
    if told.manual_entries:
        console.print(f"Both gates take the {told.manual_entries} entries that persons made.")
    sides = (committed, replayed)
    base = committed.losses["initial"]
    rows = [[name, *(side.verdicts[name] for side in sides)] for name in committed.verdicts]
    names = {"champion": "loss as served", "initial": "initial model", "challenger": "newest"}
    for role, name in names.items():
        losses = [side.losses[role] for side in sides]
        rows.append([name, *(f"{x:.4f} ({x / base - 1:+.2%})" for x in losses)])
    rows.append(["champion at the end", *(side.champion[:16] for side in sides)])
    print_table(["", "committed", "replayed"], rows)
    if told.verdict_changes:
        print_table(
            ["window", "committed", "replayed", "why"],
            [
                [d.window, d.committed, d.backtested, "; ".join(d.backtested_reasons)]
                for d in told.verdict_changes
            ],
        )


COMMANDS = (replay,)

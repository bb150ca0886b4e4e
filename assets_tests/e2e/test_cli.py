"""The command line: manual decisions, exit codes, and errors of one sentence."""

import json
import subprocess
from dataclasses import dataclass, replace
from typing import Any

import pytest

from support.models import oracle
from support.models.harness import MINUTE, START, ModelHarness, events, run_window, run_windows
from support.processes.commands import run_command
from tidemill.cycle.steps.initial import initial

pytestmark = pytest.mark.faults

EXIT_OK, EXIT_FAULT, EXIT_USAGE, EXIT_WINDOW_OPEN, EXIT_DAMAGE = 0, 1, 2, 3, 4


@dataclass
class Shell:
    """Runs commands with the environment of a harness."""

    harness: ModelHarness

    def __call__(self, *args: str) -> "subprocess.CompletedProcess[str]":
        return run_command(self.harness.env, "tidemill", *args)

    def json(self, *args: str) -> Any:
        result = self(*args, "--json")
        assert result.returncode == EXIT_OK, result.stdout + result.stderr
        return json.loads(result.stdout)

    def error_output(self, code: int, name: str, *args: str) -> str:
        """The output of a command that fails with this exit code and error: the name, what is wrong
        and the remedy, without a traceback."""
        result = self(*args)
        assert result.returncode == code, result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        lines = result.stderr.strip().splitlines()
        assert lines[0].startswith(f"{name}: ")
        assert len(lines) >= 2  # the error, then the remedy
        assert all(line.rstrip().endswith((".", "?")) for line in (lines[0], lines[-1]))
        return result.stderr


@pytest.fixture
def shell(harness: ModelHarness) -> Shell:
    return Shell(harness)


def with_flipped_label(value: bytes) -> bytes:
    """The event with the other label."""
    event = json.loads(value)
    return json.dumps(event | {"bought": not event["bought"]}).encode()


def test_a_candidate_is_approved_manually_and_rolled_back(shell: Shell) -> None:
    harness = shell.harness
    harness.define(gate={"policy": "manual"})
    harness.produce_windows(-3, -1)
    for number in range(9):  # from now on the labels are inverted
        flipped = [(ms, with_flipped_label(value)) for ms, value in events(number)]
        harness.produce(number % 2, flipped)
        flipped = [(ms, with_flipped_label(value)) for ms, value in events(number, seed=1)]
        harness.produce(1 - number % 2, flipped)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 5)
        assert [s.entry.seq for s in ctx.chain().entries] == [0]
    (status,) = (row for row in shell.json("status") if row["model"] == harness.model)
    pending, first = status["awaits_approval"], status["in_service"]
    assert pending not in (None, first)

    approved = shell.json("approve", harness.model, "--reason", "it looks right", "--actor", "ada")
    assert (approved["kind"], approved["digest"]) == ("approve", pending)
    shell.error_output(
        EXIT_FAULT, "OperationNotAllowed", "approve", harness.model, pending, "--reason", "again"
    )

    back = shell.json(
        "rollback", harness.model, "--to", first, "--reason", "sales fell", "--actor", "bob"
    )
    assert (back["kind"], back["digest"], back["actor"]) == ("rollback", first, "bob")
    assert "is in service" in shell.error_output(
        EXIT_FAULT, "OperationNotAllowed", "rollback", harness.model, "--reason", "once more"
    )
    assert "was never deployed" in shell.error_output(
        EXIT_FAULT,
        "OperationNotAllowed",
        "rollback",
        harness.model,
        "--to",
        "0" * 64,
        "--reason",
        "no such",
    )
    history = shell.json("history", harness.model)
    assert [(e["seq"], e["kind"], e["reason"]) for e in history] == [
        (0, "deploy", "the initial model"),
        (1, "approve", "it looks right"),
        (2, "rollback", "sales fell"),
    ]
    with harness.open_model() as ctx:  # the manual decisions are taken over and not undone
        run_window(ctx, 6)
        report = ctx.repository.report(harness.window(6).key)
        assert report is not None
        assert [(e.kind, e.digest) for e in report.entries] == [
            ("approve", pending),
            ("rollback", first),
        ]
        assert (report.opening_state.mode, report.opening_state.champion) == ("RECOVERY", first)
        assert ctx.chain().head is not None
    oracle.assert_consistent(harness)


def test_an_unlearnable_window_is_skipped_and_the_last_window_closed(shell: Shell) -> None:
    harness = shell.harness
    harness.produce_windows(-3, 0)
    harness.produce(0, [(START + 6 * MINUTE, b"{")] * 100)
    harness.produce_windows(2, 2)
    zero, one, two = (harness.window(number).key for number in range(3))
    between = ("--from", zero, "--to", two)
    error = shell.error_output(EXIT_FAULT, "TooManyRejects", "backfill", harness.model, *between)
    assert one in error
    assert f"tidemill skip {harness.model} {one} --reason REASON" in error

    skipped = shell.json(
        "skip", harness.model, one, "--reason", "the logger broke", "--actor", "ada"
    )
    assert skipped["skipped"] == {"actor": "ada", "reason": "the logger broke"}
    assert skipped["rows"] == 0
    assert "has a batch" in shell.error_output(
        EXIT_FAULT, "OperationNotAllowed", "skip", harness.model, zero, "--reason", "x"
    )

    error = shell.error_output(EXIT_WINDOW_OPEN, "WindowOpen", "backfill", harness.model, *between)
    assert f"tidemill close {harness.model} --through {two}" in error
    closed = shell.json("close", harness.model, "--through", two, "--actor", "ada")
    assert (closed["window"], closed["closed_by"]) == (two, "ada")
    assert set(shell.json("backfill", harness.model, *between)["windows"]) == {zero, one, two}
    assert shell.json("verify", harness.model, "--recompute")["recomputed"] == 3


def test_wrong_usage_exits_with_its_code_and_one_sentence(shell: Shell) -> None:
    harness = shell.harness
    key = harness.window(0).key
    only_window = ("--from", key, "--to", key)
    assert harness.model in shell.error_output(
        EXIT_FAULT, "UnknownModel", "backfill", "nomodel", *only_window
    )
    assert shell("backfill").returncode == EXIT_USAGE
    assert shell("no-such-command").returncode == EXIT_USAGE
    error = shell.error_output(
        EXIT_FAULT, "UnknownWindow", "backfill", harness.model, "--from", "2026-01-01", "--to", key
    )
    assert key in error
    shell.error_output(
        EXIT_USAGE, "SpecInvalid", "backfill", harness.model, *only_window, "--select", "kafka"
    )
    shell.error_output(
        EXIT_FAULT, "OperationNotAllowed", "approve", harness.model, "--reason", "no candidate"
    )

    assert shell("validate", harness.model).returncode == EXIT_OK
    harness.define(gate={"polcy": "manual"})
    error = shell.error_output(EXIT_USAGE, "SpecInvalid", "validate")
    assert "defs.yaml:" in error
    assert "did you mean `policy`?" in error
    harness.define(topic="nowhere")
    shell.error_output(EXIT_FAULT, "TopicMissing", "backfill", harness.model, *only_window)
    unreachable = replace(harness, bootstrap_servers="127.0.0.1:1")
    env = unreachable.env | {"TIDEMILL_KAFKA__TIMEOUT": "2"}
    done = run_command(env, "tidemill", "history", harness.model)
    assert done.returncode == EXIT_FAULT
    assert done.stderr.splitlines()[0].startswith("LogUnavailable: Kafka at 127.0.0.1:1 ")
    assert "Traceback" not in done.stderr


def test_verify_exits_with_4_and_names_damaged_files(shell: Shell) -> None:
    harness = shell.harness
    harness.produce_windows(-3, 1)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        manifest = ctx.repository.manifest(harness.window(0).key)
        assert manifest is not None
        assert manifest.rows_file is not None
    assert shell("verify", harness.model).returncode == EXIT_OK
    damaged = harness.settings.store / harness.model / manifest.rows_file.name
    data = damaged.read_bytes()
    damaged.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert manifest.rows_file.name in shell.error_output(
        EXIT_DAMAGE, "VerificationFailed", "verify", harness.model
    )
    done = shell("verify", harness.model, "--json")
    assert done.returncode == EXIT_DAMAGE
    assert any(
        manifest.rows_file.name in finding for finding in json.loads(done.stdout)["findings"]
    )

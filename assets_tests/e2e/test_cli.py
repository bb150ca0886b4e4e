"""The command line: persons' decisions, exit codes, and errors of one sentence."""

import json
import subprocess
from dataclasses import dataclass, replace
from typing import Any

import pytest

import oracle
from bench import MINUTE, START, Bench, events, run, turn
from commands import command
from tidemill.cycle.initial import initial

pytestmark = pytest.mark.faults

DONE, FAULT, USAGE, OPEN, DAMAGE = 0, 1, 2, 3, 4


@dataclass
class Shell:
    """Where the commands are typed."""

    bench: Bench

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return command(self.bench.environment, "tidemill", *words)

    def json(self, *words: str) -> Any:
        done = self(*words, "--json")
        assert done.returncode == DONE, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refused(self, code: int, name: str, *words: str) -> str:
        """The error of a command that ends so: its name, what is wrong and what mends it, and no
        traceback."""
        done = self(*words)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        lines = done.stderr.strip().splitlines()
        assert lines[0].startswith(f"{name}: ")
        assert len(lines) >= 2  # the fault, then the remedy
        assert all(line.rstrip().endswith((".", "?")) for line in (lines[0], lines[-1]))
        return done.stderr


@pytest.fixture
def shell(bench: Bench) -> Shell:
    return Shell(bench)


def turned(value: bytes) -> bytes:
    """The event with the other label."""
    event = json.loads(value)
    return json.dumps(event | {"bought": not event["bought"]}).encode()


def test_a_person_approves_what_awaits_approval_and_rolls_it_back(shell: Shell) -> None:
    bench = shell.bench
    bench.define(gate={"policy": "manual"})
    bench.feed(-3, -1)
    for number in range(9):  # from now on people buy what they did not
        bench.put(number % 2, [(at, turned(value)) for at, value in events(number)])
        bench.put(1 - number % 2, [(at, turned(value)) for at, value in events(number, seed=1)])
    with bench.mill() as mill:
        run(mill, 0, 5)
        assert [s.entry.seq for s in mill.chain().entries] == [0]
    (status,) = (row for row in shell.json("status") if row["model"] == bench.model)
    pending, first = status["awaits_approval"], status["in_service"]
    assert pending not in (None, first)

    approved = shell.json("approve", bench.model, "--why", "it looks right", "--by", "ada")
    assert (approved["kind"], approved["digest"]) == ("approve", pending)
    shell.refused(FAULT, "Refused", "approve", bench.model, pending, "--why", "again")

    back = shell.json("rollback", bench.model, "--to", first, "--why", "sales fell", "--by", "bob")
    assert (back["kind"], back["digest"], back["by"]) == ("rollback", first, "bob")
    assert "is in service" in shell.refused(
        FAULT, "Refused", "rollback", bench.model, "--why", "once more"
    )
    assert "was never deployed" in shell.refused(
        FAULT, "Refused", "rollback", bench.model, "--to", "0" * 64, "--why", "no such"
    )
    history = shell.json("history", bench.model)
    assert [(e["seq"], e["kind"], e["why"]) for e in history] == [
        (0, "deploy", "the initial model"),
        (1, "approve", "it looks right"),
        (2, "rollback", "sales fell"),
    ]
    with bench.mill() as mill:  # the persons' decisions are taken up, not undone
        turn(mill, 6)
        report = mill.repository.report(bench.window(6).key)
        assert report is not None
        assert [(e.kind, e.digest) for e in report.entries] == [
            ("approve", pending),
            ("rollback", first),
        ]
        assert (report.opening_state.mode, report.opening_state.champion) == ("RECOVERY", first)
        assert mill.chain().head is not None
    oracle.check(bench)


def test_a_window_that_cannot_be_learned_is_skipped_and_the_end_is_closed(shell: Shell) -> None:
    bench = shell.bench
    bench.feed(-3, 0)
    bench.put(0, [(START + 6 * MINUTE, b"{")] * 100)
    bench.feed(2, 2)
    zero, one, two = (bench.window(number).key for number in range(3))
    between = ("--from", zero, "--to", two)
    told = shell.refused(FAULT, "TooManyRejects", "backfill", bench.model, *between)
    assert one in told
    assert f"tidemill skip {bench.model} {one} --why REASON" in told

    skipped = shell.json("skip", bench.model, one, "--why", "the logger broke", "--by", "ada")
    assert skipped["skipped"] == {"by": "ada", "why": "the logger broke"}
    assert skipped["rows"] == 0
    assert "has a batch" in shell.refused(FAULT, "Refused", "skip", bench.model, zero, "--why", "x")

    told = shell.refused(OPEN, "WindowOpen", "backfill", bench.model, *between)
    assert f"tidemill close {bench.model} --through {two}" in told
    closed = shell.json("close", bench.model, "--through", two, "--by", "ada")
    assert (closed["window"], closed["closed_by"]) == (two, "ada")
    assert set(shell.json("backfill", bench.model, *between)["windows"]) == {zero, one, two}
    assert shell.json("verify", bench.model, "--recompute")["recomputed"] == 3


def test_every_wrong_use_ends_with_its_code_and_one_sentence(shell: Shell) -> None:
    bench = shell.bench
    key = bench.window(0).key
    there = ("--from", key, "--to", key)
    assert bench.model in shell.refused(FAULT, "UnknownModel", "backfill", "nomodel", *there)
    assert shell("backfill").returncode == USAGE
    assert shell("no-such-command").returncode == USAGE
    told = shell.refused(
        FAULT, "UnknownWindow", "backfill", bench.model, "--from", "2026-01-01", "--to", key
    )
    assert key in told
    shell.refused(USAGE, "SpecInvalid", "backfill", bench.model, *there, "--select", "kafka")
    shell.refused(FAULT, "Refused", "approve", bench.model, "--why", "nothing is there")

    assert shell("check", bench.model).returncode == DONE
    bench.define(gate={"polcy": "manual"})
    told = shell.refused(USAGE, "SpecInvalid", "check")
    assert "defs.yaml:" in told
    assert "did you mean `policy`?" in told
    bench.define(topic="nowhere")
    shell.refused(FAULT, "TopicMissing", "backfill", bench.model, *there)
    away = Shell(replace(bench, servers="127.0.0.1:1"))
    away_environment = away.bench.environment | {"TIDEMILL_KAFKA__TIMEOUT": "2"}
    done = command(away_environment, "tidemill", "history", bench.model)
    assert done.returncode == FAULT
    assert done.stderr.splitlines()[0].startswith("LogUnavailable: Kafka at 127.0.0.1:1 ")
    assert "Traceback" not in done.stderr


def test_verify_ends_with_4_and_names_what_is_damaged(shell: Shell) -> None:
    bench = shell.bench
    bench.feed(-3, 1)
    with bench.mill() as mill:
        initial(mill)
        turn(mill, 0)
        name = mill.repository.manifest(bench.window(0).key)
        assert name is not None
        assert name.rows_file is not None
    assert shell("verify", bench.model).returncode == DONE
    damaged = bench.settings.store / bench.model / name.rows_file.name
    data = damaged.read_bytes()
    damaged.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert name.rows_file.name in shell.refused(DAMAGE, "VerifyFailed", "verify", bench.model)
    done = shell("verify", bench.model, "--json")
    assert done.returncode == DAMAGE
    assert any(name.rows_file.name in finding for finding in json.loads(done.stdout)["findings"])

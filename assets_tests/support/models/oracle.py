"""The oracle after every fault: verify, recompute, and an independent reader of Kafka's log."""

import os
import re
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

from support.models.harness import ModelHarness
from tidemill.adapters.memory.store import MemoryStore
from tidemill.cycle.audit.recompute import recompute
from tidemill.cycle.audit.verification import VerificationReport
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository
from tidemill.local.broker.jars import classpath, java, lockfile_folder

_BATCH = re.compile(r"baseOffset: \d+ .*producerId: (-?\d+) .*isTransactional: (\w+)")
_RECORD = re.compile(r"\| offset: (\d+) (?:.* endTxnMarker: (\w+))?")
_DUMPER = "org.apache.kafka.tools.DumpLogSegments"


def assert_consistent(harness: ModelHarness) -> VerificationReport:
    """As `assert_verified`, for the model of a harness."""
    with harness.open_model() as ctx:
        return assert_verified(ctx)


def assert_verified(ctx: ModelContext) -> VerificationReport:
    """Assert that `verify` has no finding, nor has recomputing everything; the report."""
    report = verify(ctx)
    assert report.findings == []
    recompute(ctx, ModelRepository(MemoryStore(), ctx.model), report, lambda _: None)
    assert report.findings == []
    return report


def assert_matches_log(harness: ModelHarness, broker_folder: Path) -> int:
    """Assert that each batch of the current topic has exactly the records of its plan's ranges.

    `broker_folder` is the folder of the broker, whose files are read with Kafka's DumpLogSegments.
    Returns the number of records.
    """
    folders = [broker_folder / "data" / f"{harness.model}-{p}" for p in range(harness.partitions)]
    with harness.open_model() as ctx:
        return assert_repository_matches_log(
            ctx.repository, folders, ctx.event_log.topic(harness.model).topic_id
        )


def assert_repository_matches_log(
    repository: ModelRepository, partitions: list[Path], topic_id: str | None = None
) -> int:
    """As `assert_matches_log`, for the folders of a topic's partitions.

    With `topic_id`, batches of other topics are ignored.
    """
    offsets_by_partition = [committed_offsets(folder) for folder in partitions]
    total = 0
    keys = sorted({name.split("/")[1] for name in repository.names("batches/")})
    for key in keys:
        plan, manifest = repository.plan(key), repository.manifest(key)
        assert plan is not None
        assert manifest is not None
        if plan.topic_id != (topic_id or plan.topic_id):
            continue
        in_ranges = sum(
            r.start <= o < r.end for r in plan.ranges for o in offsets_by_partition[r.partition]
        )
        if manifest.skipped is None:
            assert manifest.rows + manifest.rejected == in_ranges
            assert manifest.gaps == plan.offset_count - in_ranges
        total += in_ranges
    assert total > 0
    return total


@cache
def log_reader_jars() -> list[Path]:
    """The jars of Kafka's DumpLogSegments, downloaded if needed."""
    return [*classpath(lockfile_folder()), *classpath(Path(__file__).parent / "log_reader")]


def committed_offsets(folder: Path) -> list[int]:
    """The offsets of a partition's data records, without those of aborted and open transactions."""
    files = ",".join(str(file) for file in sorted(folder.glob("*.log")))
    quick = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    jars = os.pathsep.join(map(str, log_reader_jars()))
    program = [str(java(lockfile_folder())), *quick, "-cp", jars, _DUMPER]
    result = subprocess.run(
        [*program, "--deep-iteration", "--files", files], capture_output=True, text=True, check=True
    )
    offsets: list[int] = []
    open_transactions: defaultdict[str, list[int]] = defaultdict(list)
    producer, target = "", offsets
    for line in result.stdout.splitlines():
        if batch := _BATCH.match(line):
            producer = batch[1]
            target = open_transactions[producer] if batch[2] == "true" else offsets
        elif record := _RECORD.match(line):
            if record[2] is None:
                target.append(int(record[1]))
                continue
            transaction = open_transactions.pop(producer, [])
            offsets += transaction if record[2] == "COMMIT" else []
    return sorted(offsets)

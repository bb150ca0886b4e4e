"""The oracle after every fault: verify, recompute, and Kafka's own reading of its log."""

import os
import re
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

from bench import Bench
from tidemill.adapters.broker.jars import classpath, java, lockfile_folder
from tidemill.adapters.memory.store import MemoryStore
from tidemill.cycle.archive import ModelRepository
from tidemill.cycle.recompute import recompute
from tidemill.cycle.verify import VerificationReport, verify

_BATCH = re.compile(r"baseOffset: \d+ .*producerId: (-?\d+) .*isTransactional: (\w+)")
_RECORD = re.compile(r"\| offset: (\d+) (?:.* endTxnMarker: (\w+))?")
_DUMPER = "org.apache.kafka.tools.DumpLogSegments"


def check(bench: Bench) -> VerificationReport:
    """Nothing that is stored is found wrong, nor comes out otherwise when made again."""
    with bench.mill() as mill:
        found = verify(mill)
        assert found.findings == []
        recompute(mill, ModelRepository(MemoryStore(), mill.model), found, lambda _: None)
        assert found.findings == []
    return found


def check_against_the_log(bench: Bench, broker: Path) -> int:
    """Every batch of the topic that is there holds or rejects just what lies in its plan's ranges.

    `broker` is the folder of the broker; the reader is Kafka's DumpLogSegments over its files.
    Gives the number of records.
    """
    folders = [broker / "data" / f"{bench.model}-{p}" for p in range(bench.partitions)]
    with bench.mill() as mill:
        return check_archive(mill.repository, folders, mill.event_log.topic(bench.model).topic_id)


def check_archive(archive: ModelRepository, partitions: list[Path], topic_id: str | None = None) -> int:
    """As `check_against_the_log`, over the folders of a topic's partitions; where a topic's id is
    told, the batches of others are left out."""
    held = [committed(folder) for folder in partitions]
    counted = 0
    keys = sorted({name.split("/")[1] for name in archive.names("batches/")})
    for key in keys:
        plan, manifest = archive.plan(key), archive.manifest(key)
        assert plan is not None
        assert manifest is not None
        if plan.topic_id != (topic_id or plan.topic_id):
            continue
        within = sum(r.start <= o < r.end for r in plan.ranges for o in held[r.partition])
        if manifest.skipped is None:
            assert manifest.rows + manifest.rejected == within
            assert manifest.gaps == plan.offset_count - within
        counted += within
    assert counted > 0
    return counted


@cache
def reader() -> list[Path]:
    """The jars of Kafka's own reader, brought here if need be."""
    return [*classpath(lockfile_folder()), *classpath(Path(__file__).parent / "log_reader")]


def committed(folder: Path) -> list[int]:
    """The offsets of a partition's data records that no transaction aborted or holds open."""
    files = ",".join(str(file) for file in sorted(folder.glob("*.log")))
    quick = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    jars = os.pathsep.join(map(str, reader()))
    program = [str(java(lockfile_folder())), *quick, "-cp", jars, _DUMPER]
    done = subprocess.run(
        [*program, "--deep-iteration", "--files", files], capture_output=True, text=True, check=True
    )
    found: list[int] = []
    open_: defaultdict[str, list[int]] = defaultdict(list)
    producer, kind = "", found
    for line in done.stdout.splitlines():
        if batch := _BATCH.match(line):
            producer = batch[1]
            kind = open_[producer] if batch[2] == "true" else found
        elif record := _RECORD.match(line):
            if record[2] is None:
                kind.append(int(record[1]))
                continue
            ended = open_.pop(producer, [])
            found += ended if record[2] == "COMMIT" else []
    return sorted(found)

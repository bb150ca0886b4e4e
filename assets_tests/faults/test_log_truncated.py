"""The log cut back below a committed end: this stream halts, and committed windows stand."""

import shutil
import signal

import pytest

import oracle
from bench import Bench, named, run, turn
from commands import until
from kafka_nodes import kafka_nodes
from kept import stamps
from log_hands import ends
from tidemill.core.errors import LogTruncated
from tidemill.cycle.extract import extract
from tidemill.cycle.plan import plan_window
from tidemill.cycle.verify import verify

pytestmark = pytest.mark.faults


def test_a_log_that_came_back_shorter_halts_its_stream_and_harms_no_committed_window(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Row 9: the topic's folders are put back as they were some windows ago, as from a backup."""
    home, copies = tmp_path_factory.mktemp("cut"), tmp_path_factory.mktemp("copies")
    with kafka_nodes(tmp_path_factory.mktemp("node"), 1) as (node,):
        bench = Bench(f"127.0.0.1:{node.inner}", home, named(request.node.nodeid))
        bench.define()
        bench.create_topic()
        bench.feed(-3, 0)
        folders = [f"{bench.model}-{partition}" for partition in range(bench.partitions)]
        node.signal(signal.SIGTERM)
        for folder in folders:
            shutil.copytree(node.data / folder, copies / folder)
        node.start()
        until(node.answers, 60, node.said)
        bench.feed(1, 4)
        with bench.mill() as mill:
            run(mill, 0, 2)
            committed = plan_window(mill, bench.window(2)).end_offsets
            plan_window(mill, bench.window(3))
        before = stamps(bench)
        node.signal(signal.SIGTERM)
        for folder in folders:
            shutil.rmtree(node.data / folder)
            shutil.copytree(copies / folder, node.data / folder)
        node.start()
        until(node.answers, 60, node.said)

        with bench.mill() as mill:
            cut = ends(bench)
            assert all(cut[p] < end for p, end in committed.items())
            for number in (3, 4):  # planned, and not planned
                with pytest.raises(LogTruncated, match=rf"ends at offset {cut[0]}\b") as told:
                    extract(mill, bench.window(number))
            assert f"tidemill adopt {bench.model} --from" in told.value.remedy
            assert turn(mill, 2).status == "unchanged"
            assert verify(mill).findings == []
        assert stamps(bench) == before
        found = oracle.check(bench)
        assert found.taken_as_archived == [bench.window(n).key for n in (1, 2)]

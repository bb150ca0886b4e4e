"""The log cut back below a committed end: this stream halts, and committed windows stand."""

import shutil
import signal

import pytest

import oracle
from kafka_nodes import kafka_cluster
from model_harness import ModelHarness, model_name_for, run_window, run_windows
from processes import wait_until
from store_snapshot import file_stamps
from tidemill.core.errors import LogTruncated
from tidemill.cycle.extract import extract
from tidemill.cycle.plan import plan_window
from tidemill.cycle.verify import verify
from topic_tools import end_offsets

pytestmark = pytest.mark.faults


def test_a_log_that_came_back_shorter_halts_its_stream_and_harms_no_committed_window(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Row 9: the topic's folders are put back as they were some windows ago, as from a backup."""
    home, copies = tmp_path_factory.mktemp("cut"), tmp_path_factory.mktemp("copies")
    with kafka_cluster(tmp_path_factory.mktemp("node"), 1) as (node,):
        bench = ModelHarness(
            f"127.0.0.1:{node.direct_port}", home, model_name_for(request.node.nodeid)
        )
        bench.define()
        bench.create_topic()
        bench.produce_windows(-3, 0)
        folders = [f"{bench.model}-{partition}" for partition in range(bench.partitions)]
        node.send_signal(signal.SIGTERM)
        for folder in folders:
            shutil.copytree(node.log_dir / folder, copies / folder)
        node.start()
        wait_until(node.is_ready, 60, node.log_tail)
        bench.produce_windows(1, 4)
        with bench.open_model() as mill:
            run_windows(mill, 0, 2)
            committed = plan_window(mill, bench.window(2)).end_offsets
            plan_window(mill, bench.window(3))
        before = file_stamps(bench)
        node.send_signal(signal.SIGTERM)
        for folder in folders:
            shutil.rmtree(node.log_dir / folder)
            shutil.copytree(copies / folder, node.log_dir / folder)
        node.start()
        wait_until(node.is_ready, 60, node.log_tail)

        with bench.open_model() as mill:
            cut = end_offsets(bench)
            assert all(cut[p] < end for p, end in committed.items())
            for number in (3, 4):  # planned, and not planned
                with pytest.raises(LogTruncated, match=rf"ends at offset {cut[0]}\b") as told:
                    extract(mill, bench.window(number))
            assert f"tidemill adopt {bench.model} --from" in told.value.remedy
            assert run_window(mill, 2).status == "unchanged"
            assert verify(mill).findings == []
        assert file_stamps(bench) == before
        found = oracle.assert_consistent(bench)
        assert found.taken_as_archived == [bench.window(n).key for n in (1, 2)]

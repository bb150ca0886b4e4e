"""The log is truncated below a committed end: the stream halts, committed windows are kept."""

import shutil
import signal

import pytest

from faults.kafka_nodes import kafka_cluster
from faults.topics import end_offsets
from support.models import oracle
from support.models.harness import ModelHarness, model_name_for, run_window, run_windows
from support.models.store_snapshot import file_stamps
from support.processes.commands import wait_until
from tidemill.core.errors import LogTruncated
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract

pytestmark = pytest.mark.faults


def test_a_truncated_log_halts_its_stream_and_harms_no_committed_window(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Fault 9: the topic's folders are replaced with an earlier copy, as from a backup."""
    home, copies = tmp_path_factory.mktemp("truncated"), tmp_path_factory.mktemp("copies")
    with kafka_cluster(tmp_path_factory.mktemp("node"), 1) as (node,):
        harness = ModelHarness(
            f"127.0.0.1:{node.direct_port}", home, model_name_for(request.node.nodeid)
        )
        harness.define()
        harness.create_topic()
        harness.produce_windows(-3, 0)
        folders = [f"{harness.model}-{partition}" for partition in range(harness.partitions)]
        node.send_signal(signal.SIGTERM)
        for folder in folders:
            shutil.copytree(node.log_dir / folder, copies / folder)
        node.start()
        wait_until(node.is_ready, 60, on_timeout=node.log_tail)
        harness.produce_windows(1, 4)
        with harness.open_model() as ctx:
            run_windows(ctx, 0, 2)
            committed = plan_window(ctx, harness.window(2)).end_offsets
            plan_window(ctx, harness.window(3))
        before = file_stamps(harness)
        node.send_signal(signal.SIGTERM)
        for folder in folders:
            shutil.rmtree(node.log_dir / folder)
            shutil.copytree(copies / folder, node.log_dir / folder)
        node.start()
        wait_until(node.is_ready, 60, on_timeout=node.log_tail)

        with harness.open_model() as ctx:
            cut = end_offsets(harness)
            assert all(cut[p] < end for p, end in committed.items())
            for number in (3, 4):  # planned and not planned
                with pytest.raises(LogTruncated, match=rf"ends at offset {cut[0]}\b") as error:
                    extract(ctx, harness.window(number))
            assert f"tidemill adopt {harness.model} --from" in error.value.remedy
            assert run_window(ctx, 2).status == "unchanged"
            assert verify(ctx).findings == []
        assert file_stamps(harness) == before
        report = oracle.assert_consistent(harness)
        assert report.taken_as_archived == [harness.window(n).key for n in (1, 2)]

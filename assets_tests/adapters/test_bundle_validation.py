"""A damaged bundle may kill a child, but never the process that requests the validation."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from support.serving.bundle_mutations import with_excessive_golden_rows
from tidemill.adapters.bundle_validation.fork_server import ForkServerValidator
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.memory import InProcessValidator
from tidemill.core import learner
from tidemill.core.errors import BundleInvalid, FeatureSkew, SpecInvalid
from tidemill.core.features import FeatureFunction
from tidemill.core.spec import ModelSpec
from tidemill.ports import BundleValidator


def make_bundle(trees: int = 30, function: FeatureFunction | None = None) -> bytes:
    draw = np.random.default_rng(0)
    size = draw.normal(size=800)
    frame = pl.DataFrame(
        {
            "_partition": pl.Series([0] * 800, dtype=pl.Int32),
            "_offset": range(800),
            "_timestamp": range(800),
            "size": size,
            "place": [f"p{i % 7}" for i in range(800)],
            "late": (size + draw.normal(size=800) > 0).astype(np.float64),
        }
    )
    spec = ModelSpec.create(
        "m",
        {
            "topic": "t",
            "fields": {"size": "number", "place": "category"},
            "label": "late",
            "features": function.reference if function else None,
            "windows": {"start": "2013-02-01"},
            "learner": {
                "retrain": {
                    "num_iterations": trees,
                    "learning_rate": 0.1,
                    "min_data_in_leaf": 20,
                }
            },
        },
    )
    return learner.fit(
        spec,
        frame,
        parent=None,
        continue_=False,
        golden=frame,
        window=None,
        seed=1,
        num_threads=1,
        function=function,
    )


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return make_bundle()


@pytest.fixture(scope="module")
def validator() -> Iterator[ForkServerValidator]:
    with ForkServerValidator(timeout=10) as running:
        yield running


def substituted(bundle: bytes, pattern: bytes, replacement: bytes, count: int = 0) -> bytes:
    result, changes = re.subn(pattern, replacement, bundle, count=count)
    assert changes
    return result


def test_a_valid_bundle_is_validated_quickly(validator: ForkServerValidator, bundle: bytes) -> None:
    validator.validate(bundle)
    started = time.perf_counter()
    for _ in range(5):
        validator.validate(bundle)
    assert (time.perf_counter() - started) / 5 < 1  # 30 ms on a quiet machine


@pytest.fixture(params=["in a forked child", "in this process"])
def any_validator(
    request: pytest.FixtureRequest, validator: ForkServerValidator
) -> BundleValidator:
    """Each validator, to test the contract of `BundleValidator`."""
    return InProcessValidator() if request.param == "in this process" else validator


def test_a_valid_bundle_passes(any_validator: BundleValidator, bundle: bytes) -> None:
    any_validator.validate(bundle)


def test_a_wrong_prediction_is_reported_as_skew(
    any_validator: BundleValidator, bundle: bytes
) -> None:
    with pytest.raises(FeatureSkew, match="golden row 0"):
        any_validator.validate(substituted(bundle, rb'"prediction":0\.', b'"prediction":1.', 1))


def test_bytes_that_are_not_a_bundle_are_invalid(any_validator: BundleValidator) -> None:
    with pytest.raises(BundleInvalid):
        any_validator.validate(b"no bundle")


def test_trees_cut_together_with_their_sizes_are_skew(
    validator: ForkServerValidator, bundle: bytes
) -> None:
    """LightGBM loads such a text without an error and predicts something else."""
    head, separator, _ = bundle.partition(b"\nTree=29\n")
    assert separator
    fewer = substituted(head + b"\nend of trees\n", rb"(tree_sizes=.*) \d+\n", rb"\1\n")
    with pytest.raises(FeatureSkew):
        validator.validate(fewer)


def test_a_cyclic_tree_times_out(bundle: bytes) -> None:
    cyclic = substituted(bundle, rb"left_child=.*", b"left_child=" + b"0 " * 14 + b"0")
    cyclic = substituted(cyclic, rb"right_child=.*", b"right_child=" + b"0 " * 14 + b"0")
    cyclic = substituted(cyclic, rb"tree_sizes=.*\n", b"")
    with ForkServerValidator(timeout=1) as validator, pytest.raises(BundleInvalid):
        validator.validate(cyclic)


def test_a_crash_of_the_child_is_reported_with_its_signal(
    validator: ForkServerValidator, bundle: bytes
) -> None:
    wild = substituted(bundle, rb"split_feature=\d+", b"split_feature=1900000000")
    wild = substituted(wild, rb"tree_sizes=.*\n", b"")
    with pytest.raises(BundleInvalid, match=r"SIGSEGV|SIGABRT|LightGBM"):
        validator.validate(wild)
    validator.validate(bundle)


def test_no_damage_reaches_the_requesting_process(bundle: bytes) -> None:
    """Bundles with flipped bits or cut tails are rejected, or give the same predictions."""
    with ForkServerValidator(timeout=2) as validator:
        _assert_damage_contained(validator, bundle)


def _assert_damage_contained(validator: ForkServerValidator, bundle: bytes) -> None:
    draw = np.random.default_rng(1)
    survived = 0
    for _ in range(60):
        position = int(draw.integers(0, len(bundle)))
        flipped = bytearray(bundle)
        flipped[position] ^= 1 << int(draw.integers(0, 8))
        for bad in (bytes(flipped), bundle[:position]):
            try:
                validator.validate(bad)
                survived += 1
            except (BundleInvalid, FeatureSkew):
                pass
    assert survived < 60  # a flip in a part that no golden row uses goes unnoticed
    validator.validate(bundle)


def test_a_killed_worker_is_replaced(validator: ForkServerValidator, bundle: bytes) -> None:
    validator.validate(bundle)
    old_pid = validator.pid
    assert old_pid is not None
    os.kill(old_pid, signal.SIGKILL)
    validator.validate(bundle)
    assert validator.pid not in (None, old_pid)


def test_a_worker_killed_during_a_validation_is_replaced(
    validator: ForkServerValidator, bundle: bytes
) -> None:
    validator.validate(bundle)
    old_pid = validator.pid
    assert old_pid is not None
    killer = threading.Timer(0.02, os.kill, (old_pid, signal.SIGKILL))
    killer.start()
    while killer.is_alive() or validator.pid == old_pid:
        validator.validate(bundle)
    assert validator.pid != old_pid


def test_abort_ends_the_running_validation(bundle: bytes) -> None:
    """Including the child that runs it."""
    with ForkServerValidator(timeout=60) as validator:
        validator.validate(bundle)
        assert validator.pid is not None
        worker = psutil.Process(validator.pid)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(validator.validate, with_excessive_golden_rows(bundle))
            while not (children := worker.children()):
                time.sleep(0.01)
            validator.abort()
            with pytest.raises(BundleInvalid, match="aborted"):
                future.result(10)
        assert not psutil.wait_procs([worker, *children], timeout=10)[1]
        with pytest.raises(BundleInvalid, match="aborted"):
            validator.validate(bundle)


def test_closing_the_validator_stops_its_worker(bundle: bytes) -> None:
    with ForkServerValidator() as validator:
        validator.validate(bundle)
        assert validator.pid is not None
        worker = psutil.Process(validator.pid)
    assert not worker.is_running()


def test_the_worker_ends_when_its_pipe_is_closed(bundle: bytes) -> None:
    validator = ForkServerValidator()
    validator.validate(bundle)
    assert validator._worker is not None
    assert validator._worker.stdin is not None
    validator._worker.stdin.close()  # like a crash of the parent process
    assert validator._worker.wait(timeout=10) == 0
    validator.close()


def test_the_feature_function_is_loaded_in_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "def f(frame):\n    return frame.with_columns(twice=frame['size'] * 2)\n"
    module = tmp_path / "child_features.py"
    module.write_text(source)
    bundle = make_bundle(5, load_feature_function("child_features:f"))
    with ForkServerValidator() as validator:
        validator.validate(bundle)
        module.write_text(source + "# changed\n")
        with pytest.raises(FeatureSkew, match="was trained with the feature function"):
            validator.validate(bundle)
        module.unlink()
        with pytest.raises(SpecInvalid, match="cannot be imported"):
            validator.validate(bundle)

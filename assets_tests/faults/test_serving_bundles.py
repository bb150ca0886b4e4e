"""Damaged and bad bundles are refused, and the server keeps its model."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faults.deployments import LedgerAppender, deploy_windows
from support.models import oracle
from support.models.harness import ModelHarness
from support.processes.commands import wait_until
from support.serving.bundle_mutations import (
    substitute,
    with_cyclic_trees,
    with_excessive_golden_rows,
    with_recomputed_golden_rows,
)
from support.serving.load_generator import LoadGenerator, load_generator_for
from support.serving.prediction_server import PredictionServer, bundle_digests, running_server
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.cycle.ledger import read_chain
from tidemill.cycle.names import bundle_name

pytestmark = pytest.mark.faults

Damage = Callable[[bytes], bytes]


def drop_last_tree(bundle: bytes) -> bytes:
    """Drop the last tree and its size: LightGBM loads the rest without an error."""
    before, _, _ = bundle.rpartition(b"\nTree=")
    return substitute(before + b"\nend of trees\n", rb"(tree_sizes=.*) \d+\n", rb"\1\n")


def with_invalid_feature_index(bundle: bytes) -> bytes:
    """Trees whose feature index is far out of range."""
    result = substitute(bundle, rb"split_feature=\d+", b"split_feature=1900000000")
    return substitute(result, rb"tree_sizes=.*\n", b"")


def with_hidden_cycle(bundle: bytes) -> bytes:
    """A first tree with a cycle that only prices beyond those of all rows reach."""
    columns = Model.load(bundle, canonical.digest(bundle), None).header.columns
    root = {
        b"split_feature": b"%d" % [column.name for column in columns].index("price"),
        b"threshold": b"1e300",
        b"decision_type": b"2",
        b"left_child": b"1",
        b"right_child": b"0",
    }
    for key, value in root.items():
        bundle = substitute(bundle, rb"(?m)^(" + key + rb"=)\S+", rb"\g<1>" + value, 1)
    return with_recomputed_golden_rows(substitute(bundle, rb"tree_sizes=.*\n", b""))


DAMAGES: dict[str, Damage] = {
    "truncated": lambda bundle: bundle[: len(bundle) * 2 // 3],
    "flipped": lambda bundle: bundle[:-900] + bytes([bundle[-900] ^ 1]) + bundle[-899:],
    "cyclic": with_cyclic_trees,
    "last tree and size dropped": drop_last_tree,
}
"""Damage to a stored bundle."""

BAD_BUNDLES: dict[str, tuple[Damage, str, str]] = {
    "truncated": (lambda bundle: bundle[: len(bundle) * 2 // 3], "BundleInvalid", "."),
    "not a bundle": (lambda bundle: b"not a bundle", "BundleInvalid", "Header|JSON|malformed"),
    "crashes": (with_invalid_feature_index, "BundleInvalid", "SIGSEGV|SIGABRT|SIGBUS"),
    "last tree and size dropped": (drop_last_tree, "FeatureSkew", "golden row"),
    "wrong golden prediction": (
        lambda bundle: substitute(bundle, rb'"prediction":0\.', b'"prediction":1.', 1),
        "FeatureSkew",
        "golden row",
    ),
    "has cycles": (with_cyclic_trees, "BundleInvalid", "is malformed"),
    "has a cycle for unseen rows": (with_hidden_cycle, "BundleInvalid", "is malformed"),
    "takes too long": (
        with_excessive_golden_rows,
        "BundleInvalid",
        "not validated within 20 seconds",
    ),
}
"""Bad bundles with a valid digest: the error that refuses them, and a pattern of its message."""


@dataclass
class BundleScenario:
    """A server with clients, and the digest of a bundle that was never deployed."""

    harness: ModelHarness
    server: PredictionServer
    clients: LoadGenerator
    appender: LedgerAppender
    undeployed_digest: str

    def path(self, digest: str) -> Path:
        return self.harness.settings.store / self.harness.model / bundle_name(digest)

    def assert_served(self, digest: str) -> None:
        """Append an entry for this digest and assert that it is served."""
        version = self.appender.deploy(digest).seq
        self.server.wait_for_status(version=version, digest=digest, stale=None, last_failure=None)

    def assert_refused(self, digest: str, error: str) -> str:
        """Append an entry for this digest and assert that it is refused with this error.

        The previous model stays in service, and `/models`, the metrics and the log report the
        failure. Returns the message of the error.
        """
        before, failures = self.server.model_status(), self._failures()
        version = self.appender.deploy(digest).seq
        wait_until(
            lambda: self._failure().get("version") == version, 60, on_timeout=self.server.output
        )
        failure, status = self._failure(), self.server.model_status()
        assert (failure["error"], failure["digest"]) == (error, digest), failure
        assert (status["digest"], status["version"]) == (before["digest"], before["version"])
        assert status["stale"] == f"entry {version} could not be taken into service"
        assert self._failures() > failures
        assert f"Model {self.harness.model}: {error}: " in self.server.output()
        assert self.server.process.poll() is None
        return str(failure["message"])

    def _failure(self) -> dict[str, Any]:
        return self.server.model_status()["last_failure"] or {}

    def _failures(self) -> float:
        return self.server.metric("tidemill_load_failures_total", model=self.harness.model)


@pytest.fixture
def scenario(harness: ModelHarness) -> Iterator[BundleScenario]:
    """At its end all responses must be correct, and the oracle runs."""
    deploy_windows(harness)
    with harness.open_model() as ctx, running_server(harness) as server:
        deployed_digests = {each.entry.digest for each in ctx.chain().entries}
        undeployed_digest = next(
            digest for digest in bundle_digests(ctx) if digest not in deployed_digests
        )
        with load_generator_for(server).running(4) as clients:
            yield BundleScenario(
                harness, server, clients, LedgerAppender(harness, ctx), undeployed_digest
            )
        clients.assert_all_correct()
        read_chain(ctx)  # copies the entries, as the next deployment would
        assert server.terminate() == 0
    oracle.assert_consistent(harness)


def test_a_damaged_bundle_is_refused_before_parsing_and_loaded_once_restored(
    scenario: BundleScenario,
) -> None:
    """Fault 28: each is refused because of its digest; parsing it would give another error."""
    path, first = (
        scenario.path(scenario.undeployed_digest),
        scenario.server.model_status()["digest"],
    )
    original = path.read_bytes()
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(original))
        message = scenario.assert_refused(scenario.undeployed_digest, "DigestMismatch")
        assert scenario.undeployed_digest in message, name
        path.write_bytes(original)
        status = scenario.server.wait_for_status(
            digest=scenario.undeployed_digest, stale=None, last_failure=None
        )
        assert not status["from_local_copy"]
        scenario.assert_served(first)


def test_a_bad_bundle_with_a_valid_digest_harms_only_the_validating_child(
    scenario: BundleScenario,
) -> None:
    """Fault 28: the content crashes, hangs or gives other predictions, also if only rows that have
    not occurred yet would reach a cycle."""
    original, served = (
        scenario.path(scenario.undeployed_digest).read_bytes(),
        scenario.server.model_status()["digest"],
    )
    for name, (damage, error, message) in BAD_BUNDLES.items():
        bad = damage(original)
        digest = canonical.digest(bad)
        scenario.path(digest).write_bytes(bad)
        assert re.search(message, scenario.assert_refused(digest, error)), name
        scenario.assert_served(served)
    scenario.assert_served(scenario.undeployed_digest)
    scenario.clients.wait_for_version(scenario.server.model_status()["version"])
    assert {digest for digest, _ in scenario.clients.first_answers.values()} == {
        served,
        scenario.undeployed_digest,
    }

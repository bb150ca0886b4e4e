"""Bundles damaged or bad at the source: refused, and the server goes on as it was."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import oracle
from bundle_mutations import (
    LedgerAppender,
    deploy_windows,
    substitute,
    with_cyclic_trees,
    with_excessive_golden_rows,
    with_recomputed_golden_rows,
)
from load_generator import LoadGenerator, load_generator_for
from model_harness import ModelHarness
from prediction_server import PredictionServer, bundle_digests, running_server
from processes import wait_until
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.cycle.deploy import read_chain
from tidemill.cycle.repository import bundle_name

pytestmark = pytest.mark.faults

Damage = Callable[[bytes], bytes]


def drop_last_tree(bundle: bytes) -> bytes:
    """The last tree is gone, from the sizes too: LightGBM loads it without a word."""
    before, _, _ = bundle.rpartition(b"\nTree=")
    return substitute(before + b"\nend of trees\n", rb"(tree_sizes=.*) \d+\n", rb"\1\n")


def with_invalid_feature_index(bundle: bytes) -> bytes:
    """Trees that look at a feature far outside the row."""
    result = substitute(bundle, rb"split_feature=\d+", b"split_feature=1900000000")
    return substitute(result, rb"tree_sizes=.*\n", b"")


def with_hidden_cycle(bundle: bytes) -> bytes:
    """A first tree that runs in circles for prices that no row has yet had."""
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
    "cut with its sizes": drop_last_tree,
}
"""What happens to a bundle on the disk, under its name."""

BAD: dict[str, tuple[Damage, str, str]] = {
    "truncated": (lambda bundle: bundle[: len(bundle) * 2 // 3], "BundleUnfit", "."),
    "no bundle": (lambda bundle: b"no bundle", "BundleUnfit", "Header|JSON|malformed"),
    "kills": (with_invalid_feature_index, "BundleUnfit", "SIGSEGV|SIGABRT|SIGBUS"),
    "cut with its sizes": (drop_last_tree, "FeatureSkew", "golden row"),
    "skews": (
        lambda bundle: substitute(bundle, rb'"prediction":0\.', b'"prediction":1.', 1),
        "FeatureSkew",
        "golden row",
    ),
    "runs in circles": (with_cyclic_trees, "BundleUnfit", "is no tree"),
    "runs in circles on rows it has not seen": (with_hidden_cycle, "BundleUnfit", "is no tree"),
    "takes for ever": (with_excessive_golden_rows, "BundleUnfit", "not proven within 20 seconds"),
}
"""What is bad under its right digest; the error by which it is refused, and what that tells."""


@dataclass
class BundleScenario:
    """A server of a model, clients that ask it, and the digest of a model never deployed."""

    harness: ModelHarness
    server: PredictionServer
    clients: LoadGenerator
    appender: LedgerAppender
    undeployed_digest: str

    def path(self, digest: str) -> Path:
        return self.harness.settings.store / self.harness.model / bundle_name(digest)

    def assert_served(self, digest: str) -> None:
        """The newest entry, which names this digest, comes into service."""
        version = self.appender.deploy(digest).seq
        self.server.wait_for_status(version=version, digest=digest, stale=None, last_failure=None)

    def assert_refused(self, digest: str, error: str) -> str:
        """The newest entry, which names this digest, is refused by this error: the model before
        stays, and `/models`, the metrics and the log tell of it. Gives what the error says."""
        before, failures = self.server.model_status(), self._failures()
        version = self.appender.deploy(digest).seq
        wait_until(lambda: self._failure().get("version") == version, 60, self.server.output)
        failure, status = self._failure(), self.server.model_status()
        assert (failure["error"], failure["digest"]) == (error, digest), failure
        assert (status["digest"], status["version"]) == (before["digest"], before["version"])
        assert status["stale"] == f"entry {version} could not be taken into service"
        assert self._failures() > failures
        assert f"Model {self.harness.model}: {error}: " in self.server.output()
        assert self.server.process.poll() is None
        return str(failure["what"])

    def _failure(self) -> dict[str, Any]:
        return self.server.model_status()["last_failure"] or {}

    def _failures(self) -> float:
        return self.server.metric("tidemill_load_failures_total", model=self.harness.model)


@pytest.fixture
def scenario(harness: ModelHarness) -> Iterator[BundleScenario]:
    """At its end every answer was right, and the oracle finds the rest as it should be."""
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
        read_chain(ctx)  # copies the entries, as the next deployment does
        assert server.terminate() == 0
    oracle.assert_consistent(harness)


def test_a_damaged_bundle_is_refused_before_it_is_parsed_and_taken_when_it_is_mended(
    scenario: BundleScenario,
) -> None:
    """Row 28: each by its digest; whatever parses such bytes finds them otherwise unfit."""
    path, first = (
        scenario.path(scenario.undeployed_digest),
        scenario.server.model_status()["digest"],
    )
    whole = path.read_bytes()
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        what = scenario.assert_refused(scenario.undeployed_digest, "DigestMismatch")
        assert scenario.undeployed_digest in what, name
        path.write_bytes(whole)
        told = scenario.server.wait_for_status(
            digest=scenario.undeployed_digest, stale=None, last_failure=None
        )
        assert not told["from_local_copy"]
        scenario.assert_served(first)


def test_a_bundle_that_is_bad_at_the_source_harms_nobody_but_the_child_that_proves_it(
    scenario: BundleScenario,
) -> None:
    """Row 28: the digest is right, and the content kills, hangs or answers otherwise; also
    where only a row that nobody has seen would run in circles."""
    whole, good = (
        scenario.path(scenario.undeployed_digest).read_bytes(),
        scenario.server.model_status()["digest"],
    )
    for name, (damage, error, told) in BAD.items():
        bad = damage(whole)
        digest = canonical.digest(bad)
        scenario.path(digest).write_bytes(bad)
        assert re.search(told, scenario.assert_refused(digest, error)), name
        scenario.assert_served(good)
    scenario.assert_served(scenario.undeployed_digest)
    scenario.clients.wait_for_version(scenario.server.model_status()["version"])
    assert {digest for digest, _ in scenario.clients.first_answers.values()} == {
        good,
        scenario.undeployed_digest,
    }

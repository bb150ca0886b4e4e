"""Bundles damaged or bad at the source: refused, and the server goes on as it was."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import oracle
from bench import Bench
from commands import until
from deployments import Appender, altered, answered_anew, cyclic, deployed, endless
from serving_hands import Serving, digests, serving
from swarm import Swarm, swarm
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.cycle.archive import bundle_name
from tidemill.cycle.deploy import read_chain

pytestmark = pytest.mark.faults

Damage = Callable[[bytes], bytes]


def cut(bundle: bytes) -> bytes:
    """The last tree is gone, from the sizes too: LightGBM loads it without a word."""
    before, _, _ = bundle.rpartition(b"\nTree=")
    return altered(before + b"\nend of trees\n", rb"(tree_sizes=.*) \d+\n", rb"\1\n")


def wild(bundle: bytes) -> bytes:
    """Trees that look at a feature far outside the row."""
    found = altered(bundle, rb"split_feature=\d+", b"split_feature=1900000000")
    return altered(found, rb"tree_sizes=.*\n", b"")


def ambush(bundle: bytes) -> bytes:
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
        bundle = altered(bundle, rb"(?m)^(" + key + rb"=)\S+", rb"\g<1>" + value, 1)
    return answered_anew(altered(bundle, rb"tree_sizes=.*\n", b""))


DAMAGES: dict[str, Damage] = {
    "truncated": lambda bundle: bundle[: len(bundle) * 2 // 3],
    "flipped": lambda bundle: bundle[:-900] + bytes([bundle[-900] ^ 1]) + bundle[-899:],
    "cyclic": cyclic,
    "cut with its sizes": cut,
}
"""What happens to a bundle on the disk, under its name."""

BAD: dict[str, tuple[Damage, str, str]] = {
    "truncated": (lambda bundle: bundle[: len(bundle) * 2 // 3], "BundleUnfit", "."),
    "no bundle": (lambda bundle: b"no bundle", "BundleUnfit", "Header|JSON|malformed"),
    "kills": (wild, "BundleUnfit", "SIGSEGV|SIGABRT|SIGBUS"),
    "cut with its sizes": (cut, "FeatureSkew", "golden row"),
    "skews": (
        lambda bundle: altered(bundle, rb'"prediction":0\.', b'"prediction":1.', 1),
        "FeatureSkew",
        "golden row",
    ),
    "runs in circles": (cyclic, "BundleUnfit", "is no tree"),
    "runs in circles on rows it has not seen": (ambush, "BundleUnfit", "is no tree"),
    "takes for ever": (endless, "BundleUnfit", "not proven within 20 seconds"),
}
"""What is bad under its right digest; the error by which it is refused, and what that tells."""


@dataclass
class Scene:
    """A server of a model, clients that ask it, and the digest of a model never deployed."""

    bench: Bench
    server: Serving
    clients: Swarm
    appender: Appender
    spare: str

    def path(self, digest: str) -> Path:
        return self.bench.settings.store / self.bench.model / bundle_name(digest)

    def served(self, digest: str) -> None:
        """The newest entry, which names this digest, comes into service."""
        version = self.appender.deploy(digest).seq
        self.server.until(version=version, digest=digest, stale=None, last_failure=None)

    def refused(self, digest: str, error: str) -> str:
        """The newest entry, which names this digest, is refused by this error: the model before
        stays, and `/models`, the metrics and the log tell of it. Gives what the error says."""
        before, failures = self.server.model(), self._failures()
        version = self.appender.deploy(digest).seq
        until(lambda: self._failure().get("version") == version, 60, self.server.said)
        told, now = self._failure(), self.server.model()
        assert (told["error"], told["digest"]) == (error, digest), told
        assert (now["digest"], now["version"]) == (before["digest"], before["version"])
        assert now["stale"] == f"entry {version} could not be taken into service"
        assert self._failures() > failures
        assert f"Model {self.bench.model}: {error}: " in self.server.said()
        assert self.server.process.poll() is None
        return str(told["what"])

    def _failure(self) -> dict[str, Any]:
        return self.server.model()["last_failure"] or {}

    def _failures(self) -> float:
        return self.server.metric("tidemill_load_failures_total", model=self.bench.model)


@pytest.fixture
def scene(bench: Bench) -> Iterator[Scene]:
    """At its end every answer was right, and the oracle finds the rest as it should be."""
    deployed(bench)
    with bench.mill() as mill, serving(bench) as server:
        standing = {each.entry.digest for each in mill.chain().entries}
        spare = next(digest for digest in digests(mill) if digest not in standing)
        with swarm(server).asking(4) as clients:
            yield Scene(bench, server, clients, Appender(bench, mill), spare)
        clients.right()
        read_chain(mill)  # copies the entries, as the next deployment does
        assert server.ended() == 0
    oracle.check(bench)


def test_a_damaged_bundle_is_refused_before_it_is_parsed_and_taken_when_it_is_mended(
    scene: Scene,
) -> None:
    """Row 28: each by its digest; whatever parses such bytes finds them otherwise unfit."""
    path, first = scene.path(scene.spare), scene.server.model()["digest"]
    whole = path.read_bytes()
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        what = scene.refused(scene.spare, "DigestMismatch")
        assert scene.spare in what, name
        path.write_bytes(whole)
        told = scene.server.until(digest=scene.spare, stale=None, last_failure=None)
        assert not told["from_local_copy"]
        scene.served(first)


def test_a_bundle_that_is_bad_at_the_source_harms_nobody_but_the_child_that_proves_it(
    scene: Scene,
) -> None:
    """Row 28: the digest is right, and the content kills, hangs or answers otherwise; also
    where only a row that nobody has seen would run in circles."""
    whole, good = scene.path(scene.spare).read_bytes(), scene.server.model()["digest"]
    for name, (damage, error, told) in BAD.items():
        bad = damage(whole)
        digest = canonical.digest(bad)
        scene.path(digest).write_bytes(bad)
        assert re.search(told, scene.refused(digest, error)), name
        scene.served(good)
    scene.served(scene.spare)
    scene.clients.see(scene.server.model()["version"])
    assert {digest for digest, _ in scene.clients.seen.values()} == {good, scene.spare}

"""Bundles that no learner writes, some of which validation must refuse."""

import re
from dataclasses import replace

import msgspec

from support.models.harness import ModelHarness
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.cycle.names import bundle_name


def substitute(bundle: bytes, pattern: bytes, replacement: bytes, count: int = 0) -> bytes:
    """The bundle with the matches of the pattern, at least one, replaced."""
    result, changes = re.subn(pattern, replacement, bundle, count=count)
    assert changes
    return result


def with_cyclic_trees(bundle: bytes) -> bytes:
    """The bundle with trees whose nodes all point back to the root."""
    for side in (b"left_child", b"right_child"):
        bundle = substitute(bundle, side + rb"=.*", side + b"=0 0 0")
    return substitute(bundle, rb"tree_sizes=.*\n", b"")


def with_excessive_golden_rows(bundle: bytes) -> bytes:
    """The bundle with so many golden rows that validating it takes minutes."""
    _, _, tail = bundle.partition(b'"golden":[')
    first = tail[: tail.index(b"},{") + 2]
    return bundle[: -len(tail)] + first * 2_000_000 + tail


def with_recomputed_golden_rows(bundle: bytes) -> bytes:
    """The bundle with the predictions of its trees for its golden rows."""
    model = Model.load(bundle, canonical.digest(bundle), None)
    golden_rows = model.header.golden
    predictions = model.predict(
        model.decoder().rows([golden.row for golden in golden_rows])
    ).tolist()
    golden = tuple(replace(g, prediction=p) for g, p in zip(golden_rows, predictions, strict=True))
    header = msgspec.json.encode(replace(model.header, golden=golden), order="sorted")
    return header + b"\n" + model.text.encode()


def put_bundle(harness: ModelHarness, bundle: bytes) -> str:
    """Put arbitrary bytes into the store as a bundle; their digest."""
    digest = canonical.digest(bundle)
    path = harness.settings.store / harness.model / bundle_name(digest)
    path.write_bytes(bundle)
    return digest

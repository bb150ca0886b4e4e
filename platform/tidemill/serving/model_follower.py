"""Follow the chain of one model, and keep its newest loadable entry in service."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from tidemill.core.errors import (
    BundleInvalid,
    FormatUnsupported,
    LedgerBroken,
    StoreUnavailable,
    TidemillError,
)
from tidemill.core.event_log import LedgerRecord
from tidemill.core.ledger import Chain, ValidEntry, build_chain
from tidemill.ports import Clock
from tidemill.serving.local_copy import LocalCopy, LocalEntry
from tidemill.serving.model_state import (
    FIRST_RETRY_DELAY_MS,
    LoadFailure,
    ModelState,
    ServedModel,
)
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import RequestSchema

logger = logging.getLogger("tidemill.serving")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_ENTRIES_TRIED = 8
"""How many entries, newest first, are tried to find one whose bundle can be loaded."""
_MAX_RETRY_DELAY_MS = 60_000

FollowerEvent = Literal["swap", "failure"]
FetchBundle = Callable[[str], bytes]
"""The verified bytes of a bundle of the model by its digest."""
LoadPredictor = Callable[[bytes, str, RequestSchema], Predictor]
"""Validate and load: verified bytes, digest, schema. Raises if the bundle is not usable."""


class ModelFollower:
    """Puts the entries of one model's chain into service.

    Errors of the ledger, a bundle or the store are not raised but recorded in `state`.
    """

    def __init__(
        self,
        schema: RequestSchema,
        fetch_bundle: FetchBundle,
        load_predictor: LoadPredictor,
        local_copy: LocalCopy,
        clock: Clock,
        writes_local_copy: bool = True,
        on_event: Callable[[str, FollowerEvent], None] = lambda model, event: None,
    ) -> None:
        self.state = ModelState(schema)
        self._name = schema.model
        self._fetch_bundle, self._load_predictor = fetch_bundle, load_predictor
        self._local_copy, self._writes_local_copy = local_copy, writes_local_copy
        self._clock, self._on_event = clock, on_event
        self._local_entry = local_entry = _read_local_entry(local_copy, self._name)
        if local_entry is not None:
            self.state.newest_served = local_entry.entry.seq, local_entry.hash

    def extend(self, records: Sequence[LedgerRecord], reset: bool) -> None:
        """Read on in the chain, or, after a reset of the ledger topic, from its start.

        Nothing more is read once there is an entry of a later format, because it determines which
        of the entries after it are valid.
        """
        state = self.state
        if reset:
            state.chain, state.unreadable = Chain(self._name), None
        if not records or state.unreadable is not None:
            return
        try:
            state.chain = build_chain(self._name, records, state.chain)
        except FormatUnsupported as error:
            state.unreadable = error.message
            self._record_failure(error, None)

    def reconcile(self) -> None:
        """Serve the head of the chain, or the newest entry before it whose bundle can be loaded."""
        state = self.state
        entries, newest_served, served = state.chain.entries, state.newest_served, state.served
        if newest_served is not None and len(entries) <= newest_served[0]:
            self.serve_local_copy()  # the ledger is lost or being restored
        elif not entries or state.in_backoff(entries[-1].hash, self._clock()):
            pass
        elif newest_served is not None and entries[newest_served[0]].hash != newest_served[1]:
            different_entry = entries[newest_served[0]]
            self._record_failure(_wrong_chain_error(self._name, different_entry), different_entry)
            self.serve_local_copy()
        elif served is None or entries[-1].hash != served.hash:
            first = 0 if newest_served is None else newest_served[0] + (served is not None)
            self._activate_newest_loadable(entries[first:][-_MAX_ENTRIES_TRIED:])
        elif served.from_local_copy:
            state.swap(replace(served, from_local_copy=False))

    def serve_local_copy(self) -> None:
        """Serve the local copy if nothing is served yet."""
        local_entry, self._local_entry = self._local_entry, None
        state, name = self.state, self._name
        if local_entry is None or state.served is not None:
            return
        entry = local_entry.entry
        try:
            bundle = self._local_copy.bundle(name, entry.digest)
            predictor = self._load_predictor(bundle, entry.digest, state.schema)
        except Exception as error:
            self._record_failure(error, None)
            return
        state.swap(
            ServedModel(predictor, entry, local_entry.hash, self._clock(), from_local_copy=True)
        )
        logger.warning(
            "Model %s: entry %d is served from the local copy; it may be stale.", name, entry.seq
        )

    def _activate_newest_loadable(self, entries: tuple[ValidEntry, ...]) -> None:
        for valid_entry in reversed(entries):
            try:
                self._activate(valid_entry)
            except Exception as error:
                if valid_entry is entries[-1]:
                    self._record_failure(error, valid_entry)
                if isinstance(error, StoreUnavailable):
                    break  # the other bundles cannot be fetched either
                continue
            if valid_entry is entries[-1]:
                self.state.clear_failure()
            return
        self.serve_local_copy()

    def _activate(self, valid_entry: ValidEntry) -> None:
        """Put an entry's model into service. Raises if its bundle is not usable."""
        state, name = self.state, self._name
        entry, served = valid_entry.entry, state.served
        if not _DIGEST.fullmatch(entry.digest):
            raise BundleInvalid(
                f"Entry {entry.seq} of model {name} names {entry.digest[:80]!r}, which is not a "
                "valid sha256.",
                "Deploy a stored model with `tidemill rollback` or `tidemill approve`.",
            )
        bundle = None
        if served is not None and served.digest == entry.digest:
            predictor = served.predictor
        else:
            bundle = self._fetch_bundle(entry.digest)
            predictor = self._load_predictor(bundle, entry.digest, state.schema)
        if self._writes_local_copy and served is None:
            # Before the swap: a server is ready only if it could restart without Kafka.
            self._save_local_copy(valid_entry, bundle)
        state.swap(ServedModel(predictor, entry, valid_entry.hash, self._clock()))
        state.newest_served = entry.seq, valid_entry.hash
        logger.info("Model %s: entry %d (%s) is in service.", name, entry.seq, entry.digest)
        if served is not None:
            self._on_event(name, "swap")
            if self._writes_local_copy:
                self._save_local_copy(valid_entry, bundle)

    def _save_local_copy(self, valid_entry: ValidEntry, bundle: bytes | None) -> None:
        try:
            digest = valid_entry.entry.digest
            data = bundle if bundle is not None else self._fetch_bundle(digest)
            self._local_copy.save(self._name, valid_entry.value, digest, data)
        except Exception as error:  # a full disk must not stop the server
            logger.warning("Model %s: the local copy could not be written: %s", self._name, error)

    def _record_failure(self, error: Exception, valid_entry: ValidEntry | None) -> None:
        state = self.state
        message, remedy = (
            (error.message, error.remedy) if isinstance(error, TidemillError) else (repr(error), "")
        )
        entry = valid_entry.entry if valid_entry else None
        error_type, seq = type(error).__name__, entry.seq if entry else None
        failure, last = (error_type, message, seq), state.failure
        if last is None or (last.error, last.message, last.version) != failure:
            logger.error("Model %s: %s: %s", self._name, error_type, error)
            state.retry_delay_ms = FIRST_RETRY_DELAY_MS
        self._on_event(self._name, "failure")
        digest = entry.digest[:64] if entry else None
        state.failure = LoadFailure(error_type, message, remedy, digest, seq, self._clock())
        if valid_entry is not None:
            state.backoff = state.chain.entries[-1].hash, self._clock() + state.retry_delay_ms
            state.retry_delay_ms = min(state.retry_delay_ms * 2, _MAX_RETRY_DELAY_MS)


def _wrong_chain_error(name: str, valid_entry: ValidEntry) -> LedgerBroken:
    return LedgerBroken(
        f"Entry {valid_entry.entry.seq} of model {name} in the ledger differs from the one that "
        "this server has served.",
        f"The server keeps its model. Run `tidemill verify {name}`. If this is the right ledger, "
        "stop the server, remove the model's folder in `serving/` of its home, and restart it.",
    )


def _read_local_entry(local_copy: LocalCopy, name: str) -> LocalEntry | None:
    try:
        return local_copy.entry(name)
    except Exception as error:
        logger.warning("Model %s: the local copy cannot be read: %s", name, error)
        return None

"""Follow the ledger, and keep the newest loadable model of each chain in service."""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from tidemill.core.errors import BundleInvalid, LedgerBroken, StoreUnavailable, TidemillError
from tidemill.core.ledger import Chain, ValidEntry, build_chain
from tidemill.ports import Clock, LedgerFeed
from tidemill.serving.local_copy import LocalCopy, LocalEntry
from tidemill.serving.model_slot import ServedModel
from tidemill.serving.model_state import (
    FIRST_RETRY_DELAY_MS,
    LedgerConnection,
    LoadFailure,
    ModelState,
)
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import RequestSchema

logger = logging.getLogger("tidemill.serving")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_ENTRIES_TRIED = 8
"""How many entries, newest first, are tried to find one whose bundle can be loaded."""
_MAX_RETRY_DELAY_MS = 60_000

FollowerEvent = Literal["swap", "failure"]
FetchBundle = Callable[[str, str], bytes]
"""The bytes of a model's bundle by its digest."""
LoadPredictor = Callable[[bytes, str, RequestSchema], Predictor]
"""Verify, validate and load: bytes, digest, schema. Raises if the bundle is not usable."""


class LedgerFollower:
    """Puts the ledger's models into service. One thread calls `step`; others read the state.

    Errors of the ledger, a bundle or Kafka are not raised but recorded in the state.
    """

    def __init__(
        self,
        feed: LedgerFeed,
        schemas: Mapping[str, RequestSchema],
        fetch_bundle: FetchBundle,
        load_predictor: LoadPredictor,
        local_copy: LocalCopy,
        clock: Clock,
        startup_timeout_ms: int = 0,
        writes_local_copy: bool = True,
        on_event: Callable[[str, FollowerEvent], None] = lambda model, event: None,
    ) -> None:
        self.models = {
            name: ModelState(schema, chain=Chain(name)) for name, schema in schemas.items()
        }
        self.connection = LedgerConnection(clock())
        self._feed, self._fetch_bundle, self._load_predictor, self._local_copy = (
            feed,
            fetch_bundle,
            load_predictor,
            local_copy,
        )
        self._clock, self._startup_timeout_ms, self._writes_local_copy = (
            clock,
            startup_timeout_ms,
            writes_local_copy,
        )
        self._on_event = on_event
        self._local_entries: dict[str, LocalEntry | None] = {}
        for name, state in self.models.items():
            self._local_entries[name] = local_entry = _read_local_entry(local_copy, name)
            if local_entry is not None:
                state.newest_served = local_entry.entry.seq, local_entry.hash

    def run(self, stop: threading.Event, poll_seconds: float = 0.5) -> None:
        """Follow until `stop` is set."""
        while not stop.is_set():
            try:
                reached = self.step(poll_seconds)
            except Exception:
                logger.exception("The ledger follower failed; it continues.")
                reached = False
            if not reached:
                stop.wait(poll_seconds)

    def step(self, seconds: float) -> bool:
        """Process one poll of the ledger; whether the ledger was reached."""
        try:
            poll = self._feed.poll(seconds)
        except TidemillError as error:
            self._on_unreachable(error)
            return False
        connection = self.connection
        if connection.error is not None:
            logger.info("The connection to the ledger is restored.")
        connection.error, connection.last_contact_ms, connection.lag = None, self._clock(), poll.lag
        if poll.reset:
            logger.warning("The ledger topic was replaced; the models in service are kept.")
        for name, state in self.models.items():
            previous = Chain(name) if poll.reset else state.chain
            state.chain = build_chain(name, poll.records, previous) if poll.records else previous
        connection.caught_up = connection.caught_up or poll.lag == 0
        if poll.lag == 0:
            for name, state in self.models.items():
                self._reconcile(name, state)
        elif not connection.caught_up:
            self._fall_back_after_timeout()
        return True

    def _on_unreachable(self, error: TidemillError) -> None:
        if self.connection.error is None:
            logger.warning("%s", error)
        self.connection.error = str(error)
        if not self.connection.caught_up:
            self._fall_back_after_timeout()

    def _fall_back_after_timeout(self) -> None:
        if self._clock() - self.connection.started_at_ms >= self._startup_timeout_ms:
            for name, state in self.models.items():
                self._serve_local_copy(name, state)

    def _reconcile(self, name: str, state: ModelState) -> None:
        """Serve the head of the chain, or the newest entry before it whose bundle can be loaded."""
        entries, newest_served, served = state.chain.entries, state.newest_served, state.slot.served
        if newest_served is not None and len(entries) <= newest_served[0]:
            self._serve_local_copy(name, state)  # the ledger is lost or being restored
        elif not entries or state.in_backoff(entries[-1].hash, self._clock()):
            pass
        elif newest_served is not None and entries[newest_served[0]].hash != newest_served[1]:
            self._record_failure(
                name,
                state,
                _wrong_chain_error(name, entries[newest_served[0]]),
                entries[newest_served[0]],
            )
            self._serve_local_copy(name, state)
        elif served is None or entries[-1].hash != served.hash:
            first = 0 if newest_served is None else newest_served[0] + (served is not None)
            self._activate_newest_loadable(name, state, entries[first:][-_MAX_ENTRIES_TRIED:])
        elif served.from_local_copy:
            state.slot.swap(replace(served, from_local_copy=False))

    def _activate_newest_loadable(
        self, name: str, state: ModelState, entries: tuple[ValidEntry, ...]
    ) -> None:
        for valid_entry in reversed(entries):
            try:
                self._activate(name, state, valid_entry)
            except Exception as error:
                if valid_entry is entries[-1]:
                    self._record_failure(name, state, error, valid_entry)
                if isinstance(error, StoreUnavailable):
                    break  # the other bundles cannot be fetched either
                continue
            if valid_entry is entries[-1]:
                state.clear_failure()
            return
        self._serve_local_copy(name, state)

    def _activate(self, name: str, state: ModelState, valid_entry: ValidEntry) -> None:
        """Put an entry's model into service. Raises if its bundle is not usable."""
        entry, served = valid_entry.entry, state.slot.served
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
            bundle = self._fetch_bundle(name, entry.digest)
            predictor = self._load_predictor(bundle, entry.digest, state.schema)
        if self._writes_local_copy and served is None:
            # Before the swap: a server is ready only if it could restart without Kafka.
            self._save_local_copy(name, valid_entry, bundle)
        state.slot.swap(ServedModel(predictor, entry, valid_entry.hash, self._clock()))
        state.newest_served = entry.seq, valid_entry.hash
        logger.info("Model %s: entry %d (%s) is in service.", name, entry.seq, entry.digest)
        if served is not None:
            self._on_event(name, "swap")
            if self._writes_local_copy:
                self._save_local_copy(name, valid_entry, bundle)

    def _save_local_copy(self, name: str, valid_entry: ValidEntry, bundle: bytes | None) -> None:
        try:
            digest = valid_entry.entry.digest
            data = bundle if bundle is not None else self._fetch_bundle(name, digest)
            self._local_copy.save(name, valid_entry.value, digest, data)
        except Exception as error:  # a full disk must not stop the server
            logger.warning("Model %s: the local copy could not be written: %s", name, error)

    def _serve_local_copy(self, name: str, state: ModelState) -> None:
        """Serve the local copy if nothing is served yet."""
        local_entry = self._local_entries.pop(name, None)
        if local_entry is None or state.slot.served is not None:
            return
        entry = local_entry.entry
        try:
            bundle = self._local_copy.bundle(name, entry.digest)
            predictor = self._load_predictor(bundle, entry.digest, state.schema)
        except Exception as error:
            self._record_failure(name, state, error, None)
            return
        state.slot.swap(
            ServedModel(predictor, entry, local_entry.hash, self._clock(), from_local_copy=True)
        )
        logger.warning(
            "Model %s: entry %d is served from the local copy; it may be stale.", name, entry.seq
        )

    def _record_failure(
        self, name: str, state: ModelState, error: Exception, valid_entry: ValidEntry | None
    ) -> None:
        message, remedy = (
            (error.message, error.remedy) if isinstance(error, TidemillError) else (repr(error), "")
        )
        entry = valid_entry.entry if valid_entry else None
        error_type, seq = type(error).__name__, entry.seq if entry else None
        failure, last = (error_type, message, seq), state.failure
        if last is None or (last.error, last.message, last.version) != failure:
            logger.error("Model %s: %s: %s", name, error_type, error)
            state.retry_delay_ms = FIRST_RETRY_DELAY_MS
        self._on_event(name, "failure")
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

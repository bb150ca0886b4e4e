"""Follow the ledger: what of it is in service, per model, and what could not be."""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from tidemill.core.errors import BundleInvalid, LedgerBroken, StoreUnavailable, TidemillError
from tidemill.core.ledger import Chain, ValidEntry, build_chain
from tidemill.ports import Clock, LedgerFeed
from tidemill.serving.local_copy import Copied, LocalCopy
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import Contract
from tidemill.serving.slot import Served
from tidemill.serving.state import FIRST_RETRY, Contact, Failure, Followed

logger = logging.getLogger("tidemill.serving")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRIED = 8
"""Entries, newest first, among which a server looks for one whose bundle is sound."""
_LAST_RETRY = 60_000

Happened = Literal["swap", "failure"]
Get = Callable[[str, str], bytes]
"""The bytes of a model's bundle by its digest."""
Load = Callable[[bytes, str, Contract], Predictor]
"""Verify, prove and load: bytes, digest, contract. Raises what is wrong with the bundle."""


class Follower:
    """Takes what the ledger says into service. One thread calls `step`; others read the state.

    Nothing that is wrong with the ledger, a bundle or Kafka is raised: it is told by the state.
    """

    def __init__(
        self,
        feed: LedgerFeed,
        contracts: Mapping[str, Contract],
        bundle: Get,
        load: Load,
        copy: LocalCopy,
        now: Clock,
        patience: int = 0,
        keeps: bool = True,
        told: Callable[[str, Happened], None] = lambda model, what: None,
    ) -> None:
        self.models = {name: Followed(each, chain=Chain(name)) for name, each in contracts.items()}
        self.contact = Contact(now())
        self._feed, self._bundle, self._load, self._copy = feed, bundle, load, copy
        self._now, self._patience, self._keeps = now, patience, keeps
        self._told = told
        self._copies: dict[str, Copied | None] = {}
        for name, followed in self.models.items():
            self._copies[name] = copied = _readable(copy, name)
            if copied is not None:
                followed.known = copied.entry.seq, copied.hash

    def run(self, stop: threading.Event, pause: float = 0.5) -> None:
        """Follow until `stop` is set."""
        while not stop.is_set():
            try:
                reached = self.step(pause)
            except Exception:
                logger.exception("The ledger's follower stumbled; it goes on.")
                reached = False
            if not reached:
                stop.wait(pause)

    def step(self, seconds: float) -> bool:
        """Take one hearing into account; whether the ledger was reached."""
        try:
            heard = self._feed.poll(seconds)
        except TidemillError as error:
            self._away(error)
            return False
        contact = self.contact
        if contact.problem is not None:
            logger.info("The ledger is reached again.")
        contact.problem, contact.last, contact.behind = None, self._now(), heard.lag
        if heard.reset:
            logger.warning("The ledger's topic is another one; models stay as they are.")
        for name, followed in self.models.items():
            before = Chain(name) if heard.reset else followed.chain
            followed.chain = build_chain(name, heard.records, before) if heard.records else before
        contact.caught_up = contact.caught_up or heard.lag == 0
        if heard.lag == 0:
            for name, followed in self.models.items():
                self._settle(name, followed)
        elif not contact.caught_up:
            self._lose_patience()
        return True

    def _away(self, error: TidemillError) -> None:
        if self.contact.problem is None:
            logger.warning("%s", error)
        self.contact.problem = str(error)
        if not self.contact.caught_up:
            self._lose_patience()

    def _lose_patience(self) -> None:
        if self._now() - self.contact.begun >= self._patience:
            for name, followed in self.models.items():
                self._serve_copy(name, followed)

    def _settle(self, name: str, followed: Followed) -> None:
        """Bring what is served to the head of the chain, or as near as sound bundles reach."""
        standing, known, served = followed.chain.entries, followed.known, followed.slot.served
        if known is not None and len(standing) <= known[0]:
            self._serve_copy(name, followed)  # a ledger that is lost, or being restored
        elif not standing or followed.waits(standing[-1].hash, self._now()):
            pass
        elif known is not None and standing[known[0]].hash != known[1]:
            self._failed(name, followed, _another(name, standing[known[0]]), standing[known[0]])
            self._serve_copy(name, followed)
        elif served is None or standing[-1].hash != served.hash:
            first = 0 if known is None else known[0] + (served is not None)
            self._take_newest(name, followed, standing[first:][-_TRIED:])
        elif served.copied:
            followed.slot.swap(replace(served, copied=False))

    def _take_newest(self, name: str, followed: Followed, entries: tuple[ValidEntry, ...]) -> None:
        for standing in reversed(entries):
            try:
                self._take(name, followed, standing)
            except Exception as error:
                if standing is entries[-1]:
                    self._failed(name, followed, error, standing)
                if isinstance(error, StoreUnavailable):
                    break  # with the bundles of all the others
                continue
            if standing is entries[-1]:
                followed.recovered()
            return
        self._serve_copy(name, followed)

    def _take(self, name: str, followed: Followed, standing: ValidEntry) -> None:
        """Put an entry's model into service. Raises what is wrong with its bundle."""
        entry, served = standing.entry, followed.slot.served
        if not _DIGEST.fullmatch(entry.digest):
            raise BundleInvalid(
                f"Entry {entry.seq} of model {name} names {entry.digest[:80]!r}, which is no "
                "sha256.",
                "Deploy a model of the store by `tidemill rollback` or `tidemill approve`.",
            )
        bundle = None
        if served is not None and served.digest == entry.digest:
            predictor = served.predictor
        else:
            bundle = self._bundle(name, entry.digest)
            predictor = self._load(bundle, entry.digest, followed.contract)
        if self._keeps and served is None:  # ready is who could start again without Kafka
            self._keep(name, standing, bundle)
        followed.slot.swap(Served(predictor, entry, standing.hash, self._now()))
        followed.known = entry.seq, standing.hash
        logger.info("Model %s: entry %d, %s, is in service.", name, entry.seq, entry.digest)
        if served is not None:
            self._told(name, "swap")
            if self._keeps:
                self._keep(name, standing, bundle)

    def _keep(self, name: str, standing: ValidEntry, bundle: bytes | None) -> None:
        try:
            digest = standing.entry.digest
            data = bundle if bundle is not None else self._bundle(name, digest)
            self._copy.keep(name, standing.value, digest, data)
        except Exception as error:  # a full disk must not stop the serving
            logger.warning("Model %s: the local copy could not be written: %s", name, error)

    def _serve_copy(self, name: str, followed: Followed) -> None:
        """Serve the local copy where nothing is served yet."""
        copied = self._copies.pop(name, None)
        if copied is None or followed.slot.served is not None:
            return
        entry = copied.entry
        try:
            bundle = self._copy.bundle(name, entry.digest)
            predictor = self._load(bundle, entry.digest, followed.contract)
        except Exception as error:
            self._failed(name, followed, error, None)
            return
        followed.slot.swap(Served(predictor, entry, copied.hash, self._now(), copied=True))
        logger.warning(
            "Model %s: entry %d is served from the local copy; it may be stale.", name, entry.seq
        )

    def _failed(
        self, name: str, followed: Followed, error: Exception, standing: ValidEntry | None
    ) -> None:
        what, remedy = (
            (error.message, error.remedy) if isinstance(error, TidemillError) else (repr(error), "")
        )
        entry = standing.entry if standing else None
        kind, seq = type(error).__name__, entry.seq if entry else None
        known = followed.failure
        if known is None or (known.error, known.what, known.version) != (kind, what, seq):
            logger.error("Model %s: %s: %s", name, kind, error)
            followed.retry = FIRST_RETRY
        self._told(name, "failure")
        digest = entry.digest[:64] if entry else None
        followed.failure = Failure(kind, what, remedy, digest, seq, self._now())
        if standing is not None:
            followed.tried = followed.chain.entries[-1].hash, self._now() + followed.retry
            followed.retry = min(followed.retry * 2, _LAST_RETRY)


def _another(name: str, standing: ValidEntry) -> LedgerBroken:
    return LedgerBroken(
        f"Entry {standing.entry.seq} of model {name} in the ledger is not the one that this "
        "server has served.",
        f"It keeps its model. Run `tidemill verify {name}`; if this ledger is meant, stop the "
        "server, remove the model's folder in `serving/` of its home, and start it again.",
    )


def _readable(copy: LocalCopy, name: str) -> Copied | None:
    try:
        return copy.entry(name)
    except Exception as error:
        logger.warning("Model %s: the local copy cannot be read: %s", name, error)
        return None

"""Follow the ledger, and pass its records to the followers of the models."""

import logging
import threading
from collections.abc import Sequence

from tidemill.core.errors import TidemillError
from tidemill.ports import Clock, LedgerFeed
from tidemill.serving.model_follower import ModelFollower
from tidemill.serving.model_state import LedgerConnection

logger = logging.getLogger("tidemill.serving")


class LedgerFollower:
    """Polls the ledger for the followers of all models.

    One thread calls `step`; others read `connection` and the states of the models. Errors are not
    raised but recorded there.
    """

    def __init__(
        self,
        feed: LedgerFeed,
        models: Sequence[ModelFollower],
        clock: Clock,
        startup_timeout_ms: int = 0,
    ) -> None:
        self.states = {model.state.schema.model: model.state for model in models}
        self.connection = LedgerConnection(clock())
        self._feed, self._models = feed, models
        self._clock, self._startup_timeout_ms = clock, startup_timeout_ms

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
        for model in self._models:
            model.extend(poll.records, poll.reset)
        connection.caught_up = connection.caught_up or poll.lag == 0
        if poll.lag == 0:
            for model in self._models:
                model.reconcile()
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
            for model in self._models:
                model.serve_local_copy()

"""The records of a model by window: what earlier steps committed, and in which lineage."""

from dataclasses import dataclass

from tidemill.core import canonical
from tidemill.core.errors import PredecessorMissing
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import Adoption, Candidate, InitialModel, Lineage, Manifest
from tidemill.core.report_records import Report
from tidemill.core.windows import Calendar, Window
from tidemill.cycle.model_store import none_if_damaged
from tidemill.cycle.names import PLANS, REPORTS, adoption_name
from tidemill.cycle.repository import ModelRepository


@dataclass(frozen=True)
class WindowRecords:
    """Finds the records of a window in the repository of its model.

    A method `require_…` raises `PredecessorMissing`, which names the command to run, if the record
    is not committed. A damaged record raises `DigestMismatch`.
    """

    repository: ModelRepository
    calendar: Calendar

    def require_initial_model(self) -> InitialModel:
        """The record of the initial model."""
        initial_model = self.repository.initial_model()
        if initial_model is None:
            model = self.repository.model
            raise PredecessorMissing(
                f"Model {model} has no initial model.",
                f"Materialize its asset {model}/initial_model first; `tidemill backfill` does so.",
            )
        return initial_model

    def require_batch(self, window: Window) -> Manifest:
        """The manifest of the window's batch."""
        manifest = self.repository.manifest(window.key)
        if manifest is None:
            raise PredecessorMissing(
                f"Window {window.key} of model {self.repository.model} has no batch.",
                f"{self._backfill_command(window)}, or {self._skip_command(window)} if it cannot "
                "be read.",
            )
        return manifest

    def candidate(self, window: Window) -> Candidate | None:
        """The candidate of the window, in its lineage."""
        return self.repository.candidate(self.lineage_id(window), window.key)

    def require_candidate(self, window: Window) -> Candidate:
        """The candidate of the window, in its lineage."""
        candidate = self.candidate(window)
        if candidate is None:
            raise PredecessorMissing(
                f"Window {window.key} of model {self.repository.model} has no candidate.",
                f"{self._backfill_command(window)}, or {self._skip_command(window)} if it cannot "
                "be processed.",
            )
        return candidate

    def predecessor(self, window: Window) -> InitialModel | Candidate:
        """The model that the window's candidate continues: the previous candidate, if any.

        Raises `PredecessorMissing`.
        """
        previous = self.calendar.before(window)
        return self.require_candidate(previous) if previous else self.require_initial_model()

    def require_report(self, window: Window) -> Report:
        """The evaluation report of the window."""
        report = self.repository.report(window.key)
        if report is None:
            raise PredecessorMissing(
                f"Window {window.key} of model {self.repository.model} has no evaluation report.",
                f"{self._backfill_command(window)}.",
            )
        return report

    def newest_report(self) -> Report | None:
        """The report of the newest window that has one."""
        names = list(self.repository.names(REPORTS))
        if not names:
            return None
        return self.repository.report(names[-1].removeprefix(REPORTS).removesuffix(".json"))

    def lineage(self, window: Window) -> Lineage:
        """The lineage of the window's candidate; the first one is created now if there is none.

        Raises `PredecessorMissing` without an initial model.
        """
        number = self.adoption_number(window)
        if number == 0:
            return self.first_lineage()
        adoption = self.repository.adoption(number)
        if adoption is None:
            raise self.repository.missing_error(adoption_name(number))
        return adoption.lineage

    def lineage_id(self, window: Window) -> str:
        """The id of the window's lineage."""
        return canonical.digest_of(self.lineage(window))

    def first_lineage(self) -> Lineage:
        """The lineage that continues from the initial model, with its learning spec."""
        initial_model = self.require_initial_model()
        lineage = none_if_damaged(self.repository.lineage)
        if lineage is None:
            learning_spec = {**initial_model.learning_spec, "initial": initial_model.digest}
            first = self.calendar.first.key
            lineage = self.repository.commit_lineage(
                Lineage(learning_spec, initial_model.digest, first)
            )
        return lineage

    def adoption_number(self, window: Window) -> int:
        """The number of the adoption that applies to the window; 0 if there is none.

        It is the one in the window's plan; without a plan, the newest adoption that took effect.
        """
        plan = self.repository.plan(window.key)
        if plan is not None:
            return plan.adoption
        numbers = [
            n
            for n, a in self.repository.adoptions()
            if a.window <= window.key and self.took_effect(n, a)
        ]
        return max(numbers, default=0)

    def took_effect(self, number: int, adoption: Adoption) -> bool:
        """Whether the adoption applies: its first window was not planned without it."""
        plan = self.repository.plan(adoption.window)
        return plan is None or plan.adoption >= number

    def first_unplanned_window(self) -> Window:
        """The first window without a plan."""
        names = self.repository.names(PLANS)
        keys = (name.split("/")[-1].removesuffix(".json") for name in names)
        newest = max((key for key in keys if key != INITIAL_KEY), default=None)
        calendar = self.calendar
        return calendar.first if newest is None else calendar.after(calendar.window(newest))

    def adopt_command(self) -> str:
        """The command that starts a new lineage, or continues with another topic."""
        first = self.first_unplanned_window()
        return f"`tidemill adopt {self.repository.model} --from {first} --reason REASON`"

    def _backfill_command(self, window: Window) -> str:
        return (
            f"Run `tidemill backfill {self.repository.model} --from {window.key} --to {window.key}`"
        )

    def _skip_command(self, window: Window) -> str:
        return f"`tidemill skip {self.repository.model} {window.key} --reason REASON`"

"""Lines: which learning spec each window is learned by, and whether that is still the model's."""

from collections.abc import Callable, Iterator
from typing import NoReturn

from tidemill.core import canonical
from tidemill.core.errors import LineageChanged, PredecessorMissing
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import Adoption, InitialModel, Lineage
from tidemill.core.windows import Window
from tidemill.cycle.archive import Archive, adoption_name, unless_damaged
from tidemill.cycle.mill import Mill

_ADOPTABLE = ("fields", "features", "features_source", "learner")


def initial_of(mill: Mill) -> InitialModel:
    """The initial model's record. Raises `PredecessorMissing`."""
    initial = mill.archive.initial()
    if initial is None:
        raise PredecessorMissing(
            f"Model {mill.model} has no initial model.",
            f"Materialize its asset {mill.model}/initial_model first; `tidemill backfill` does.",
        )
    return initial


def line_of(mill: Mill, window: Window) -> Lineage:
    """The line that the window's candidate belongs to; the first is begun now if there is none.

    Raises `PredecessorMissing` without an initial model.
    """
    number = adopted(mill.archive, window)
    if number == 0:
        return first_line(mill)
    adoption = mill.archive.adoption(number)
    if adoption is None:
        raise mill.archive.missing(adoption_name(number))
    return adoption.lineage


def line_id(mill: Mill, window: Window) -> str:
    """The id of the window's line."""
    return canonical.digest_of(line_of(mill, window))


def current_line(mill: Mill, window: Window) -> Lineage:
    """The window's line. Raises `LineChanged` where the model would go on by another spec.

    The windows of a line that another has followed are verified, or made again, by its own spec.
    """
    line, first = line_of(mill, window), first_line(mill).first_window
    was = {**line.learning_spec, "first_window": first}
    now = {**was, **mill.learning(), "first_window": mill.spec.calendar.first.key}
    if was != now and not any(a.window > window.key for _, a in adoptions(mill.archive)):
        refuse_change(mill, was, now)
    return line


def line_if_begun(mill: Mill, window: Window) -> Lineage | None:
    """The window's line as `current_line` gives it; None before there is an initial model."""
    begun = unless_damaged(mill.archive.initial) is not None
    return current_line(mill, window) if begun else None


def by_line(mill: Mill) -> Callable[[Window], Mill]:
    """The mill as each window's line learns, made once a line."""
    made: dict[str, Mill] = {}

    def of(window: Window) -> Mill:
        line = line_of(mill, window)
        return made.setdefault(canonical.digest_of(line), mill.under(line.learning_spec))

    return of


def first_line(mill: Mill) -> Lineage:
    """The line that goes on from the initial model, by the spec that this was made by."""
    made, standing = initial_of(mill), unless_damaged(mill.archive.line)
    if standing is None:
        learning = {**made.learning_spec, "initial": made.digest}
        first = mill.spec.calendar.first.key
        standing = mill.archive.commit_line(Lineage(learning, made.digest, first))
    return standing


def adopted(archive: Archive, window: Window) -> int:
    """The number of the adoption that the window is made under; 0 where there is none.

    A window's plan says it. One that is not planned goes by the newest adoption that came in time.
    """
    planned = archive.plan(window.key)
    if planned is not None:
        return planned.adoption
    known = [n for n, a in adoptions(archive) if a.window <= window.key and in_time(archive, n, a)]
    return max(known, default=0)


def in_time(archive: Archive, number: int, adoption: Adoption) -> bool:
    """Whether the adoption's first window was not planned without it: else it never counts."""
    planned = archive.plan(adoption.window)
    return planned is None or planned.adoption >= number


def adoptions(archive: Archive) -> Iterator[tuple[int, Adoption]]:
    """Every adoption and its number, in order: as many as there were decisions to adopt."""
    number = 1
    while (adoption := archive.adoption(number)) is not None:
        yield number, adoption
        number += 1


def unplanned(mill: Mill) -> Window:
    """The first window that is not planned."""
    keys = (name.split("/")[-1].removesuffix(".json") for name in mill.archive.names("plans/"))
    newest = max((key for key in keys if key != INITIAL_KEY), default=None)
    calendar = mill.spec.calendar
    return calendar.first if newest is None else calendar.after(calendar.window(newest))


def differing(was: object, now: object, path: str = "") -> set[str]:
    """The keys in which two learning specs differ, with dots between their parts."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = was.keys() | now.keys()
        found = (differing(was.get(k), now.get(k), f"{path}.{k}" if path else k) for k in keys)
        return set().union(*found)
    return set() if was == now else {path}


def adoptable(keys: set[str]) -> bool:
    """Whether a line may be followed by one that differs in these keys of the learning spec."""
    return all(key.split(".")[0] in _ADOPTABLE for key in keys)


def refuse_change(mill: Mill, was: object, now: object) -> NoReturn:
    """Raise `LineChanged` with the keys in which two learning specs differ."""
    keys = differing(was, now)
    remedy = "Undo the change in defs.yaml, or define a model of a new name."
    if adoptable(keys):
        remedy = (
            "Undo the change in defs.yaml, define a model of a new name, or go on in a new line by "
            f"`tidemill adopt {mill.model} --from {unplanned(mill)} --why REASON`."
        )
    raise LineageChanged(
        f"Model {mill.model} would learn by another spec than its line was begun with: "
        f"{', '.join(f'`{key}`' for key in sorted(keys))} differ.",
        remedy,
    )

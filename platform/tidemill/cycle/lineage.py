"""Lineages: the learning spec of each window, and whether it still matches the model's."""

from collections.abc import Callable, Iterator
from typing import NoReturn

from tidemill.core import canonical
from tidemill.core.errors import LineageChanged, PredecessorMissing
from tidemill.core.plans import INITIAL_KEY
from tidemill.core.records import Adoption, InitialModel, Lineage
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository, adoption_name, none_if_damaged

_ADOPTABLE_KEYS = ("fields", "features", "features_source", "learner")


def require_initial_model(ctx: ModelContext) -> InitialModel:
    """The initial model's record. Raises `PredecessorMissing`."""
    initial_model = ctx.repository.initial_model()
    if initial_model is None:
        raise PredecessorMissing(
            f"Model {ctx.model} has no initial model.",
            f"Materialize its asset {ctx.model}/initial_model first; `tidemill backfill` does so.",
        )
    return initial_model


def lineage_for(ctx: ModelContext, window: Window) -> Lineage:
    """The lineage of the window's candidate; the first lineage is created now if there is none.

    Raises `PredecessorMissing` without an initial model.
    """
    number = adoption_number(ctx.repository, window)
    if number == 0:
        return first_lineage(ctx)
    adoption = ctx.repository.adoption(number)
    if adoption is None:
        raise ctx.repository.missing_error(adoption_name(number))
    return adoption.lineage


def lineage_id_for(ctx: ModelContext, window: Window) -> str:
    """The id of the window's lineage."""
    return canonical.digest_of(lineage_for(ctx, window))


def current_lineage(ctx: ModelContext, window: Window) -> Lineage:
    """The window's lineage. Raises `LineageChanged` if the model's learning spec has changed.

    Windows of a lineage that an adoption has ended are not compared: they keep their own spec.
    """
    lineage, first = lineage_for(ctx, window), first_lineage(ctx).first_window
    old = {**lineage.learning_spec, "first_window": first}
    new = {**old, **ctx.learning_spec(), "first_window": ctx.spec.calendar.first.key}
    if old != new and not any(a.window > window.key for _, a in adoptions(ctx.repository)):
        raise_lineage_changed(ctx, old, new)
    return lineage


def lineage_or_none(ctx: ModelContext, window: Window) -> Lineage | None:
    """The window's lineage, checked as by `current_lineage`; None before the initial model."""
    has_initial_model = none_if_damaged(ctx.repository.initial_model) is not None
    return current_lineage(ctx, window) if has_initial_model else None


def contexts_by_lineage(ctx: ModelContext) -> Callable[[Window], ModelContext]:
    """A function from a window to the context with its lineage's spec; one context per lineage."""
    contexts: dict[str, ModelContext] = {}

    def context_for(window: Window) -> ModelContext:
        lineage = lineage_for(ctx, window)
        return contexts.setdefault(
            canonical.digest_of(lineage), ctx.with_learning_spec(lineage.learning_spec)
        )

    return context_for


def first_lineage(ctx: ModelContext) -> Lineage:
    """The lineage that continues from the initial model, with the learning spec of the latter."""
    initial_model, lineage = require_initial_model(ctx), none_if_damaged(ctx.repository.lineage)
    if lineage is None:
        learning_spec = {**initial_model.learning_spec, "initial": initial_model.digest}
        first = ctx.spec.calendar.first.key
        lineage = ctx.repository.commit_lineage(Lineage(learning_spec, initial_model.digest, first))
    return lineage


def adoption_number(repository: ModelRepository, window: Window) -> int:
    """The number of the adoption that applies to the window; 0 if there is none.

    It is the one in the window's plan; without a plan, the newest adoption that took effect.
    """
    plan = repository.plan(window.key)
    if plan is not None:
        return plan.adoption
    numbers = [
        n
        for n, a in adoptions(repository)
        if a.window <= window.key and took_effect(repository, n, a)
    ]
    return max(numbers, default=0)


def took_effect(repository: ModelRepository, number: int, adoption: Adoption) -> bool:
    """Whether the adoption applies: its first window was not planned without it."""
    plan = repository.plan(adoption.window)
    return plan is None or plan.adoption >= number


def adoptions(repository: ModelRepository) -> Iterator[tuple[int, Adoption]]:
    """Every adoption with its number, in order from 1."""
    number = 1
    while (adoption := repository.adoption(number)) is not None:
        yield number, adoption
        number += 1


def first_unplanned_window(ctx: ModelContext) -> Window:
    """The first window without a plan."""
    keys = (name.split("/")[-1].removesuffix(".json") for name in ctx.repository.names("plans/"))
    newest = max((key for key in keys if key != INITIAL_KEY), default=None)
    calendar = ctx.spec.calendar
    return calendar.first if newest is None else calendar.after(calendar.window(newest))


def differing_keys(old: object, new: object, path: str = "") -> set[str]:
    """The keys in which two learning specs differ, as dotted paths."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        nested = (
            differing_keys(old.get(k), new.get(k), f"{path}.{k}" if path else k) for k in keys
        )
        return set().union(*nested)
    return set() if old == new else {path}


def adoptable(keys: set[str]) -> bool:
    """Whether `adopt` allows these keys of the learning spec to change."""
    return all(key.split(".")[0] in _ADOPTABLE_KEYS for key in keys)


def raise_lineage_changed(ctx: ModelContext, old: object, new: object) -> NoReturn:
    """Raise `LineageChanged` with the keys in which two learning specs differ."""
    keys = differing_keys(old, new)
    remedy = "Undo the change in defs.yaml, or define a model of a new name."
    if adoptable(keys):
        remedy = (
            "Undo the change in defs.yaml, define a model of a new name, or start a new lineage "
            f"with `tidemill adopt {ctx.model} --from {first_unplanned_window(ctx)} --reason "
            "REASON`."
        )
    raise LineageChanged(
        f"The learning spec of model {ctx.model} is not that of its lineage: "
        f"{', '.join(f'`{key}`' for key in sorted(keys))} differ.",
        remedy,
    )

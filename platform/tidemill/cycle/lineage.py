"""Lineages: whether the model's learning spec is still the one that a window's lineage has."""

from collections.abc import Callable
from typing import NoReturn

from tidemill.core import canonical
from tidemill.core.errors import LineageChanged
from tidemill.core.records import Lineage
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.model_store import none_if_damaged

_ADOPTABLE_KEYS = ("fields", "features", "features_source", "learner")


def checked_lineage(ctx: ModelContext, window: Window) -> Lineage:
    """The window's lineage. Raises `LineageChanged` if the model's learning spec has changed.

    Windows of a lineage that an adoption has ended are not compared: they keep their own spec.
    """
    lineage = ctx.records.lineage(window)
    first = ctx.records.first_lineage().first_window
    old = {**lineage.learning_spec, "first_window": first}
    new = {**old, **ctx.learning_spec(), "first_window": ctx.spec.calendar.first.key}
    if old != new and not any(a.window > window.key for _, a in ctx.repository.adoptions()):
        raise_lineage_changed(ctx, old, new)
    return lineage


def checked_lineage_or_none(ctx: ModelContext, window: Window) -> Lineage | None:
    """The window's lineage, checked as by `checked_lineage`; None before the initial model."""
    has_initial_model = none_if_damaged(ctx.repository.initial_model) is not None
    return checked_lineage(ctx, window) if has_initial_model else None


def contexts_by_lineage(ctx: ModelContext) -> Callable[[Window], ModelContext]:
    """A function from a window to the context with its lineage's spec; one context per lineage."""
    contexts: dict[str, ModelContext] = {}

    def context_for(window: Window) -> ModelContext:
        lineage = ctx.records.lineage(window)
        return contexts.setdefault(
            canonical.digest_of(lineage), ctx.with_learning_spec(lineage.learning_spec)
        )

    return context_for


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
            f"with {ctx.records.adopt_command()}."
        )
    raise LineageChanged(
        f"The learning spec of model {ctx.model} is not that of its lineage: "
        f"{', '.join(f'`{key}`' for key in sorted(keys))} differ.",
        remedy,
    )

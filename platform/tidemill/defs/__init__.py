"""Dagster's side of tidemill: a model's `defs.yaml` becomes its assets and checks."""

from tidemill.defs.component import IncrementalModel

__all__ = ["IncrementalModel"]

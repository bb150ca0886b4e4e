"""The Dagster integration: a model's `defs.yaml` becomes its assets, checks and sensors."""

from tidemill.defs.component import IncrementalModel

__all__ = ["IncrementalModel"]

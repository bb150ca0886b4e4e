"""The Dagster component of one model, with the schema of its `defs.yaml`."""

from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tidemill.core.spec import ModelSpec
from tidemill.defs.assets import build_assets
from tidemill.defs.freshness import freshness_check
from tidemill.defs.simulated_events import build_simulated_events
from tidemill.model_files import find_defs_file, read_spec


class _Attributes(BaseModel):
    """Has the schema of `ModelSpec`, but accepts all values.

    Dagster validates attributes before `load`, and its errors name the file without the line. Here
    all values pass, and `spec_parser.parse` validates the text itself.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(ModelSpec.__pydantic_core_schema__)


@dataclass(frozen=True)
class IncrementalModel(dg.Component):
    """A LightGBM model that is kept up to date from a Kafka topic, window by window.

    The folder's name is the model's name and the prefix of its asset keys: `initial_model`,
    `kafka_batch`, `candidate_model`, `evaluation_report` and `deployed_model`.
    """

    spec: ModelSpec

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(
            description=cls.__doc__,
            owners=["team:tidemill"],
            tags=["incremental-learning", "kafka", "lightgbm"],
            produces=["asset", "asset_check"],
        )

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model of `attributes`, with the schema of `ModelSpec`."""
        return _Attributes

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> "IncrementalModel":
        """The model of the folder's `defs.yaml`. Raises `SpecInvalid` with line numbers."""
        file = find_defs_file(context.path)
        assert file is not None  # Dagster has found it
        return cls(read_spec(file))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The assets and checks of this model, and the asset of its simulated events."""
        return dg.Definitions(
            assets=[
                *build_assets(self.spec),
                *build_simulated_events(self.spec),
            ],
            asset_checks=[freshness_check(self.spec)],
        )

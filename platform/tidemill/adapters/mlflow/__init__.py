"""MLflow: the tracker that people look at.

The alias follows the head of the ledger. Nothing is loaded from MLflow: a version's source names a
bundle in the store and has no flavor.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it sends data from its import on

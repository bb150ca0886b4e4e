"""The packaged models: one folder with a `defs.yaml` per model."""

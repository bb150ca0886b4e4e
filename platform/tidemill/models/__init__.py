"""One folder and one `defs.yaml` a model."""

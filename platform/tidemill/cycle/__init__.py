"""One update of a model, over ports: planning, steps, operations, and audit."""

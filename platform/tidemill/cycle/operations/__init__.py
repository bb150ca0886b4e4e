"""Operations: what people decide about a model, and the upkeep of its store."""

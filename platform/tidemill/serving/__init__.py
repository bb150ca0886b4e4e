"""The prediction server: the champion of every model, answered over HTTP, swapped in flight."""

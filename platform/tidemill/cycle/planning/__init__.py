"""Planning: which offsets belong to which window, and which windows are due."""

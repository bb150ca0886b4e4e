"""The four steps of one update, each a function over ports: extract, update, evaluate, deploy."""

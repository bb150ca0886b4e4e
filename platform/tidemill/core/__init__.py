"""Pure rules: no clock, disk, network or environment; time, randomness and bytes are arguments."""

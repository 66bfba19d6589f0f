"""Sweeps: what changed after it was billed is found, by day and by hour, and listed for the runs that correct it."""

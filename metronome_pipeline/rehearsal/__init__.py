"""Rehearsal: what a run would do, by its own functions, rolled back."""

"""Reconciliation: Metronome read afresh, the ledger, and Solvimon, side by side. It sends nothing."""

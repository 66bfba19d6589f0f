"""Rebuilding a ledger that was lost from what Solvimon holds."""

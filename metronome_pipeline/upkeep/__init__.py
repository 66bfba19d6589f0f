"""Upkeep of what is stored: how long raw usage is kept, whose data is erased, and backups."""

"""Names in Dagster: asset keys and pools, and what the account's name adds to them.

Here: the one place where ACCOUNT_NAME becomes part of a name, so that several accounts share an instance without
sharing materializations, checks or pools. Not here: what tells their runs apart (``tags.py``).
"""

from typing import Literal

import dagster as dg

from metronome_pipeline.settings import Settings

Side = Literal["metronome", "solvimon"]


def asset_key(settings: Settings, side: Side, name: str) -> dg.AssetKey:
    """The key of an asset: ``metronome/usage``, and ``acme/metronome/usage`` for the account acme."""
    return dg.AssetKey([*([settings.account_name] if settings.account_name else []), side, name])


def pool_of(settings: Settings, side: Side) -> str:
    """The pool of the steps that ask one API: ``metronome_api``, and ``acme_metronome_api`` for the account acme."""
    return "_".join([*([settings.account_name] if settings.account_name else []), side, "api"])

"""Customers → customers. Pure; not here: which exist already (``workflows/customers.py``)."""

from msgspec import UNSET

from metronome_pipeline.mapping.meters import one_line_name
from metronome_pipeline.solvimon.records import Organization
from metronome_pipeline.solvimon.requests import NewCustomer


def customer_from_metronome(customer_id: str, name: str, *, email: str | None) -> NewCustomer:
    """The Solvimon organization of a Metronome customer: ``reference`` ← id, ``legal_name`` ← name.

    Solvimon names are one line of at most 256 characters. ``email`` is sent only where a setting gives one.
    """
    return NewCustomer(
        reference=customer_id,
        organization=Organization(legal_name=one_line_name(name)),
        email=UNSET if email is None else email,
    )

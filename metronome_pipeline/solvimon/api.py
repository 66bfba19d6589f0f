"""Solvimon's API, a method per endpoint in scope, as one client.

Here: which families of endpoints it has. Not here: the endpoints themselves (a file per family), which name or
reference something gets (``mapping/``), retries (``http.py``), Metronome, Dagster.

``find_*`` looks up by reference and gives None when there is none. ``create_*`` raises ``AlreadyExists`` where the
reference is taken. ``upsert_*`` replaces what is there. ``update_*`` sends what is set and leaves the rest.
``delete_*`` gives None when there is nothing to delete.
"""

from metronome_pipeline.solvimon.catalogue import CatalogueCalls
from metronome_pipeline.solvimon.customers import CustomerCalls
from metronome_pipeline.solvimon.events import EventCalls
from metronome_pipeline.solvimon.meter_data import MeterDataCalls
from metronome_pipeline.solvimon.meters import MeterCalls
from metronome_pipeline.solvimon.reprocessing import ReprocessCalls


class SolvimonApi(EventCalls, MeterDataCalls, ReprocessCalls, CustomerCalls, MeterCalls, CatalogueCalls):
    """One session's typed client."""

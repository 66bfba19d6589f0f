"""One made-up problem of each kind, to see what people would be told and whether it reaches them."""

from datetime import datetime, timedelta

from metronome_pipeline.alerts import messages
from metronome_pipeline.alerts.messages import Message, Place
from metronome_pipeline.alerts.problems import Kind, Problem, record

_WHAT = {
    Kind.brake: "1 plan would take back too much of what was billed for API calls, and is held.",
    Kind.late: "2 changes came after the invoices of the billing period that ended on 2026-02-01 were final; 0 of them "
    "held, the rest sent.",
    Kind.quarantine: "Solvimon refused 3 events (RESOURCE_NOT_FOUND, field meter_reference).",
    Kind.reconciliation: "Delivered equals observed: not so for solvimon/reconciliation on 1 day, the last 2026-01-31.",
    Kind.stale_usage: "4 closed hours of solvimon/usage_events are not ingested, 3 hours after closing.",
    Kind.unsettled: "1 hour of usage differs from what Solvimon was told, for over 3 hours.",
    Kind.run_failure: "Run 0f1e2d3c of ingest_usage failed.",
    Kind.red_check: "Every metric is billed: not so for metronome/usage.",
}
_ASSETS = {Kind.reconciliation: "solvimon/reconciliation", Kind.red_check: "metronome/usage"}


def sample(kind: Kind, account: str = "") -> Problem:
    """A problem of a kind that nobody has, in an account with a name or without."""
    asset = "/".join([*([account] if account else []), _ASSETS.get(kind, "solvimon/usage_events")])
    return Problem(
        key=f"sample {kind.name}",
        kind=kind,
        what=_WHAT[kind],
        state="",
        to_do="Nothing: this is a test, asked for with `metronome-pipeline alert test`.",
        records=(record("Example customer", "API calls", "2026-01-31 13:00 UTC"),),
        page="runs" if kind is Kind.run_failure else f"assets/{asset}?view=checks",
    )


def sample_messages(place: Place, now: datetime) -> dict[str, Message]:
    """A message of each kind, by its name, and one of a problem that is over; each says that it is a test."""
    told = {kind.value: messages.told(sample(kind, place.account), place) for kind in Kind}
    over = messages.over(sample(Kind.quarantine).headline, now - timedelta(hours=3), now, place)
    return {name: _as_test(message) for name, message in {**told, "Over": over}.items()}


def _as_test(message: Message) -> Message:
    environment, bracket, rest = message.subject.partition("] ")
    return Message(f"{environment}{bracket}Test. {rest}", message.body)

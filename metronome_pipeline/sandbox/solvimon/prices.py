"""What an event costs, where a subscription has a price: quantity times unit price, without tax.

Here: the cost prediction of one event. How the real thing predicts is not published; tiers, minimums and taxes are not
modelled. Not here: invoices, and which event a subscription covers (store.py).
"""

from decimal import Context, Decimal, Inexact

from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.truth import plain
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

_EXACT = Context(prec=20_000, traps=[Inexact])


def cost_of(store: Store, event: Event) -> JsonObject:
    """The ``cost_prediction`` of an event.

    ``FAILED`` where no subscription covers it, ``NOT_SUPPORTED`` where the one that does has no price (both assumed).
    """
    subscription = store.subscription_for(event)
    if subscription is None:
        return {"response": "FAILED", "details": None, "used_change_rates": None}
    if subscription.price is None:
        return {"response": "NOT_SUPPORTED", "details": None, "used_change_rates": None}
    unit, currency = subscription.price
    quantity = Decimal(0)
    for value in event.values:
        quantity = _EXACT.add(quantity, Decimal(value.get("number") or "0"))
    amount = {"quantity": plain(_EXACT.multiply(quantity, unit)), "currency": currency}
    detail = {
        "customer_id": event.customer_id,
        "invoice_id": subscription.invoice_at(event.instant),
        "amount_excluding_tax": amount,
        "amount_including_tax": amount,
        "periods": [],
    }
    return {"response": "OK", "details": [detail], "used_change_rates": []}

"""A plan as one JSON object. Quantities and amounts are decimal texts, times are ISO 8601. Not here: what a plan is."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from metronome_pipeline.cli.terminal import plain
from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.rehearsal.estimate import Estimate
from metronome_pipeline.rehearsal.imports import ImportPlan
from metronome_pipeline.rehearsal.lines import What
from metronome_pipeline.rehearsal.prices import Difference, Prices
from metronome_pipeline.rehearsal.session import AllDue
from metronome_pipeline.rehearsal.usage import UsagePlan
from metronome_pipeline.solvimon.requests import plain_number


def imports(plans: Sequence[ImportPlan]) -> str:
    """What imports would do, by what they bring over."""
    return _text(
        {
            plan.what: {
                "records": [
                    {"reference": o.reference, "name": o.name, "outcome": o.outcome, "reason": o.reason}
                    for o in plan.outcomes
                ],
                "requests": asdict(plan.requests),
            }
            for plan in plans
        }
    )


def usage(plan: UsagePlan, events: Sequence[tuple[What, Proposal]], prices: Prices | None) -> str:
    """What a backfill would do."""
    due = plan.due
    told: dict[str, Any] = {
        **_head(due, plan.window.start, plan.window.end),
        "does_everything": plan.does_everything,
        "lines": [
            {"customer": due.customers.get(line.customer_id), "metric": due.metrics.get(line.metric_id), **asdict(line)}
            for line in plan.lines
        ],
        "brakes": [{name: value for name, value in asdict(brake).items() if name != "digest"} for brake in plan.brakes],
        "unread": [asdict(each) for each in plan.unread],
        "new_customers": plan.new_customers,
        "requests": asdict(plan.requests),
    }
    if events:
        told["events"] = [{"what": what, **asdict(proposal)} for what, proposal in events]
    if prices is not None:
        told["priced"] = [{**_difference(each.difference), "amounts": dict(each.amounts)} for each in prices.priced]
        told["unpriced"] = [{**_difference(each.difference), "reason": each.reason} for each in prices.unpriced]
        told["totals"] = [
            {"customer_id": customer_id, "currency": currency, "amount": amount}
            for (customer_id, currency), amount in prices.totals.items()
        ]
    return _text(told)


def estimate(estimated: Estimate) -> str:
    """What a backfill would take."""
    return _text(
        {
            **_head(estimated.due, estimated.window.start, estimated.window.end),
            "runs": estimated.runs,
            "pairs": estimated.pairs,
            "pages": {workflow: asdict(pages) for workflow, pages in estimated.pages.items()},
            "sampled": estimated.sampled,
            "walks": estimated.walks,
            "requests": asdict(estimated.requests),
            "metronome_margin": estimated.metronome_margin,
            "solvimon_margin": estimated.solvimon_margin,
        }
    )


def _head(due: AllDue, start: datetime, end: datetime) -> dict[str, Any]:
    return {"from": start, "to": end, "refused": [asdict(metric) for metric in due.refused]}


def _difference(difference: Difference) -> dict[str, Any]:
    return asdict(difference)


def _text(told: Any) -> str:
    return plain(json.dumps(told, default=_plain, ensure_ascii=False, indent=2))


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return plain_number(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")

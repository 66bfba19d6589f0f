"""What a person sees of a plan: tables, and sentences beneath them. Not here: what a plan is (``workflows/``)."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import click

from metronome_pipeline.cli.terminal import plain, show_table
from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.mapping.usage import exact_sum
from metronome_pipeline.rehearsal.estimate import Estimate
from metronome_pipeline.rehearsal.imports import ImportPlan
from metronome_pipeline.rehearsal.lines import SOLVIMON_SECONDS, Line, Requests, What
from metronome_pipeline.rehearsal.prices import Prices
from metronome_pipeline.rehearsal.session import AllDue
from metronome_pipeline.rehearsal.usage import UsagePlan
from metronome_pipeline.solvimon.requests import plain_number
from metronome_pipeline.workflows.reports import time_in_words

_TO_DO = {"created": "create", "updated": "update", "unchanged": "leave as it is", "refused": "refuse"}
_IN_WORDS: Mapping[What, str] = {
    "earlier": "send, planned earlier",
    "hold: brake": "hold (brake)",
    "hold: late": "hold (late)",
    "wait": "leave waiting (hours)",
}
_LINE_COLUMNS = ("customer", "metric", "to do", "events", "quantity", "late", "first hour (UTC)", "last hour (UTC)")
_EVENT_COLUMNS = ("hour (UTC)", "customer", "metric", "to do", "number", "properties", "reference")
_NOTHING_WRITTEN = "Nothing was written."


def show_imports(plans: Sequence[ImportPlan], *, everything: bool) -> None:
    """What imports would do, a table for each, then their numbers. ``everything``: what would stay as it is, too."""
    for plan in plans:
        shown = [each for each in plan.outcomes if everything or each.outcome != "unchanged" or each.reason]
        rows = [(each.name, _TO_DO[each.outcome], each.reason or "", each.reference) for each in shown]
        if rows:
            show_table(f"Import of {plan.what}", ("name", "to do", "reason or note", "reference"), rows)
    numbers = [
        (plan.what, *(len(plan.of(outcome)) for outcome in _TO_DO), plan.requests.metronome, plan.requests.solvimon)
        for plan in plans
    ]
    columns = ("import", *_TO_DO.values(), "requests to Metronome", "to Solvimon")
    show_table("What imports would do", columns, numbers)
    click.echo(f"About {time_in_words(sum(plan.requests.seconds for plan in plans))}. {_NOTHING_WRITTEN}")


def show_usage(plan: UsagePlan, events: Sequence[tuple[What, Proposal]], prices: Prices | None) -> None:
    """What a backfill would do, by customer and metric, with totals by metric."""
    due, title = plan.due, _title(plan.window)
    if events:
        show_table(f"Events, {title}", _EVENT_COLUMNS, [_event(due, what, proposal) for what, proposal in events])
    if plan.lines:
        lines, totals = [_line(due, line) for line in plan.lines], _totals(plan)
        show_table(f"A run over {title} would", _LINE_COLUMNS, [*lines, *totals], last=len(totals))
    else:
        click.echo(f"A run over {title} would send nothing.")
    _show_refused(due)
    _show_brakes(plan)
    _show_unread(plan)
    if plan.new_customers:
        click.echo(plain(f"Created in Solvimon first: {', '.join(plan.new_customers)}."))
    if prices is not None:
        _show_prices(due, prices)
    _show_requests(plan.requests)


def show_estimate(estimate: Estimate) -> None:
    """What a backfill would take."""
    _show_refused(estimate.due)
    click.echo(
        f"{_title(estimate.window)}: {estimate.pairs:,} pairs of a customer and a metric, in {estimate.runs:,} runs."
    )
    for workflow, pages in estimate.pages.items():
        size = f"{pages.windows} windows" if pages.windows else "all windows that were asked for"
        pairs = "several pairs" if pages.crossing else "one pair"
        click.echo(f"A page of {workflow.replace('_', ' ')} holds {size}, of {pairs}.")
    click.echo(
        f"Read as a sample: {estimate.sampled:,} of {estimate.walks:,} weeks of a pair. By it, the number for "
        f"Metronome may be off by {estimate.metronome_margin:.1%}, that for Solvimon by "
        f"{estimate.solvimon_margin:.1%}."
    )
    _show_requests(estimate.requests)


def _title(window: Window) -> str:
    return f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"


def _line(due: AllDue, line: Line) -> tuple[object, ...]:
    customer = due.customers.get(line.customer_id, line.customer_id)
    metric = due.metrics.get(line.metric_id, line.metric_id)
    to_do = _IN_WORDS.get(line.what, line.what)
    return customer, metric, to_do, line.events, _plain(line.quantity), line.late or None, line.first, line.last


def _totals(plan: UsagePlan) -> list[tuple[object, ...]]:
    """By metric and kind: sums, of a MAX meter the highest."""
    found: dict[tuple[str, What], list[Line]] = {}
    for line in plan.lines:
        found.setdefault((line.metric_id, line.what), []).append(line)
    rows: list[tuple[object, ...]] = []
    for (metric_id, what), lines in found.items():
        numbers = [line.quantity for line in lines if line.quantity is not None]
        rows.append(
            (
                "all",
                plan.due.metrics.get(metric_id, metric_id),
                _IN_WORDS.get(what, what),
                sum(line.events for line in lines),
                _plain(_together(numbers, maximum=plan.due.calculations.get(metric_id) == "MAX")),
                sum(line.late for line in lines) or None,
                min(line.first for line in lines),
                max(line.last for line in lines),
            )
        )
    return rows


def _together(numbers: Sequence[Decimal], *, maximum: bool) -> Decimal | None:
    if not numbers:
        return None
    return max(numbers) if maximum else exact_sum(numbers)


def _plain(number: Decimal | None) -> Decimal | None:
    """Without zeros at its end, which arithmetic leaves."""
    return None if number is None else Decimal(plain_number(number))


def _event(due: AllDue, what: What, proposal: Proposal) -> tuple[object, ...]:
    return (
        proposal.start,
        due.customers.get(proposal.customer_id, proposal.customer_id),
        due.metrics.get(proposal.metric_id, proposal.metric_id),
        _IN_WORDS.get(what, what),
        _plain(proposal.number),
        proposal.properties,
        proposal.reference,
    )


def _show_refused(due: AllDue) -> None:
    if due.refused:
        rows = [(metric.name, metric.reason, metric.metric_id) for metric in due.refused]
        show_table("Metrics whose usage is not sent", ("metric", "reason", "metric id"), rows)


def _show_brakes(plan: UsagePlan) -> None:
    due = plan.due
    rows = [
        (
            due.customers.get(brake.customer_id, brake.customer_id) if brake.customer_id else "all",
            due.metrics.get(brake.metric_id, brake.metric_id),
            _plain(brake.billed),
            _plain(brake.observed),
            _plain(exact_sum([brake.observed, brake.billed.copy_negate()])),
        )
        for brake in plan.brakes
    ]
    if rows:
        show_table("The brake would hold", ("customer", "metric", "billed", "observed", "change"), rows)


def _show_unread(plan: UsagePlan) -> None:
    due = plan.due
    rows = [
        (due.customers.get(each.customer_id), ", ".join(due.metrics.get(m, m) for m in each.metric_ids), each.reason)
        for each in plan.unread
    ]
    if rows:
        show_table("Not read", ("customer", "metrics", "reason"), rows)


def _show_prices(due: AllDue, prices: Prices) -> None:
    totals = [
        (due.customers.get(customer, customer), amount, currency)
        for (customer, currency), amount in prices.totals.items()
    ]
    if totals:
        show_table(
            "What it costs, by Solvimon, without tax", ("customer", "amount", "currency"), sorted(totals, key=str)
        )
    if prices.unpriced:
        rows = [
            (
                due.customers.get(each.difference.customer_id, each.difference.customer_id),
                due.metrics.get(each.difference.metric_id, each.difference.metric_id),
                each.difference.properties,
                _plain(each.difference.number),
                each.reason,
            )
            for each in prices.unpriced
        ]
        show_table("Without a price", ("customer", "metric", "properties", "quantity", "reason"), rows)


def _show_requests(requests: Requests) -> None:
    rows = [
        ("Metronome", requests.metronome, time_in_words(requests.metronome_seconds), "METRONOME_REQUESTS_PER_SECOND"),
        (
            "Solvimon",
            requests.solvimon,
            time_in_words(requests.solvimon_seconds),
            f"{SOLVIMON_SECONDS:g} s a request, assumed",
        ),
        ("together", requests.metronome + requests.solvimon, time_in_words(requests.seconds), ""),
    ]
    show_table("A run would make", ("system", "requests", "about", "at the pace of"), rows, last=1)
    click.echo(_NOTHING_WRITTEN)

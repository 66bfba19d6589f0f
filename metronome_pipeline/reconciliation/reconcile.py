"""Reconcile: Metronome's totals, the ledger's and Solvimon's, side by side, for every customer and metric.

Here: the order of the looks. Solvimon's lists first, then days, hours where a day differs, or every event where that
was asked for. Both APIs are only read, and nothing of it is planned, sent or mended. Not here: what differs and why
(``differences.py``), and who asks.
"""

from metronome_pipeline.errors import Malformed
from metronome_pipeline.ledger.read import midnight
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.reconciliation.by_day import compare_days, compare_hours, suspect
from metronome_pipeline.reconciliation.by_event import compare_events
from metronome_pipeline.reconciliation.comparison import Accounts, Comparison, Question, Take
from metronome_pipeline.reconciliation.readback import SolvimonLists, read_lists
from metronome_pipeline.reconciliation.tally import Tally

__all__ = ["Accounts", "Question", "Take", "Tally", "reconcile"]


async def reconcile(accounts: Accounts, question: Question, take: Take) -> Tally:
    """Compares everything, gives ``take`` the lines of each day as they are made, and returns what it amounts to.

    A pair that cannot be read does not keep the others from being compared: it is listed.

    Raises:
        Unauthorised: One of the two refuses the credential.
        Unavailable, RateLimited: Metronome or Solvimon is down.
    """
    comparison = Comparison(accounts, question, take)
    await _read_lists(comparison)
    if question.deep:
        await compare_events(comparison)
    else:
        await compare_days(comparison)
        await compare_hours(comparison)
    return comparison.tally


async def _read_lists(comparison: Comparison) -> None:
    """Solvimon's own lists, of the account or of each customer: with ``deep`` only what is not billed."""
    question, accounts, tally = comparison.question, comparison.accounts, comparison.tally
    ids: list[str | None] = [None]
    if not question.whole_account:
        ids = [found for each in question.starts if (found := await comparison.solvimon_id(each)) is not None]
    before = accounts.solvimon.http.counts().requests
    for solvimon_id in ids:
        try:
            lists = await read_lists(
                accounts.solvimon, question.window, comparison.metrics, solvimon_id, unmatched_only=question.deep
            )
        except Malformed as error:
            tally.unread.append(Unread(solvimon_id or "all", (), str(error)))
            continue
        _note_unmatched(comparison, lists)
        await suspect(comparison, lists)
    tally.list_requests = accounts.solvimon.http.counts().requests - before
    accounts.say(
        f"Solvimon's lists of {'unmatched' if question.deep else 'unmatched, duplicate and deleted'} events, which "
        f"have no filter by date: {tally.list_requests:,} requests."
    )


def _note_unmatched(comparison: Comparison, lists: SolvimonLists) -> None:
    for (customer_id, metric_id, start), unmatched in lists.unmatched.items():
        comparison.unmatched.setdefault((customer_id, metric_id, midnight(start)), []).append(unmatched)

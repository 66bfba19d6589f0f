"""The checks of ``metronome-pipeline check``: each looks at one thing and says what it found, and what to do.

Here: harmless reads, a batch that cannot be taken, clocks. The only writes are the probe's
(``ledger/deduplication.py``) and the schema of our own database. Not here: the terminal.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from metronome_pipeline.cli.metrics_review import listed_metrics, review
from metronome_pipeline.cli.pair import RUN_ID, OpenPair, open_pair
from metronome_pipeline.cli.pricing import conditions_on_optional_properties
from metronome_pipeline.cli.runs import prove_deduplication
from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.definitions import metronome_resource, solvimon_resource
from metronome_pipeline.errors import ApiError, PipelineError, Refused, Unauthorised, quoted
from metronome_pipeline.http import Http, Service, Unpaced
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.setting_values import is_loopback
from metronome_pipeline.settings import TEST_HOST, Permitted, Settings
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import idempotency_keys
from metronome_pipeline.solvimon.refusals import batch_limit
from metronome_pipeline.solvimon.requests import UsageEvent
from metronome_pipeline.storage.embedded import EmbeddedPostgresError

_RANDOM = random.SystemRandom()

# Solvimon refuses what is 30 minutes ahead, and hours are closed by minutes: a minute is nobody's fault, ten are.
_CLOCK_TOLERANCE = timedelta(seconds=60)

# Of a list that a command of its own shows whole.
_TOLD = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """One check. ``ok`` None: nothing is wrong, but a person should know. ``ends``: asking on is in vain."""

    what: str
    ok: bool | None
    found: str
    to_do: str = ""
    ends: bool = False

    @property
    def verdict(self) -> str:
        """One word."""
        return {True: "ok", False: "NOT OK", None: "note"}[self.ok]


def _ok(what: str, found: str) -> Finding:
    return Finding(what, True, found)  # noqa: FBT003 - this is where it gets its name


def _wrong(what: str, found: str, to_do: str = "", *, ends: bool = False) -> Finding:
    return Finding(what, False, found, to_do, ends)  # noqa: FBT003


def _note(what: str, found: str, to_do: str = "") -> Finding:
    return Finding(what, None, found, to_do)


def is_live(settings: Settings) -> bool:
    """Whether events sent to this Solvimon may become invoices."""
    return settings.account_pair.solvimon_host != TEST_HOST and not is_loopback(settings.solvimon_base_url)


async def check(settings: Settings, *, probe: bool, say: Say) -> list[Finding]:
    """Every check, in the order in which a person mends things. None stops the others."""
    findings = [_cut_over(settings)]
    say("Looking at Postgres …")
    async with AsyncExitStack() as stack:
        opened = _open_postgres(stack, settings, findings)
        say("Asking Metronome …")
        source = await stack.enter_async_context(_session(metronome_resource(settings).service()))
        findings += [finding async for finding in _metronome(MetronomeApi(source), settings, opened)]
        findings.append(await _clock("Metronome", settings.metronome_base_url))
        say("Asking Solvimon …")
        destination = await stack.enter_async_context(_session(solvimon_resource(settings).service()))
        api = SolvimonApi(
            destination,
            new_idempotency_key=idempotency_keys(_RANDOM),
            events_path=settings.solvimon_events_path,
            events_key=settings.solvimon_events_key,
        )
        solvimon = [finding async for finding in _solvimon(api, settings)]
        findings += [*solvimon, await _clock("Solvimon", settings.solvimon_base_url)]
        if not any(finding.ends for finding in solvimon):
            findings.append(await _deduplication(opened, settings, probe=probe))
    return findings


def _session(service: Service) -> Http:
    """A session that gives up after seconds, not minutes: a person waits."""
    return Http(
        service,
        transport=None,
        clock=SYSTEM_CLOCK,
        source=_RANDOM,
        pacer=Unpaced(SYSTEM_CLOCK),
        run_id=RUN_ID,
        timeout_seconds=20.0,
        policy=RetryPolicy(attempts=4, budget_seconds=30.0, longest_retry_after=10.0),
    )


def _cut_over(settings: Settings) -> Finding:
    text = f"nothing from before {settings.usage_start:%Y-%m-%d %H:%M} UTC is billed"
    pilots = [
        f"only {len(permitted.only)} {name}"
        if permitted.only is not None
        else f"all but {len(permitted.without)} {name}"
        for name, permitted in (("customers", settings.permitted_customers), ("metrics", settings.permitted_metrics))
        if permitted != Permitted()
    ]
    ahead = settings.usage_start > datetime.now(UTC)
    if ahead or pilots:
        return _note("cut-over", "; ".join([text, *pilots]), "It lies ahead: nothing is sent until then." * ahead)
    return _ok("cut-over", text)


def _open_postgres(stack: AsyncExitStack, settings: Settings, findings: list[Finding]) -> OpenPair | None:
    try:
        opened = stack.enter_context(open_pair(settings))
    except (PipelineError, EmbeddedPostgresError) as error:
        findings.append(_wrong("Postgres", str(error), "Mend this first: the ledger is there."))
        return None
    with opened.database.transaction() as connection:
        before = datetime.now(UTC)
        row = connection.execute("SELECT clock_timestamp(), current_setting('server_version')").fetchone()
    assert row is not None
    which = "of DAGSTER_POSTGRES_URL" if settings.postgres_url else f"embedded in {settings.home}"
    schema = f"schema made now: {', '.join(opened.migrated)}" if opened.migrated else "schema up to date"
    pair = settings.account_pair
    findings += [
        _ok("Postgres", f"version {row[1]}, {which}; {schema}"),
        _clock_finding("Postgres", row[0] - before),
        _ok(
            "account pair",
            f"{opened.pair.pair_id}: Metronome {pair.metronome_host} ({pair.metronome_environment}), Solvimon "
            f"{pair.solvimon_host}{f', platform {pair.solvimon_platform_id}' if pair.solvimon_platform_id else ''}",
        ),
    ]
    return opened


async def _metronome(api: MetronomeApi, settings: Settings, opened: OpenPair | None) -> AsyncIterator[Finding]:
    """The token, whose account it is, and each endpoint that is read."""
    environment = f"environment {settings.metronome_environment}, as METRONOME_ENVIRONMENT names it"
    customers = await _first("Metronome: customers", "METRONOME_BEARER_TOKEN", api.customers(archived=False))
    yield customers.finding(environment)
    if customers.refused and customers.refused.ends:
        return
    metrics = await _first("Metronome: billable metrics", "METRONOME_BEARER_TOKEN", api.billable_metrics())
    yield metrics.finding()
    if settings.metrics_file is not None and metrics.refused is None:
        yield await _metrics_file(api, settings)
    products = await _first("Metronome: products", "METRONOME_BEARER_TOKEN", api.products())
    yield products.finding()
    if opened is not None:
        yield await _known_customer(api, opened)
    if customers.rows and metrics.rows:
        yield await _usage(api, customers.rows[0].id, metrics.rows[0].id)


async def _metrics_file(api: MetronomeApi, settings: Settings) -> Finding:
    """The file against Metronome's list: names that differ, ids that it does not have, settings that do not fit."""
    what = "metrics file"
    try:
        metrics = await listed_metrics(api)
    except ApiError as error:
        return _note(what, f"Metronome's metrics could not be listed: {error}")
    to_mend = [row for row in review(metrics, settings) if row.to_do]
    if not to_mend:
        return _ok(what, f"fits Metronome's {len(metrics)} billable metrics")
    found = "; ".join(f"{row.metric_id}: {quoted(row.to_do)}" for row in to_mend[:_TOLD])
    more = f"; and {len(to_mend) - _TOLD} more" * (len(to_mend) > _TOLD)
    return _note(what, found + more, "See `metronome-pipeline metrics show`.")


async def _known_customer(api: MetronomeApi, opened: OpenPair) -> Finding:
    """A customer that this pair has read before must be found with this token: else it is of another environment."""
    with opened.database.transaction() as connection:
        row = connection.execute(
            "SELECT customer_id::text FROM metronome.customers WHERE pair_id = %s AND gone_at IS NULL LIMIT 1",
            [opened.pair.pair_id],
        ).fetchone()
    what = "Metronome: same account as before"
    if row is None:
        return _note(what, "no customer was read with this account pair yet")
    try:
        await api.customer(row[0])
    except Refused:
        to_do = "Set the token of that environment, or give this one a name of its own in METRONOME_ENVIRONMENT."
        return _wrong(what, f"customer {row[0]}, read before, does not exist for this token", to_do)
    except ApiError as error:
        return _wrong(what, str(error))
    return _ok(what, "a customer that was read before is still there")


async def _usage(api: MetronomeApi, customer_id: str, metric_id: str) -> Finding:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = today + timedelta(days=1)
    walk = api.usage(customer_id=customer_id, metric_ids=[metric_id], starting_on=today, ending_before=tomorrow)
    return (await _first("Metronome: usage", "METRONOME_BEARER_TOKEN", walk)).finding("of today, for one customer")


async def _solvimon(api: SolvimonApi, settings: Settings) -> AsyncIterator[Finding]:
    """The key, its environment, each permission to read, the batch endpoint, and prices that need properties."""
    loopback = is_loopback(settings.solvimon_base_url)
    environment = "live: events become invoices" if is_live(settings) else "sandbox" if loopback else "test environment"
    reads: list[tuple[str, AsyncIterator[Sequence[Any]]]] = [
        ("CUSTOMER.VIEW", api.list_customers()),
        ("METER_VALUE.VIEW", api.list_meter_values()),
        ("METER_PROPERTY.VIEW", api.list_meter_properties()),
        ("METER.VIEW", api.list_meters()),
        ("METER_VALUE_CALCULATION.VIEW", api.list_meter_value_calculations()),
        ("PRODUCT_CATEGORY.VIEW", api.list_product_categories()),
        ("PRODUCT.VIEW", api.list_products()),
        ("PRODUCT_ITEM.VIEW", api.list_product_items()),
        ("METER_DATA.VIEW", api.events()),
    ]
    note = environment
    for permission, walk in reads:
        answer = await _first(f"Solvimon: {permission}", "SOLVIMON_API_KEY", walk)
        yield answer.finding(note)
        if answer.refused and answer.refused.ends:
            return
        note = ""
    yield await _batch_endpoint(api, settings)
    yield await _prices(api)


async def _batch_endpoint(api: SolvimonApi, settings: Settings) -> Finding:
    """Learns the endpoint's limit from its refusal of one event too many, none of which it could take."""
    what = "Solvimon: batch endpoint"
    # A reference of one character is refused, no such customer or meter exists, and 2000-01-01 is long ago.
    nonsense = UsageEvent("x", "x", "x", datetime(2000, 1, 1, tzinfo=UTC), "x", Decimal(0))
    try:
        await api.ingest([nonsense] * (settings.solvimon_batch_limit + 1), replay=False)
    except Unauthorised as error:
        return _wrong(what, str(error), "Give the key the permission METER_DATA.INGEST.")
    except Refused as error:
        return _batch_limit_finding(what, settings, error)
    except ApiError as error:
        return _wrong(what, str(error))
    to_do = "Ask Solvimon why, and look for events of the reference x."
    return _wrong(what, "it answered 201 to a batch in which every event is wrong", to_do)


def _batch_limit_finding(what: str, settings: Settings, error: Refused) -> Finding:
    if error.status == 404 and error.code is None:
        return _wrong(what, f"there is no {settings.solvimon_events_path}", "Correct SOLVIMON_EVENTS_PATH.")
    limit = batch_limit(error)
    if limit is None:
        found = f"{settings.solvimon_events_path} answers, but its limit was not told: {error.message or error.code}"
        return _note(what, found, "Make sure that SOLVIMON_EVENTS_KEY is right.")
    found = f"{settings.solvimon_events_path} takes {limit} events at a time"
    if limit < settings.solvimon_batch_limit:
        return _note(what, found, f"Set SOLVIMON_BATCH_LIMIT={limit}: every run has to learn it otherwise.")
    return _ok(what, found)


async def _prices(api: SolvimonApi) -> Finding:
    what = "Solvimon: prices by property"
    try:
        needing = await conditions_on_optional_properties(api)
    except ApiError as error:
        return _note(what, f"product items could not be looked at: {error}")
    if not needing:
        return _ok(what, "no product item has a condition on a property that its meter does not require")
    found = "; ".join(f"item {item} needs {reference}" for item, reference in needing)
    to_do = "Meters link properties as not required. Make these required in Solvimon once every event carries them."
    return _note(what, found, to_do)


async def _deduplication(opened: OpenPair | None, settings: Settings, *, probe: bool) -> Finding:
    what = "Solvimon: deduplication by reference"
    if opened is None:
        return _note(what, "not tried, as the answer cannot be kept without Postgres")
    if not probe:
        known = opened.pair.deduplication
        to_do = (
            "" if known == "proved" else "Ask Solvimon whether it is on, then run `metronome-pipeline check --probe`."
        )
        return Finding(what, True if known == "proved" else None, f"{known}, as last tried", to_do)
    try:
        proof = await prove_deduplication(opened)
    except PipelineError as error:
        return _wrong(what, str(error))
    left = f" Still stored: {', '.join(proof.left_behind)}." if proof.left_behind else ""
    if proof.found == "proved":
        return _ok(what, proof.because + left)
    to_do = "Ask Solvimon to switch it on. Until then every event in doubt is looked up before it is sent again."
    return _note(what, f"{proof.found}. {proof.because}{left}", to_do)


async def _clock(system: str, base_url: str) -> Finding:
    """The difference to the server's Date header, which has whole seconds. No credential is sent."""
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            before = datetime.now(UTC)
            answer = await client.get(base_url)
        middle = before + (datetime.now(UTC) - before) / 2
        return _clock_finding(system, parsedate_to_datetime(answer.headers["date"]).astimezone(UTC) - middle)
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return _note(f"clock: {system}", f"its time could not be read ({type(error).__name__})")


def _clock_finding(system: str, difference: timedelta) -> Finding:
    seconds = difference.total_seconds()
    text = "agree" if abs(seconds) < 2 else f"it is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(difference) <= _CLOCK_TOLERANCE:
        return _ok(f"clock: {system}", text)
    return _wrong(f"clock: {system}", text, "Let this machine's clock be set by NTP: hours are closed by it.")


@dataclass(frozen=True)
class _Answer:
    """The first page of a list, or why there is none."""

    what: str
    rows: Sequence[Any]
    refused: Finding | None = None

    def finding(self, note: str = "") -> Finding:
        if self.refused is not None:
            return self.refused
        return _ok(self.what, "; ".join(part for part in ("readable", note) if part))


async def _first(what: str, credential: str, walk: AsyncIterator[Any]) -> _Answer:
    """Reads the first page of a walk, which is enough to see whether it is permitted."""
    try:
        page = await anext(walk, None)
    except Unauthorised as error:
        to_do = f"Check {credential}: of this host and environment, and permitted to read this."
        # 403 is about this one list; 401 is about the credential.
        return _Answer(what, (), _wrong(what, f"refused with {error.status}", to_do, ends=error.status == 401))
    except ApiError as error:
        return _Answer(what, (), _wrong(what, str(error), ends=not isinstance(error, Refused)))
    return _Answer(what, getattr(page, "records", page) or ())

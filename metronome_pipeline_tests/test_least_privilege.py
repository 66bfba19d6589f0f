"""What an installation must be allowed to do, and that it does no more: at Solvimon, at Metronome, in Postgres.

Here too: nothing listens to the network that need not, and nothing is told to a server that nobody vouches for.
"""

import asyncio
import random
import re
import ssl
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import trustme
from psycopg import sql

from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.errors import Unavailable
from metronome_pipeline.http import Http, Service, Unpaced
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.storage.embedded import EmbeddedPostgres
from metronome_pipeline.upkeep.backup import back_up
from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import World, failure, instance_on

PROJECT = Path(__file__).parents[1]
SECURITY = PROJECT / "SECURITY.md"
_EVENTS = "METER_DATA.INGEST"


def documented(heading: str) -> list[str]:
    """The names in the code block under a heading of SECURITY.md."""
    text = SECURITY.read_text(encoding="utf-8")
    block = re.search(rf"### {re.escape(heading)}\n.*?```\w*\n(.*?)```", text, re.DOTALL)
    assert block, heading
    return block.group(1).split()


def everything(world: World) -> None:
    """What an installation does in its life: imports, both kinds of usage, corrections down and up, sweeps, checks."""
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    world.environment["BRAKE_FLOOR"] = "1000000"
    customer, plain = world.customer("Acme"), world.metric("SUM", "Calls")
    highest = world.metric("MAX", "Peak")
    grouped = world.metric("SUM", "Bytes", group_keys=[["region"]])
    world.product(initial={"name": "Calls", "billable_metric_id": plain}, type="USAGE")
    world.product(initial={"name": "Seats"}, type="SUBSCRIPTION")
    for metric in (plain, highest, grouped):
        world.use(customer, metric, 1, 10, region="eu")
    extra = [world.use(customer, metric, 1, 100, region="eu") for metric in (plain, highest, grouped)]
    world.imports()
    world.imports()
    assert command("check", "--probe", env={**variables(world), **world.environment}).status == 0
    for job in ("ingest_usage", "ingest_grouped_usage"):
        assert world.ingest(0, 3, job=job).success, job
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": extra})
    for job in ("ingest_usage", "ingest_grouped_usage"):
        assert world.ingest(0, 3, job=job).success, job
    assert world.counted(customer, plain) == {1: 10}
    assert world.total(customer, highest) == 10
    for job in ("sweep_usage", "sweep_usage_by_hour", "retire_usage"):
        result = world.run(job, USAGE_RETENTION_DAYS="70")
        assert result.success, failure(result)
    done = command("rebuild", "--yes", env={**variables(world), **world.environment})
    assert done.status == 0, done.err


def test_the_documented_permissions_of_solvimon_are_enough(world: World) -> None:
    world.solvimon.call("PUT", "/_sandbox/permissions", documented("Solvimon"))
    everything(world)


@pytest.mark.parametrize("missing", documented("Solvimon") if SECURITY.exists() else [])
def test_each_documented_permission_is_one_that_an_endpoint_asks_for(missing: str) -> None:
    asked = "\n".join(
        path.read_text(encoding="utf-8") for path in (PROJECT / "metronome_pipeline/sandbox/solvimon").glob("*.py")
    )
    kind, _, verb = missing.rpartition(".")
    assert missing in asked or (f'permission="{kind}"' in asked and verb in {"VIEW", "CREATE", "UPDATE"}), missing


def test_without_the_permission_to_send_events_the_run_says_so(world: World) -> None:
    allowed = [each for each in documented("Solvimon") if each != _EVENTS]
    customer, metric = world.customer(), world.metric()
    world.use(customer, metric, 1, 10)
    world.imports()
    world.solvimon.call("PUT", "/_sandbox/permissions", allowed)
    result = world.ingest(0, 3)
    assert not result.success
    assert "SOLVIMON_API_KEY" in failure(result)


def test_metronome_is_only_read(world: World) -> None:
    everything(world)
    reads = {"POST /v1/usage", "POST /v1/usage/groups", "POST /v1/contract-pricing/products/list"}
    assert set(world.metronome.writes()) <= reads, "these read, though they are POSTs"


# Postgres ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def owner(world: World) -> Iterator[str]:
    """A role with the documented rights on a new database, and nothing else; the URL of that database."""
    name = f"pipeline_{uuid.uuid4().hex[:12]}"
    text = SECURITY.read_text(encoding="utf-8")
    block = re.search(r"### Postgres\n.*?```sql\n(.*?)```", text, re.DOTALL)
    assert block
    written = block.group(1).replace("metronome_pipeline", name)
    statements = [statement for statement in written.split(";") if statement.strip()]
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
        yield re.sub(r"/world\b", f"/{name}", world.database_url).replace("postgres@", f"{name}@")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_the_documented_rights_in_postgres_are_enough(world: World, owner: str, tmp_path: Path) -> None:
    with instance_on(owner) as instance:
        own = World(world.metronome, world.solvimon, owner, instance)
        everything(own)
    assert back_up(owner, tmp_path / "ledger.dump") > 0
    with psycopg.connect(owner) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles "
            "WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False,) * 5


# Listening -----------------------------------------------------------------------------------------------------------


def test_the_embedded_postgres_listens_on_its_socket_only(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute("SELECT current_setting('listen_addresses'), current_setting('data_directory')")
        addresses, data = row.fetchone() or ("?", "?")
    assert addresses == ""
    pid = int((Path(data) / "postmaster.pid").read_text().splitlines()[0])
    server = psutil.Process(pid)
    for process in [server, *server.children()]:
        with suppress(psutil.NoSuchProcess):  # a backend of another test that has just ended
            assert process.net_connections("inet") == []
    assert (Path(data).stat().st_mode & 0o077) == 0


def test_the_sandbox_listens_on_loopback_only(sandbox_urls: tuple[str, str]) -> None:
    ports = {int(url.rpartition(":")[2]) for url in sandbox_urls}
    listening = [c for c in psutil.Process().net_connections("inet") if c.status == "LISTEN" and c.laddr.port in ports]
    assert len(listening) == 2
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


# TLS -----------------------------------------------------------------------------------------------------------------


def ask_over_tls(context: ssl.SSLContext) -> tuple[str, list[bytes]]:
    """One request to a TLS server on loopback: how it ended, and what the server got of it."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def work() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        service = Service(
            "Solvimon", f"https://127.0.0.1:{port}", {"X-API-KEY": "hush" * 8}, ("hush" * 8,), "SOLVIMON_API_KEY"
        )
        async with (
            server,
            Http(
                service,
                transport=None,
                clock=SYSTEM_CLOCK,
                source=random.Random(1),
                pacer=Unpaced(SYSTEM_CLOCK),
                run_id="test",
                policy=RetryPolicy(attempts=1),
            ) as http,
        ):
            try:
                await http.send("GET /v1/customers", "GET", "/v1/customers", decode=lambda body: body)
            except Unavailable as error:
                return str(error)
        return "answered"

    return asyncio.run(work()), got


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("variable", ["PYTHONHTTPSVERIFY", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_NO_VERIFY"])
def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_told(
    authority: trustme.CA, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the environment says: these turn verification off elsewhere.
    monkeypatch.setenv(variable, "" if variable.endswith("BUNDLE") else "0")
    ended, got = ask_over_tls(server_context(authority, "127.0.0.1"))
    assert ended != "answered"
    assert got == []


def test_a_certificate_of_another_name_is_refused(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert ask_over_tls(server_context(authority, "127.0.0.1"))[0] == "answered", "the right one is taken"
    ended, got = ask_over_tls(server_context(authority, "another.example"))
    assert ended != "answered"
    assert got == []


def test_nothing_in_the_code_turns_verification_off() -> None:
    off = re.compile(r"(verify|ssl|check_hostname)\s*=\s*False|CERT_NONE|_create_unverified_context")
    for path in (PROJECT / "metronome_pipeline").rglob("*.py"):
        assert not off.search(path.read_text(encoding="utf-8")), path

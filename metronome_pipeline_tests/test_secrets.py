"""No credential is ever seen: not in a log, an event, an error, a row, a process list, nor in what the UI answers."""

import ast
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import psutil
import psycopg
import pytest
from psycopg import sql

from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.alerts.receivers import post
from metronome_pipeline_tests.world import START, World

PROJECT = Path(__file__).parents[1]
PERSON = "Wanda Visible"
"""Not a secret: where this is not found, nothing would be."""


@contextmanager
def echoing(how: str) -> Iterator[str]:
    """A server on loopback that repeats whatever credentials it is given; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = f"{self.headers} {self.path}"
            one_line = " ".join(given.split())
            # The same for every page: a list of which each page is new has no end.
            own = self.headers.get("Authorization") or self.headers.get("X-Api-Key") or self.path
            status, kind, body = {
                "html": (200, "text/html", f"<html><body>{given}</body></html>"),
                "an error page": (503, "text/html", f"<html><body>{given}</body></html>"),
                "401": (401, "application/json", json.dumps({"message": one_line, "code": one_line})),
                "400": (400, "application/json", json.dumps({"message": one_line, "field": one_line})),
                "403 of a proxy": (403, "text/plain", given),
                "the wrong shape": (200, "application/json", json.dumps({"data": [{"id": own, "name": own, own: 1}]})),
                "a redirect": (302, "text/plain", given),
            }[how]
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("X-Request-Id", one_line[:500])
            if status == 302:
                self.send_header("Location", f"http://127.0.0.1:{server.server_address[1]}/elsewhere?{quote(own)}")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815 - its names there

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


ECHOES = ("html", "an error page", "401", "400", "403 of a proxy", "the wrong shape", "a redirect")


@dataclass
class Seen:
    """What everybody who is near an installation could see, by where."""

    places: dict[str, str]
    secrets: dict[str, str]

    def found(self) -> list[str]:
        """Each secret where it was seen, with what stands around it."""
        return [
            f"{what} in {where}: {text[max(0, at - 200) : at + 200]}"
            for what, secret in self.secrets.items()
            for where, text in self.places.items()
            for form in dict.fromkeys((secret, quote(secret, safe=""), json.dumps(secret)[1:-1]))
            if (at := text.find(form)) >= 0
        ]


def process_list() -> str:
    """What ``ps`` shows to every user of the machine: command lines, not environments."""
    lines: list[str] = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return "\n".join(lines)


def every_row(url: str) -> str:
    """Every row of every table, Dagster's too, and what the server shows of sessions, as text."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows = [
            str(row)
            for table in [*tables, ("pg_catalog", "pg_stat_activity")]
            for row in connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(*table)))
        ]
    return "\n".join(rows)


@pytest.fixture
def secrets(world: World) -> dict[str, str]:
    mark = uuid.uuid4().hex
    return {
        "METRONOME_BEARER_TOKEN": world.metronome.headers["Authorization"].removeprefix("Bearer "),
        "SOLVIMON_API_KEY": world.solvimon.headers["X-API-KEY"],
        "the password of Postgres": f"pg/hush:{mark}",
        "ALERT_WEBHOOK_URL": f"/services/T0/hush-{mark}",
        "the password of SMTP_URL": f"smtp hush@{mark}",
    }


@pytest.fixture
def installation(world: World, secrets: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of an installation whose Postgres wants a password, with servers that repeat credentials."""
    role, password = f"pipeline_{uuid.uuid4().hex[:12]}", secrets["the password of Postgres"]
    world.sql(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD {sql.Literal(password).as_string(None)}")
    owned = world.database_url.replace("postgres@", f"{role}:{quote(password, safe='')}@")
    with ExitStack() as stack:
        echoes = {how: stack.enter_context(echoing(how)) for how in ECHOES}
        mail = stack.enter_context(post(login=("ops", "another")))
        mail_password = quote(secrets["the password of SMTP_URL"], safe="")
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "PYTEST"))},
            "PYTHONPATH": str(PROJECT),
            "METRONOME_BASE_URL": world.metronome.url,
            "METRONOME_BEARER_TOKEN": secrets["METRONOME_BEARER_TOKEN"],
            "METRONOME_ENVIRONMENT": "sandbox",
            "METRONOME_REQUESTS_PER_SECOND": "1000",
            "SOLVIMON_BASE_URL": world.solvimon.url,
            "SOLVIMON_API_KEY": secrets["SOLVIMON_API_KEY"],
            "USAGE_START": START.isoformat(),
            "DAGSTER_POSTGRES_URL": owned,
            "LOST_POSTGRES_URL": f"postgresql://me:{quote(password, safe='')}@127.0.0.1:1/lost",
            "ALERT_WEBHOOK_URL": echoes["400"] + secrets["ALERT_WEBHOOK_URL"],
            "ALERT_EMAIL_TO": "ops@example.com",
            "ALERT_EMAIL_FROM": "pipeline@example.com",
            "SMTP_URL": mail.url.replace("://", f"://ops:{mail_password}@"),
            "ECHOES": json.dumps(echoes),
        }
    world.sql(f"REASSIGN OWNED BY {role} TO postgres")
    world.sql(f"DROP ROLE {role}")


def test_runs_that_go_wrong_in_every_way_show_no_credential_anywhere(
    world: World, installation: dict[str, str], secrets: dict[str, str], tmp_path: Path
) -> None:
    customer, metric = world.customer(PERSON), world.metric()
    world.use_hours(customer, metric, {hour: 1 + hour for hour in range(4)})
    home, folder = tmp_path / "dagster", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "metronome_pipeline_tests.telling_run"],
        env={**installation, "DAGSTER_HOME": str(home)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes: set[str] = set()
    while True:
        try:
            out, errors = process.communicate(timeout=0.3)
            break
        except subprocess.TimeoutExpired:
            processes.update(process_list().splitlines())
    assert process.returncode == 0, errors[-3000:]
    files = [path for path in [*home.rglob("*"), *folder.rglob("*")] if path.is_file()]
    told = (folder / "answers.json").read_text(encoding="utf-8")
    seen = Seen(
        {
            "the log and the errors": out + errors,
            "the answers of the webserver": told,
            "the rows of the database": every_row(world.database_url),
            "the process list": "\n".join(processes),
            "files": "\n".join(path.read_bytes().decode("latin-1") for path in files),
        },
        secrets,
    )
    assert seen.found() == []
    answers = json.loads(told)
    assert [answer["errors"] for answer in answers if isinstance(answer, dict) and "errors" in answer] == []
    # The look was not in vain: what is no secret is everywhere.
    for where in ("the answers of the webserver", "the rows of the database"):
        assert PERSON in seen.places[where], where
    assert "metronome_pipeline.definitions" in seen.places["the process list"], "the code server"
    for expected in ("answered 401 to", "[credential]", "can't be used", "did not take a message", "The webhook at"):
        assert expected in errors, expected


def test_the_search_would_find_what_it_looks_for() -> None:
    seen = Seen({"a log": "Bearer abc%2Fdef", "a row": "nothing"}, {"a token": "abc/def"})
    assert seen.found() == ["a token in a log: Bearer abc%2Fdef"]


def test_settings_print_as_stars() -> None:
    texts = {
        "METRONOME_BEARER_TOKEN": "hush-1",
        "SOLVIMON_API_KEY": "hush-2",
        "USAGE_START": "2026-01-01",
        "DAGSTER_POSTGRES_URL": "postgresql://me:hush-3@host/db",
        "ALERT_WEBHOOK_URL": "https://hooks.example.com/hush-4",
        "SMTP_URL": "smtps://me:hush-5@host",
        "ALERT_EMAIL_TO": "a@example.com",
        "ALERT_EMAIL_FROM": "b@example.com",
    }
    settings = Settings.from_environment(texts)
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hush" not in shown


def test_no_option_of_a_command_takes_a_credential() -> None:
    # Whoever is on the machine sees command lines, and shells keep them.
    for path in (PROJECT / "metronome_pipeline" / "cli").glob("*.py"):
        options = re.findall(r'"(--[a-z-]+)"', path.read_text())
        wrong = [option for option in options if re.search(r"token|key|password|secret", option)]
        assert wrong == [], path.name


# SQL -----------------------------------------------------------------------------------------------------------------

CHOSEN_FROM_CONSTANTS = {
    "ledger/claims.py": {"columns", "shared"},
    "ledger/evidence.py": {"table", "properties"},
    "ledger/proposals.py": {"', '.join(tables)"},
    "ledger/readings.py": {"columns"},
    "rebuilding/rebuilt.py": {"statement"},
    "storage/database.py": {"places"},
    "sweeps/sweeps.py": {"table", "is_open"},
}
"""What is put into statements as text: names of our own tables and columns, places for parameters; never a value."""
_STATEMENT = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|DROP|ALTER|CREATE|COPY|TRUNCATE)\s")


def put_into_statements(source: str) -> set[str]:
    """What code in functions puts into SQL as text: by f-strings, ``format``, ``%`` and ``+``. Constants aside."""
    found: set[str] = set()
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in (node for function in functions for node in ast.walk(function)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
            constants = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
            if _STATEMENT.search(text):
                parts = constants
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add) and _is_statement(node.left):
            parts = [node.right]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "format"
            and _is_statement(node.func.value)
        ):
            parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        # A name in capitals is a constant of the module.
        found.update(ast.unparse(part) for part in parts if not re.fullmatch(r"_?[A-Z_]+", ast.unparse(part)))
    return found


def _is_statement(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_STATEMENT.search(node.value))


def test_no_value_is_ever_put_into_sql_as_text() -> None:
    package = PROJECT / "metronome_pipeline"
    found = {
        str(path.relative_to(package)): put
        for path in sorted(package.rglob("*.py"))
        if (put := put_into_statements(path.read_text(encoding="utf-8")))
    }
    assert found == CHOSEN_FROM_CONSTANTS


@pytest.mark.parametrize(
    "written",
    ['f"SELECT {x}"', '"SELECT %s" % x', '"DELETE FROM t WHERE a = " + x', '"UPDATE {}".format(x)'],
)
def test_every_way_of_doing_so_is_seen(written: str) -> None:
    assert put_into_statements(f"def work(x):\n    return {written}\n") == {"x"}

"""The embedded Postgres: many processes, one server, and no server left behind however a process ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from metronome_pipeline.storage import embedded
from metronome_pipeline.storage.embedded import EmbeddedPostgresError, embedded_postgres

ATTACH = """
import sys
from pathlib import Path
from metronome_pipeline.storage.embedded import embedded_postgres
print(embedded_postgres(Path(sys.argv[1]), fast_commits=True).url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A short folder whose server, if any, is gone after the test."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield folder
    for process in servers(folder):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def servers(home: Path) -> list[psutil.Process]:
    """The server processes of a home, found without what the code under test writes down."""
    data = str(home.resolve() / "postgres")
    return [
        p for p in psutil.process_iter(["cmdline"]) if [*(p.info["cmdline"] or []), "", "", ""][1:3] == ["-D", data]
    ]


def eventually(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


class Attached:
    """Another process that holds the server of a home until it is told to end."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            (sys.executable, "-c", ATTACH, str(home)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate()


@contextmanager
def attached(home: Path) -> Iterator[Attached]:
    other = Attached(home)
    try:
        yield other
    finally:
        other.process.kill()
        other.process.communicate()


def answer(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_setting('TimeZone') || current_setting('listen_addresses')").fetchone()
        return row and row[0]


def test_a_server_starts_in_a_folder_that_is_not_there_yet_and_its_data_outlives_it(home: Path) -> None:
    server = embedded_postgres(home / "a b" / "größe", fast_commits=True)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'Ä' AS letter")
    server.stop()
    assert servers(server.folder) == []
    server.stop()
    again = embedded_postgres(home / "a b" / "größe", fast_commits=True)
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT lower(letter) FROM kept").fetchone() == ("ä",)
    again.stop()


def test_a_server_listens_on_no_network_and_waits_for_the_disk(home: Path) -> None:
    server = embedded_postgres(home)
    assert answer(server.url) == "UTC"
    with psycopg.connect(server.url) as connection:
        query = "SELECT setting FROM pg_settings WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes')"
        assert connection.execute(query).fetchall() == [("on",), ("on",), ("on",)]
    sockets = Path(psycopg.conninfo.conninfo_to_dict(server.url)["host"])  # type: ignore[arg-type]
    assert (sockets / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
    server.stop()


def test_a_path_too_long_for_a_socket_works(home: Path) -> None:
    server = embedded_postgres(home / ("x" * 120), fast_commits=True)
    assert answer(server.url) == "UTC"
    sockets = Path(psycopg.conninfo.conninfo_to_dict(server.url)["host"])  # type: ignore[arg-type]
    assert sockets.stat().st_mode & 0o077 == 0
    server.stop()
    assert not sockets.exists()


def test_processes_that_attach_at_once_share_one_server_and_the_last_one_ends_it(home: Path) -> None:
    with attached(home) as one, attached(home) as two, attached(home) as three:
        assert one.url() == two.url() == three.url()
        assert len(servers(home)) == 1
        one.end()
        two.end()
        with attached(home) as four:
            assert answer(four.url()) == "UTC"
            four.end()
        assert len(servers(home)) == 1
        three.end()
        eventually(lambda: servers(home) == [])


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_killed_by_a_signal_leaves_the_server_to_the_others_and_none_behind(home: Path, death: int) -> None:
    with attached(home) as one, attached(home) as two:
        one.url()
        url = two.url()
        one.process.send_signal(death)
        one.process.wait()
        assert answer(url) == "UTC"
        two.process.send_signal(death)
        two.process.wait()
        eventually(lambda: servers(home) == [])
    with attached(home) as three:
        assert answer(three.url()) == "UTC"


def test_the_server_outlives_the_process_that_started_it_while_another_uses_it(home: Path) -> None:
    with attached(home) as starter:
        starter.url()
        server = embedded_postgres(home)
        starter.end()
        assert answer(server.url) == "UTC"
    server.stop()
    assert servers(home) == []


def test_a_stopped_server_starts_again_when_asked(home: Path) -> None:
    with attached(home) as other:
        url = other.url()
        mine = embedded_postgres(home, fast_commits=True)
        mine.stop()
        assert servers(home) == []
        assert answer(embedded_postgres(home, fast_commits=True).url) == "UTC"
        assert answer(url) == "UTC"
    mine.stop()


def test_a_killed_server_starts_again_with_all_that_was_committed(home: Path) -> None:
    server = embedded_postgres(home)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    kill_server(home)
    with psycopg.connect(embedded_postgres(home).url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    server.stop()


def kill_server(home: Path) -> None:
    for process in servers(home):
        children = process.children()
        process.kill()
        psutil.wait_procs([process, *children], timeout=30)


def test_a_pid_file_that_names_another_process_is_not_believed(home: Path) -> None:
    server = embedded_postgres(home, fast_commits=True)
    kill_server(home)
    file = home.resolve() / "postgres" / "postmaster.pid"
    file.write_text(f"{os.getpid()}\n{file.read_text().partition(chr(10))[2]}")
    assert answer(embedded_postgres(home, fast_commits=True).url) == "UTC"
    server.stop()


def test_a_set_up_that_was_killed_half_way_is_done_again(home: Path) -> None:
    half = home / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server = embedded_postgres(home, fast_commits=True)
    assert answer(server.url) == "UTC"
    assert not half.exists()
    server.stop()


def test_a_home_that_was_removed_under_a_running_server_starts_afresh(home: Path) -> None:
    server = embedded_postgres(home, fast_commits=True)
    kill_server(home)
    shutil.rmtree(home)
    assert answer(embedded_postgres(home, fast_commits=True).url) == "UTC"
    with attached(home) as other:
        other.url()
        other.end()
    # Had this process not taken hold of the new folder, the other's end would have ended the server.
    threading.Event().wait(0.3)
    assert answer(server.url) == "UTC"
    server.stop()


def test_threads_may_ask_at_once(home: Path) -> None:
    urls: list[str] = []
    threads = [
        threading.Thread(target=lambda: urls.append(embedded_postgres(home, fast_commits=True).url)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 8
    assert len(set(urls)) == 1
    embedded_postgres(home).stop()


def test_data_of_another_version_of_postgres_is_refused(home: Path) -> None:
    (home / "postgres").mkdir()
    (home / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match="is of version 16, and version 18 is installed here"):
        embedded_postgres(home)


def test_a_home_that_is_a_file_is_refused(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="set METRONOME_PIPELINE_HOME to a folder that can be written"):
        embedded_postgres(home / "file")


def test_a_server_that_does_not_start_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_OPTIONS", ("-c", "no_such_option=1"))
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)pg_ctl ended with 1.*unrecognized configuration parameter"):
        embedded_postgres(home)

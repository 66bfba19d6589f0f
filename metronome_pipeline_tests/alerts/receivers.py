"""Real receivers on loopback: a webhook over HTTP, and a mail server, with what they took, and trouble on request."""

import asyncio
import email
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Hook:
    """A webhook. ``statuses`` answers so many requests first, then 200; ``gate`` keeps each answer until it is set."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    gate: threading.Event | None = None
    asked: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]

    @property
    def subjects(self) -> list[str]:
        return [text.partition("\n")[0] for text in self.texts]

    def taken(self) -> list[str]:
        """The subjects that came since this was last asked."""
        found = self.subjects
        self.bodies.clear()
        return found


@contextmanager
def hook(port: int = 0) -> Iterator[Hook]:
    """A webhook while the block runs; nobody listens before and after."""
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.set()
            if found.gate is not None:
                found.gate.wait(30)
            status = found.statuses.pop(0) if found.statuses else 200
            if status < 300:
                assert self.headers["Content-Type"] == "application/json"
                found.bodies.append(json.loads(body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"ok" if status < 300 else b"no_service")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0/s3cret-path"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Post:
    """A mail server's letter box."""

    url: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    answer: str = "250 taken"

    def taken(self) -> list[str]:
        """The subjects that came since this was last asked."""
        found = [str(mail["Subject"]) for mail in self.mails]
        self.mails.clear()
        return found

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - its name there
        if self.answer.startswith("250"):
            content = cast("bytes", envelope.content)
            self.mails.append(email.message_from_bytes(content, policy=default))
            self.envelopes.append((str(envelope.mail_from), tuple(envelope.rcpt_tos)))
            self.encrypted.append(session.ssl is not None)
        return self.answer


@contextmanager
def post(
    *, tls: ssl.SSLContext | None = None, implicit: bool = False, login: tuple[str, str] | None = None
) -> Iterator[Post]:
    """A mail server: plain; with STARTTLS and a login that it insists on; or in TLS from the first byte."""
    found = Post()

    def authenticate(_: SMTP, __: Session, ___: Envelope, ____: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        found.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=found.logins[-1] == login, handled=False)

    options: dict[str, Any] = {} if implicit else {"tls_context": tls, "require_starttls": tls is not None}
    if login:
        options |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": not implicit}
    loop = asyncio.new_event_loop()
    started: list[asyncio.Server] = []
    listening = threading.Event()

    async def listen() -> None:
        started.append(
            await loop.create_server(
                lambda: SMTP(found, loop=loop, hostname="mail.test", **options),
                "127.0.0.1",
                0,
                ssl=tls if implicit else None,
            )
        )
        listening.set()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.create_task(listen())  # noqa: RUF006 - it is over before the loop is
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        started[0].close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert listening.wait(30)
    found.url = f"{'smtps' if implicit else 'smtp'}://127.0.0.1:{started[0].sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)

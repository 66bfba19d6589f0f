"""Channels: how a message reaches people. A webhook that takes what Slack takes, and e-mail.

Here: one message to one channel, taken or not. Not here: what is said (``messages.py``), and what becomes of a message
that was not taken (``telling.py``).
"""

import asyncio
import re
import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from metronome_pipeline.alerts.messages import Message
from metronome_pipeline.errors import PipelineError, quoted, scrubbed
from metronome_pipeline.retries import Setback
from metronome_pipeline.setting_values import is_loopback
from metronome_pipeline.settings import Settings
from metronome_pipeline.transport import Answer, Request, exchange, open_client

WEBHOOK_SECONDS = 10.0
"""For one message, from the connection to the last byte of the answer."""
MAIL_SECONDS = 5.0
"""For each step of one message. A tick of a sensor has a minute, with all that it does."""
_MOST_BYTES = 64 * 1024
_LONGEST_TEXT = 3_000
_PORTS = {"smtp": 587, "smtps": 465}


class NotTaken(PipelineError):
    """A channel did not take a message. A sentence without the address's secrets.

    Attributes:
        down: Whether the next message will fare no better, so that it need not be tried now.
    """

    def __init__(self, sentence: str, *, down: bool) -> None:
        super().__init__(sentence)
        self.down = down


class Channel(Protocol):
    """Carries messages to people."""

    @property
    def name(self) -> str:
        """The name under which is kept what was told through it."""
        ...

    def send(self, message: Message) -> None:
        """Hands one message over, and returns once the other side has taken it.

        Raises:
            NotTaken: It has not, or did not say so in time: people may have it all the same.
        """
        ...


def channels_of(settings: Settings) -> list[Channel]:
    """The channels that the settings name; none by default."""
    found: list[Channel] = []
    if settings.alert_webhook_url is not None:
        found.append(Webhook(settings.alert_webhook_url.get_secret_value()))
    if settings.alert_email_to and settings.alert_email_from and settings.smtp_url is not None:
        found.append(Mail(settings.smtp_url.get_secret_value(), settings.alert_email_from, settings.alert_email_to))
    return found


@dataclass(frozen=True)
class Webhook:
    """Slack's incoming webhook, or one that takes the same: Mattermost, Rocket.Chat, and others read ``text``."""

    url: str = field(repr=False)
    seconds: float = WEBHOOK_SECONDS
    name: str = "webhook"

    def send(self, message: Message) -> None:
        """Posts the message; any 2xx has taken it."""
        answer = asyncio.run(self._post(msgspec.json.encode(slack_body(message))))
        host = urlsplit(self.url).hostname
        if isinstance(answer, Setback):
            reason = scrubbed(answer.reason, (self.url, urlsplit(self.url).path))
            raise NotTaken(f"The webhook at {host} {reason}. Check ALERT_WEBHOOK_URL and the network.", down=True)
        if not 200 <= answer.status < 300:
            said = scrubbed(answer.content.decode("utf-8", "replace"), (self.url, urlsplit(self.url).path))
            raise NotTaken(
                f"The webhook at {host} answered {answer.status} ({quoted(said.strip(), 120) or 'nothing'}). Check "
                "ALERT_WEBHOOK_URL: a webhook that was removed is made anew.",
                down=answer.status in {401, 403, 404, 410, 429} or answer.status >= 500,
            )

    async def _post(self, body: bytes) -> Answer | Setback:
        headers = {"Content-Type": "application/json", "User-Agent": "metronome-pipeline"}
        request = Request("POST webhook", "POST", self.url, None, body, headers)
        async with open_client(None, {}, self.seconds, 1) as client:
            return await exchange(client, request, timeout_seconds=self.seconds, most_bytes=_MOST_BYTES)


def slack_body(message: Message) -> dict[str, object]:
    """The message as Slack takes it. No formatting of ours, and none that a customer's name could bring in."""
    text = f"{message.subject}\n{message.body}"
    cut = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
    return {"text": escaped(cut), "mrkdwn": False}


def escaped(text: str) -> str:
    """Text that Slack shows as it is: its three control characters escaped, and no name that calls a whole channel.

    ``<!channel>`` and ``<https://…|label>`` need an angle bracket in Slack; elsewhere a plain ``@channel`` is enough,
    so a zero-width space follows an at sign before a letter.
    """
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"@(?=\w)", "@\u200b", plain)


@dataclass(frozen=True)
class Mail:
    """E-mail through one server. Without TLS only to this machine itself."""

    url: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    seconds: float = MAIL_SECONDS
    name: str = "e-mail"

    def send(self, message: Message) -> None:
        """Sends one mail to all recipients; taken when the server has accepted it for every one of them."""
        parts = urlsplit(self.url)
        password = unquote(parts.password or "")
        try:
            with self._connected(parts) as server:
                if parts.username is not None:
                    server.login(unquote(parts.username), password)
                # Refused for some recipients only: the others have it. Sent again every minute for the sake of one
                # address would be worse.
                server.send_message(self._mail(message))
        except (smtplib.SMTPException, OSError) as error:
            reason = quoted(scrubbed(_reason(error), (self.url, password)), 200)
            raise NotTaken(
                f"The mail server {parts.hostname} did not take a message ({reason}). Check SMTP_URL, ALERT_EMAIL_FROM "
                "and ALERT_EMAIL_TO.",
                down=not isinstance(error, smtplib.SMTPDataError),
            ) from None

    def _connected(self, parts: SplitResult) -> smtplib.SMTP:
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        if parts.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=self.seconds, context=ssl.create_default_context())
        server = smtplib.SMTP(host, port, timeout=self.seconds)
        try:
            server.ehlo()
            if server.has_extn("starttls") or not is_loopback(f"http://{parts.netloc.rpartition('@')[2]}"):
                server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, message: Message) -> EmailMessage:
        # Subjects stay in one line: folded ones come out of some readers with a space more.
        mail = EmailMessage(policy=SMTP.clone(max_line_length=250))
        mail["From"], mail["To"] = self.sender, ", ".join(self.recipients)
        mail["Subject"] = " ".join(message.subject.split())
        mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain=self.sender.rpartition("@")[2])
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.body)
        return mail


def _reason(error: Exception) -> str:
    """What the server said, or what kept it from saying anything."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        return f"{error.smtp_code} {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}"
    return f"{type(error).__name__}: {error}"

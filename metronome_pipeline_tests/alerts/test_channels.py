"""Channels at real receivers: what arrives, what counts as taken, and that no secret is told."""

import ssl

import pytest
import trustme

from metronome_pipeline.alerts.channels import Mail, NotTaken, Webhook, channels_of, escaped
from metronome_pipeline.alerts.messages import Message, duration, over, place_of, told
from metronome_pipeline.alerts.problems import Kind, Problem, record
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.tags import environment_of
from metronome_pipeline_tests.alerts.receivers import hook, post
from metronome_pipeline_tests.loopback import START

MESSAGE = Message("[live] Quarantine: <!channel> & *bold*", "Acme\nTo do: mend it.")
REQUIRED = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-01"}
MAIL = {
    "ALERT_EMAIL_TO": "ops@example.com, billing@example.com",
    "ALERT_EMAIL_FROM": "pipeline@example.com",
    "SMTP_URL": "smtp://ana:p%40ss%2Fword@mail.example.com:587",
}
PROBLEM = Problem("key", Kind.quarantine, "It broke.", "1", "Mend it.", (record("Acme", None, "", 3),), 2, "runs")


def settings(**variables: str) -> Settings:
    return Settings.from_environment({**REQUIRED, **variables})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


def test_a_webhook_gets_what_slack_takes() -> None:
    with hook() as receiver:
        Webhook(receiver.url).send(MESSAGE)
    assert receiver.bodies == [
        {"text": "[live] Quarantine: &lt;!channel&gt; &amp; *bold*\nAcme\nTo do: mend it.", "mrkdwn": False}
    ]


def test_a_name_calls_nobody_and_formats_nothing() -> None:
    assert escaped("<@U1> & <https://evil|here>") == "&lt;@\u200bU1&gt; &amp; &lt;https://evil|here&gt;"
    assert escaped("@channel, a@b, @ noon") == "@\u200bchannel, a@\u200bb, @ noon"
    assert record("a\nb", "\u202etxt", "x" * 400).startswith("a\\nb, \\u202etxt, xxx")
    assert len(record("x" * 400)) <= 241


@pytest.mark.parametrize(
    ("status", "down"), [(400, False), (302, False), (403, True), (404, True), (429, True), (503, True)]
)
def test_only_a_2xx_has_taken_it(status: int, down: bool) -> None:
    with hook() as receiver:
        receiver.statuses = [status]
        with pytest.raises(NotTaken, match=f"answered {status} \\(no_service\\)") as raised:
            Webhook(receiver.url).send(MESSAGE)
    assert raised.value.down is down
    assert "s3cret" not in str(raised.value)


def test_a_webhook_that_is_not_there_is_down_and_keeps_its_secret() -> None:
    with hook() as receiver:
        url = receiver.url
    with pytest.raises(NotTaken, match=r"127\.0\.0\.1 gave no answer") as raised:
        Webhook(url).send(MESSAGE)
    assert raised.value.down
    assert "s3cret" not in str(raised.value)
    assert "s3cret" not in repr(Webhook(url))


def test_a_webhook_that_says_nothing_is_given_up() -> None:
    import threading  # noqa: PLC0415

    with hook() as receiver:
        receiver.gate = threading.Event()
        with pytest.raises(NotTaken, match="gave no answer within") as raised:
            Webhook(receiver.url, seconds=0.2).send(MESSAGE)
        receiver.gate.set()
    assert raised.value.down


def test_a_mail_arrives_with_its_subject_in_one_line() -> None:
    with post() as server:
        Mail(server.url, "pipeline@example.com", ("ops@example.com", "ana@example.com")).send(
            Message("[test] Stale:\r\nBcc: all@example.com größe", "One\nTwo")
        )
    (mail,) = server.mails
    assert mail["Subject"] == "[test] Stale: Bcc: all@example.com größe"
    assert mail["Bcc"] is None
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().splitlines() == ["One", "Two"]
    assert server.envelopes == [("pipeline@example.com", ("ops@example.com", "ana@example.com"))]


def test_a_mail_goes_by_starttls_with_the_login_of_the_url(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trusting(authority, monkeypatch, tmp_path_factory)
    with post(tls=server_tls(authority), login=("ana", "p@ss/word")) as server:
        url = server.url.replace("://", "://ana:p%40ss%2Fword@")
        Mail(url, "pipeline@example.com", ("ops@example.com",)).send(MESSAGE)
    assert server.encrypted == [True]
    assert server.logins == [("ana", "p@ss/word")]


def test_a_mail_goes_by_tls_from_the_first_byte(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trusting(authority, monkeypatch, tmp_path_factory)
    with post(tls=server_tls(authority), implicit=True) as server:
        Mail(server.url, "pipeline@example.com", ("ops@example.com",)).send(MESSAGE)
    assert server.taken() == [MESSAGE.subject]


def test_a_mail_server_that_nobody_vouches_for_gets_no_password(authority: trustme.CA) -> None:
    with post(tls=server_tls(authority), login=("ana", "s3cret")) as server:
        mail = Mail(server.url.replace("://", "://ana:s3cret@"), "pipeline@example.com", ("ops@example.com",))
        with pytest.raises(NotTaken, match="certificate verify failed") as raised:
            mail.send(MESSAGE)
    assert raised.value.down
    assert server.logins == []


def test_a_wrong_login_and_a_refused_message_are_told_without_the_password(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trusting(authority, monkeypatch, tmp_path_factory)
    with (
        post(tls=server_tls(authority), login=("ana", "right")) as server,
        pytest.raises(NotTaken, match="535") as raised,
    ):
        Mail(server.url.replace("://", "://ana:s3cret@"), "a@example.com", ("b@example.com",)).send(MESSAGE)
    assert "s3cret" not in str(raised.value)
    assert raised.value.down
    with post() as server:
        server.answer = "554 not like this"
        with pytest.raises(NotTaken, match="554 not like this") as raised:
            Mail(server.url, "a@example.com", ("b@example.com",)).send(MESSAGE)
    assert not raised.value.down, "it may have been about this very message"


def test_a_mail_server_elsewhere_must_offer_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a name that is not this machine's by its look: the connection itself still goes to loopback."""
    import socket  # noqa: PLC0415

    with post() as server:
        port = server.url.rpartition(":")[2]
        address = ("127.0.0.1", int(port))
        connect = socket.create_connection
        monkeypatch.setattr("smtplib.socket.create_connection", lambda _, *args: connect(address, *args))
        with pytest.raises(NotTaken, match="STARTTLS"):
            Mail(f"smtp://mail.example.com:{port}", "a@example.com", ("b@example.com",)).send(MESSAGE)
    assert server.mails == []


def test_the_settings_name_the_channels_and_nothing_is_told_without() -> None:
    assert channels_of(settings()) == []
    found = channels_of(settings(ALERT_WEBHOOK_URL="https://hooks.slack.com/services/T/B/x", **MAIL))
    assert [channel.name for channel in found] == ["webhook", "e-mail"]
    assert "p%40ss" not in repr(found)
    assert "hooks.slack" not in repr(found)


def test_the_environment_comes_first() -> None:
    assert environment_of(settings()) == "test"
    assert environment_of(settings(SOLVIMON_BASE_URL="http://127.0.0.1:8000")) == "sandbox"
    live = settings(SOLVIMON_BASE_URL="https://api.solvimon.com", SOLVIMON_LIVE="true", SOLVIMON_PLATFORM_ID="plat_1")
    message = told(PROBLEM, place_of(live))
    assert message.subject == "[live] Quarantine: It broke."
    assert message.body == (
        "- Acme, 3\n- and 2 more\nTo do: Mend it.\n"
        "Accounts: production at api.metronome.com to api.solvimon.com, platform plat_1."
    )
    linked = told(PROBLEM, place_of(settings(DAGSTER_UI_URL="https://dagster.example.com/prefix/")), since=START)
    assert linked.subject == "[test] Still: Quarantine: It broke."
    assert linked.body.splitlines()[0] == "Changed since it was told, 2026-11-22 06:00 UTC."
    assert "\nhttps://dagster.example.com/prefix/runs\n" in linked.body
    assert over("Quarantine: It broke.", START, START, place_of(live)).subject == "[live] Over: Quarantine: It broke."


def test_a_long_subject_is_cut_and_told_whole_below() -> None:
    from dataclasses import replace  # noqa: PLC0415

    message = told(replace(PROBLEM, what="x" * 300), place_of(settings()))
    assert len(message.subject) == 180
    assert message.body.startswith(f"Quarantine: {'x' * 300}\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(10, "less than a minute"), (60, "1 minute"), (7300, "2 hours"), (86400, "24 hours"), (200000, "2 days")],
)
def test_a_time_in_words(seconds: int, words: str) -> None:
    from datetime import timedelta  # noqa: PLC0415

    assert duration(timedelta(seconds=seconds)) == words

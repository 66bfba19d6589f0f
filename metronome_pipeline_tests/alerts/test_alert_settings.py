"""Settings of alerts: right and wrong spellings, and that a secret is never repeated."""

import pytest

from metronome_pipeline.settings import Settings, SettingsError

REQUIRED = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-01"}
MAIL = {"ALERT_EMAIL_TO": "a@example.com", "ALERT_EMAIL_FROM": "b@example.com", "SMTP_URL": "smtp://mail.example.com"}
WRONG = [
    ("ALERT_WEBHOOK_URL", "hooks.slack.com/s3cret", "is not a web address: copy it again, it begins with https://."),
    ("ALERT_WEBHOOK_URL", "https://u:s3cret@x.com/y", "is not a web address: copy it again, it begins with https://."),
    (
        "ALERT_WEBHOOK_URL",
        "http://hooks.slack.com/s3cret",
        "is plain http, which would show it to the network: write https://.",
    ),
    ("ALERT_EMAIL_TO", "a@example.com, ops", "names 'ops': write e-mail addresses, by comma."),
    ("SMTP_URL", "mail.example.com:587", "is not of the form smtp://user:password@host:587"),
    ("SMTP_URL", "smtp://ana:s3cret/x@mail.example.com", "is not of the form smtp://user:password@host:587"),
    ("SMTP_URL", "smtp://ana:s3cret@mail.example.com:port", "is not of the form smtp://user:password@host:587"),
    ("SMTP_URL", "smtp://s3cret@mail.example.com", "has a user without a password"),
    ("DAGSTER_UI_URL", "dagster.example.com", "write a web address such as https://dagster.example.com."),
    ("DAGSTER_UI_URL", "https://dagster.example.com/?a=1", "leave out what begins with ? or #."),
    ("ALERT_STALE_HOURS", "0", "is '0': write a whole number from 1 to 744."),
]


@pytest.mark.parametrize(("name", "text", "sentence"), WRONG)
def test_a_wrong_setting_is_a_sentence_without_any_secret(name: str, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({**REQUIRED, **MAIL, name: text})
    assert sentence in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("left_out", MAIL)
def test_half_of_what_a_mail_needs_is_refused(left_out: str) -> None:
    with pytest.raises(SettingsError, match=f"Alerts by e-mail need {left_out} as well"):
        Settings.from_environment({**REQUIRED, **{name: text for name, text in MAIL.items() if name != left_out}})


def test_secrets_stay_secret_in_whatever_shows_the_settings() -> None:
    found = Settings.from_environment(
        {
            **REQUIRED,
            **MAIL,
            "SMTP_URL": "smtps://ana:s3cret@mail.example.com:465",
            "ALERT_WEBHOOK_URL": "http://127.0.0.1:8000/s3cret",
            "DAGSTER_UI_URL": "http://dagster.internal:3000/",
        }
    )
    assert "s3cret" not in repr(found) + str(found.model_dump()) + found.model_dump_json()
    assert found.dagster_ui_url == "http://dagster.internal:3000"

"""Settings: every right spelling, every error's sentence, and that no secret is ever shown."""

import copy
import json
import pickle
import re
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from metronome_pipeline.settings import (
    AccountPair,
    PostgresSettings,
    Settings,
    SettingsError,
    environment,
    psycopg_url,
    sqlalchemy_url,
)

CUSTOMER = "11111111-2222-4333-8444-555555555555"
METRIC = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
TOKEN = "token-of-the-test"
KEY = "key-of-the-test"
REQUIRED = {"METRONOME_BEARER_TOKEN": TOKEN, "SOLVIMON_API_KEY": KEY, "USAGE_START": "2026-01-01"}
ROOT = Path(__file__).parent.parent


def settings(**variables: str) -> Settings:
    return Settings.from_environment({**REQUIRED, **variables})


def error(**variables: str) -> str:
    with pytest.raises(SettingsError) as raised:
        settings(**variables)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    return str(raised.value)


def test_three_variables_are_enough() -> None:
    found = settings()
    assert found.metronome_base_url == "https://api.metronome.com"
    assert found.solvimon_base_url == "https://test.api.solvimon.com"
    assert found.usage_start == datetime(2026, 1, 1, tzinfo=UTC)
    assert found.postgres_url is None
    assert (found.usage_close_minutes, found.usage_look_back_days, found.solvimon_batch_limit) == (15, 8, 50)
    assert (found.brake_share, found.brake_floor) == (Decimal("0.20"), 100)
    assert (found.usage_enabled, found.grouped_usage_enabled) == (True, False)
    assert found.resource_owners == ("team:billing",)


def test_every_missing_variable_has_its_sentence() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({})
    assert (
        str(raised.value)
        == (
            "METRONOME_BEARER_TOKEN is not set: put Metronome's API token into the environment or into .env. "
            "SOLVIMON_API_KEY is not set: put Solvimon's API key into the environment or into .env. "
            "USAGE_START is not set: name the first hour to bill, such as 2026-01-01 or 2026-01-01T06:00Z."
        )
        or sorted(str(raised.value)) == []
    )


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_a_blank_variable_counts_as_unset(blank: str) -> None:
    assert settings(BRAKE_FLOOR=blank).brake_floor == 100
    assert error(SOLVIMON_API_KEY=blank).startswith("SOLVIMON_API_KEY is not set: ")


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{key}={value}" for key, value in REQUIRED.items()]
    (tmp_path / ".env").write_text("\n".join([*lines, "BRAKE_FLOOR=7", "USAGE_CLOSE_MINUTES=30", "HALF"]))
    for variable in (*REQUIRED, "USAGE_CLOSE_MINUTES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("BRAKE_FLOOR", "8")
    found = Settings.from_environment()
    assert (found.brake_floor, found.usage_close_minutes) == (8, 30)
    monkeypatch.setenv("USAGE_CLOSE_MINUTES", "")
    assert Settings.from_environment().usage_close_minutes == 15
    assert "HALF" not in environment()


WRONG = [
    ("METRONOME_BASE_URL", "api.metronome.com", "is not a web address: write it as https://host."),
    ("METRONOME_BASE_URL", "ftp://api.metronome.com", "is not a web address: write it as https://host."),
    ("METRONOME_BASE_URL", "https://h:99999", "is not a web address: write it as https://host."),
    ("METRONOME_BASE_URL", "https://[1", "is not a web address: write it as https://host."),
    ("METRONOME_BASE_URL", "https://\u0131.example", "is not a web address: write it as https://host."),
    (
        "METRONOME_BASE_URL",
        "https://api.metronome.com/v1",
        "has something after the host: leave the path out, it is added for each endpoint.",
    ),
    (
        "METRONOME_BASE_URL",
        "http://api.metronome.com",
        "is plain http, which would show the credential to the network: write https://.",
    ),
    (
        "METRONOME_BASE_URL",
        "http://127.0.0.1@example.com",
        "holds a user or a password: credentials have variables of their own, leave them out here.",
    ),
    (
        "METRONOME_BEARER_TOKEN",
        "to ken",
        "holds a space or another character that no credential has: copy it again, without quotes.",
    ),
    (
        "METRONOME_ENVIRONMENT",
        "my env",
        "is 'my env': use letters, digits and _ . : - only, at most 128.",
    ),
    ("SOLVIMON_LIVE", "maybe", "is 'maybe': write true or false."),
    (
        "DAGSTER_POSTGRES_URL",
        "mysql://root@host/db",
        "is not a Postgres URL: write it as postgresql://user:password@host:5432/database.",
    ),
    (
        "DAGSTER_POSTGRES_URL",
        "postgresql://user:pass/word@host/db",
        "has no readable host and port: write / : @ ? # in the password as %2F %3A %40 %3F %23.",
    ),
    ("METRONOME_PIPELINE_HOME", "a\x00b", "holds a NUL character: name a folder."),
    (
        "USAGE_START",
        "yesterday",
        "is 'yesterday': write a date or a whole UTC hour, such as 2026-01-01 or 2026-01-01T06:00Z.",
    ),
    ("USAGE_CLOSE_MINUTES", "-1", "is '-1': write a whole number from 0 to 1440."),
    ("USAGE_LOOK_BACK_DAYS", "8.0", "is '8.0': write a whole number from 1 to 35."),
    (
        "USAGE_CUSTOMERS",
        f"{CUSTOMER},ACME",
        "names 'ACME', which is no id: copy the UUID that Metronome shows.",
    ),
    (
        "USAGE_METRICS",
        "x" * 300,
        f"names '{'x' * 77}…', which is no id: copy the UUID that Metronome shows.",
    ),
    ("CUSTOMER_USAGE_STARTS", "[]", 'is not a JSON object: write it as {"id": value, …}.'),
    ("CUSTOMER_USAGE_STARTS", "{", 'is not a JSON object: write it as {"id": value, …}.'),
    (
        "CUSTOMER_USAGE_STARTS",
        json.dumps({CUSTOMER: 2026}),
        f"of {CUSTOMER} is '2026': write a date or a whole UTC hour, such as 2026-01-01 or 2026-01-01T06:00Z.",
    ),
    (
        "CUSTOMER_USAGE_STARTS",
        f'{{"{CUSTOMER}": "2026-02-01", "{CUSTOMER}": "2026-03-01"}}',
        f"names {CUSTOMER} twice: keep one.",
    ),
    (
        "CUSTOMER_USAGE_STARTS",
        json.dumps({CUSTOMER: "2025-12-31"}),
        (
            f"is before USAGE_START for {CUSTOMER}: a customer's own cut-over can only be later, as nothing from "
            "before USAGE_START is billed."
        ),
    ),
    ("SOLVIMON_EVENTS_PATH", "v1/events", "is 'v1/events': write a path such as /v1/events/ingest-batch."),
    ("SOLVIMON_BATCH_LIMIT", "0", "is '0': write a whole number from 1 to 1000."),
    ("METRONOME_REQUESTS_PER_SECOND", "nan", "is 'nan': write a number above 0 and up to 1000."),
    ("METRONOME_REQUESTS_PER_SECOND", "0", "is '0': write a number above 0 and up to 1000."),
    (
        "METRIC_SLICINGS",
        json.dumps({METRIC: "region"}),
        f'of {METRIC} is \'"region"\': write "ungrouped" or a list of different group keys.',
    ),
    (
        "METRIC_SLICINGS",
        json.dumps({METRIC: ["a", "a"]}),
        f'of {METRIC} is \'["a", "a"]\': write "ungrouped" or a list of different group keys.',
    ),
    (
        "METRIC_SLICINGS",
        json.dumps({METRIC: {}}),
        f"of {METRIC} is '[]': write \"ungrouped\" or a list of different group keys.",
    ),
    (
        "METRIC_CALCULATIONS",
        json.dumps({METRIC: "AVG"}),
        f'of {METRIC} is \'"AVG"\': write "SUM", "MAX" or "PERIOD_TO_DATE".',
    ),
    (
        "METRIC_CALCULATIONS",
        json.dumps({METRIC: ["SUM"]}),
        f'of {METRIC} is \'["SUM"]\': write "SUM", "MAX" or "PERIOD_TO_DATE".',
    ),
    ("DEFAULT_CUSTOMER_EMAIL", "nobody", "is 'nobody': write one e-mail address, or leave it empty."),
    ("BRAKE_SHARE", "20%", "is '20%': write a share from 0 to 1, such as 0.20."),
    ("BRAKE_SHARE", "NaN", "is 'NaN': write a share from 0 to 1, such as 0.20."),
    ("RESOURCE_OWNERS", "team:billing,me", "names 'me': write team:name or an e-mail address, by comma."),
]


@pytest.mark.parametrize(("variable", "value", "rest"), WRONG)
def test_a_wrong_variable_is_one_sentence_that_names_it(variable: str, value: str, rest: str) -> None:
    assert error(**{variable: value}) == f"{variable} {rest}"


def test_several_problems_are_several_sentences() -> None:
    assert error(BRAKE_SHARE="2", SOLVIMON_LIVE="perhaps") == (
        "SOLVIMON_LIVE is 'perhaps': write true or false. BRAKE_SHARE is '2': write a share from 0 to 1, such as 0.20."
    )


SECRETS = {
    "METRONOME_BEARER_TOKEN": "hush-hush-token",
    "SOLVIMON_API_KEY": "hush-hush-key",
    "DAGSTER_POSTGRES_URL": "postgresql://me:hush-hush@db.example.com/billing",
}


def test_a_secret_is_never_shown() -> None:
    found = settings(**SECRETS)
    shown = [
        repr(found),
        str(found),
        repr(found.model_dump()),
        found.model_dump_json(),
        found.model_dump_json(by_alias=True),
    ]
    assert not [text for text in shown if "hush" in text]
    assert found.postgres_url is not None
    assert found.postgres_url.get_secret_value() == SECRETS["DAGSTER_POSTGRES_URL"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"METRONOME_BEARER_TOKEN": "hush hush"},
        {"SOLVIMON_API_KEY": "hush\thush"},
        {"DAGSTER_POSTGRES_URL": "mysql://me:hush@host/db"},
        {"DAGSTER_POSTGRES_URL": "postgresql://me:hush/hush@host/db"},
        {"METRONOME_BASE_URL": "https://me:hush@host"},
        {"USAGE_START": "never"},
        {"CUSTOMER_USAGE_STARTS": json.dumps({CUSTOMER: "2025-01-01"})},
    ],
)
def test_an_error_never_holds_a_secret(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({**REQUIRED, **SECRETS, **wrong})
    assert "hush" not in repr(raised.value)
    assert "hush" not in "".join(str(argument) for argument in raised.value.args)
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    ["https://api.solvimon.com", "https://acme.solvimon.com", "https://TEST.api.solvimon.com.evil.example"],
)
def test_a_host_that_is_not_the_test_host_needs_a_second_setting(url: str) -> None:
    sentence = error(SOLVIMON_BASE_URL=url)
    assert sentence.startswith("SOLVIMON_BASE_URL names ")
    assert "set SOLVIMON_LIVE=true" in sentence
    assert settings(SOLVIMON_BASE_URL=url, SOLVIMON_LIVE="true").solvimon_base_url == url.lower()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8081", "http://localhost:1", "http://[::1]:9", "https://TEST.api.solvimon.com:443/"]
)
def test_the_test_host_and_loopback_need_none(url: str) -> None:
    assert settings(SOLVIMON_BASE_URL=url).solvimon_live is False


@pytest.mark.parametrize("name", ["acme-1", "acme/1", "Ökostrom", "a b", "a" * 51])
def test_an_account_name_is_what_fits_into_a_key_a_pool_and_a_tag(name: str) -> None:
    with pytest.raises(SettingsError, match=r"ACCOUNT_NAME is .*: use letters, digits and _ only, at most 50"):
        settings(ACCOUNT_NAME=name)
    assert settings(ACCOUNT_NAME="Acme_1").account_name == "Acme_1"
    assert settings().account_name == ""


def test_the_account_pair_is_made_of_hosts_environment_and_platform() -> None:
    assert settings().account_pair == AccountPair("api.metronome.com", "production", "test.api.solvimon.com", "")
    assert settings(
        METRONOME_BASE_URL="http://localhost:8001/",
        METRONOME_ENVIRONMENT="shadow",
        SOLVIMON_BASE_URL="HTTPS://Test.API.solvimon.com:443",
        SOLVIMON_PLATFORM_ID="plat_1",
    ).account_pair == AccountPair("localhost:8001", "shadow", "test.api.solvimon.com", "plat_1")


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("20260101", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T06:00Z", datetime(2026, 1, 1, 6, tzinfo=UTC)),
        ("2026-01-01T06:00:00.000+02:00", datetime(2026, 1, 1, 4, tzinfo=UTC)),
        ("2026-01-01 06:00+00:00", datetime(2026, 1, 1, 6, tzinfo=UTC)),
    ],
)
def test_the_cut_over_is_a_date_or_a_utc_hour(text: str, hour: datetime) -> None:
    assert settings(USAGE_START=text).usage_start == hour
    assert settings(USAGE_START=text).usage_start.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        *("2026-01-01T06:00", "2026-01-01T06", "2026-01-01T06:30Z", "2026-01-01T06:00+05:30", "2026-01-01T06:00:01Z"),
        *("2026-W01-1", "2026-02-30", "1999-12-31", "0001-01-01", "0001-01-01T00:00+10:00"),
    ],
)
def test_an_instant_without_offset_or_within_an_hour_is_refused(text: str) -> None:
    assert error(USAGE_START=text).startswith(f"USAGE_START is '{text}': write a date or a whole UTC hour")


def test_lists_and_maps_are_read_in_lower_case() -> None:
    found = settings(
        USAGE_CUSTOMERS=f" {CUSTOMER.upper()} , {CUSTOMER},",
        USAGE_METRICS=METRIC,
        CUSTOMER_USAGE_STARTS=json.dumps({CUSTOMER.upper(): "2026-02-01T03:00Z"}),
        METRIC_SLICINGS=json.dumps({METRIC.upper(): ["region", "größe"], CUSTOMER: "ungrouped"}),
        METRIC_CALCULATIONS=json.dumps({METRIC: "MAX", CUSTOMER: "PERIOD_TO_DATE"}),
        RESOURCE_OWNERS="team:billing, ops@example.com",
        GROUPED_USAGE_ENABLED="On",
    )
    assert found.usage_customers == {CUSTOMER}
    assert found.usage_metrics == {METRIC}
    assert found.usage_start_of(CUSTOMER) == datetime(2026, 2, 1, 3, tzinfo=UTC)
    assert found.usage_start_of(METRIC) == found.usage_start
    assert found.metric_slicings == {METRIC: ("region", "größe"), CUSTOMER: "ungrouped"}
    assert found.metric_calculations == {METRIC: "MAX", CUSTOMER: "PERIOD_TO_DATE"}
    assert found.resource_owners == ("team:billing", "ops@example.com")
    assert found.grouped_usage_enabled is True


def test_settings_are_frozen_and_can_be_copied() -> None:
    found = settings()
    with pytest.raises(ValueError, match="frozen"):
        found.brake_floor = 1  # type: ignore[misc]
    assert copy.deepcopy(found) == found
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_database_alone_needs_no_credential() -> None:
    found = PostgresSettings.from_environment({"METRONOME_PIPELINE_HOME": "~/x"})
    assert found.home == Path("~/x").expanduser()


def test_the_example_names_every_setting_once_with_its_default() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", example, re.MULTILINE)
    assert sorted(name for name, _ in lines) == sorted(field.alias or "" for field in Settings.model_fields.values())
    assert Settings.from_environment({**dict(lines), **REQUIRED}) == settings()


@given(variable=st.sampled_from([field.alias or "" for field in Settings.model_fields.values()]), text=st.text())
def test_whatever_a_variable_holds_it_is_a_value_or_a_sentence(variable: str, text: str) -> None:
    with suppress(SettingsError):
        settings(**{variable: text})


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just("SUM"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.just(METRIC) | st.text(max_size=3), inner, max_size=2)
    ),
).map(json.dumps)


@given(variable=st.sampled_from(["CUSTOMER_USAGE_STARTS", "METRIC_SLICINGS", "METRIC_CALCULATIONS"]), text=json_texts)
def test_whatever_json_a_variable_holds_it_is_a_value_or_a_sentence(variable: str, text: str) -> None:
    with suppress(SettingsError):
        settings(**{variable: text})


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.alias, name
        assert field.description, name
        assert field.description.endswith("."), name


SPELLINGS = ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg", "POSTGRESQL"]
words = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=12
)


@given(spelling=st.sampled_from(SPELLINGS), user=words, password=words, database=words, option=words)
def test_both_drivers_read_the_same_from_any_spelling(
    spelling: str, user: str, password: str, database: str, option: str
) -> None:
    def escaped(text: str) -> str:
        return quote(text, safe="")

    rest = f"{escaped(user)}:{escaped(password)}@db.example.com:6543/{escaped(database)}"
    rest += f"?application_name={escaped(option)}+1&sslmode=require"
    libpq = conninfo_to_dict(psycopg_url(f"{spelling}://{rest}"))
    alchemy = make_url(sqlalchemy_url(f"{spelling}://{rest}"))
    assert alchemy.drivername == "postgresql+psycopg2"
    assert (libpq["user"], libpq["password"], libpq["dbname"]) == (user, password, database)
    assert (alchemy.username, alchemy.password, alchemy.database) == (user, password, database)
    assert libpq["application_name"] == alchemy.query["application_name"] == f"{option}+1"
    assert (libpq["host"], libpq["port"], libpq["sslmode"]) == (
        alchemy.host,
        str(alchemy.port),
        alchemy.query["sslmode"],
    )


@given(rest=st.text(max_size=60))
def test_a_normalised_url_stays_as_it_is(rest: str) -> None:
    try:
        once = psycopg_url(f"postgres://{rest}")
    except ValueError:
        return
    assert once == psycopg_url(once) == f"postgresql://{rest}"
    assert sqlalchemy_url(sqlalchemy_url(once)) == sqlalchemy_url(once)


@pytest.mark.parametrize(
    "url", ["", "host=db user=me", "postgresql:/db", "sqlite:///x", "postgresqlx://h", "https://h/"]
)
def test_what_is_no_postgres_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a Postgres URL"):
        sqlalchemy_url(url)

"""Every setting: typed, named, read from the environment and ``.env``, with its default and its error.

Here: what may be set and what a right value is. Not here: what the settings are used for, and any look at a server.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from metronome_pipeline import setting_values as values
from metronome_pipeline.errors import PipelineError, quoted
from metronome_pipeline.metrics_file import Calculation, MetricsFile, Slicing, read_metrics_file

TEST_HOST = "test.api.solvimon.com"


class SettingsError(PipelineError):
    """One sentence or more for the person who sets the variables; never the value of a secret."""


@dataclass(frozen=True, order=True)
class AccountPair:
    """The two accounts that are kept in step. Every stored row belongs to one pair; another pair starts empty.

    Hosts are ``host`` or ``host:port`` in lower case. Metronome has one host for all of its environments (the token
    chooses), so the environment is a name that the operator gives; Solvimon's platform is "" when the key implies it.
    """

    metronome_host: str
    metronome_environment: str
    solvimon_host: str
    solvimon_platform_id: str


@dataclass(frozen=True)
class Permitted:
    """Which records of a kind the settings allow: ``only`` these, where that is not None, and none ``without``."""

    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()

    def __contains__(self, record_id: str) -> bool:
        return (self.only is None or record_id in self.only) and record_id not in self.without


def _with_the_file(
    read: Callable[[str], Mapping[str, Any]], of_file: Callable[[MetricsFile], Mapping[str, Any]]
) -> BeforeValidator:
    """Reads a variable by metric id, and adds what METRICS_FILE says of the metrics that it does not name."""

    def merged(value: str | Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        own = read(value) if isinstance(value, str) else value
        # Missing where the file itself is wrong, which is told then.
        file: MetricsFile | None = info.data.get("metrics_file")
        others = of_file(file) if file else {}
        for key in sorted(own.keys() & others.keys()):
            if own[key] != others[key]:
                raise ValueError(
                    f"of {key} is {_spelled(own[key])}, and METRICS_FILE says {_spelled(others[key])}: keep one of them"
                )
        return {**others, **own}

    return BeforeValidator(merged)


def _spelled(value: object) -> str:
    return quoted(json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else str(value), 80)


class PostgresSettings(BaseModel):
    """Which Postgres: all that Dagster's own processes need to know before any code of a workflow is loaded."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    postgres_url: Annotated[SecretStr | None, BeforeValidator(values.postgres_url)] = Field(
        None,
        alias="DAGSTER_POSTGRES_URL",
        description="The Postgres of Dagster's instance and of the ledger. Unset: an embedded server is started.",
    )
    home: Annotated[Path, BeforeValidator(values.folder)] = Field(
        Path(".metronome_pipeline"),
        alias="METRONOME_PIPELINE_HOME",
        description="The folder of the embedded Postgres, relative to the working directory. Unused with a URL.",
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings of the process: ``.env`` of the working directory, under the environment, which wins.

        Args:
            environ: Instead of both, when given. A variable that is empty or blank counts as unset.

        Raises:
            SettingsError: A sentence for each variable that is missing or wrong.
        """
        try:
            return cls.model_validate(environment() if environ is None else _without_blanks(environ))
        except ValidationError as error:
            sentences = " ".join(_sentence(problem) for problem in error.errors(include_url=False, include_input=False))
        # Outside of the handler: the validation error holds every value, secrets too, and must not come along.
        raise SettingsError(sentences)


class TelemetrySettings(PostgresSettings):
    """Whether OpenTelemetry is on. Its other variables, ``OTEL_…``, are OpenTelemetry's own."""

    telemetry: Annotated[bool | None, BeforeValidator(values.switch)] = Field(
        None,
        alias="METRONOME_PIPELINE_TELEMETRY",
        description="OpenTelemetry traces and metrics of runs: true or false. Unset: on where "
        "OTEL_EXPORTER_OTLP_ENDPOINT is set. Needs the extra `telemetry`.",
    )
    telemetry_endpoint: str | None = Field(
        None,
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="Where OpenTelemetry's traces and metrics go, over HTTP; http://localhost:4318 where telemetry is "
        "on without it.",
    )

    @property
    def telemetry_is_on(self) -> bool:
        """Whether runs are observed."""
        return self.telemetry if self.telemetry is not None else self.telemetry_endpoint is not None


class Settings(TelemetrySettings):
    """All settings, checked. Made with ``from_environment``; each field's alias is the variable that sets it."""

    metronome_base_url: Annotated[str, BeforeValidator(values.base_url)] = Field(
        "https://api.metronome.com",
        alias="METRONOME_BASE_URL",
        description="Where Metronome's API is: scheme and host. Plain http is allowed on loopback only.",
    )
    metronome_bearer_token: Annotated[SecretStr, BeforeValidator(values.secret)] = Field(
        alias="METRONOME_BEARER_TOKEN",
        description="Metronome's API token; reading is enough. The token decides which environment is read.",
    )
    metronome_environment: Annotated[str, BeforeValidator(values.name)] = Field(
        "production",
        alias="METRONOME_ENVIRONMENT",
        description="Your name for the token's environment. Part of the account pair: another name starts empty.",
    )
    solvimon_base_url: Annotated[str, BeforeValidator(values.base_url)] = Field(
        f"https://{TEST_HOST}",
        alias="SOLVIMON_BASE_URL",
        description="Where Solvimon's API is. Any host but the test host and loopback also needs SOLVIMON_LIVE=true.",
    )
    solvimon_live: Annotated[bool, BeforeValidator(values.switch)] = Field(
        default=False,
        alias="SOLVIMON_LIVE",
        description="Says that SOLVIMON_BASE_URL may be a live or dedicated host, where events become invoices.",
    )
    solvimon_api_key: Annotated[SecretStr, BeforeValidator(values.secret)] = Field(
        alias="SOLVIMON_API_KEY", description="Solvimon's API key, of the environment that SOLVIMON_BASE_URL names."
    )
    solvimon_platform_id: Annotated[str, BeforeValidator(values.name)] = Field(
        "",
        alias="SOLVIMON_PLATFORM_ID",
        description="Solvimon's platform (plat_…), for keys that reach several. Part of the account pair.",
    )
    account_name: Annotated[str, BeforeValidator(values.account)] = Field(
        "",
        alias="ACCOUNT_NAME",
        description="Where one Dagster serves several account pairs: this one's name, which comes first in its asset "
        "keys and pools, and tags its runs. Another name starts with nothing materialized.",
    )
    usage_start: Annotated[datetime, BeforeValidator(values.hour)] = Field(
        alias="USAGE_START",
        description="The cut-over, also the first partition: a date or a UTC hour. Nothing earlier is ever billed.",
    )
    usage_close_minutes: Annotated[int, BeforeValidator(values.whole_number(0, 1440))] = Field(
        15, alias="USAGE_CLOSE_MINUTES", description="Minutes after its end at which an hour is closed and read."
    )
    usage_look_back_days: Annotated[int, BeforeValidator(values.whole_number(1, 35))] = Field(
        8,
        alias="USAGE_LOOK_BACK_DAYS",
        description="UTC days, today among them, that each hourly run reads again for late usage. 8 fill one page.",
    )
    sweep_days: Annotated[int, BeforeValidator(values.whole_number(1, 180))] = Field(
        35,
        alias="SWEEP_DAYS",
        description="UTC days that the daily sweep compares with the ledger. Metronome takes events 34 days late.",
    )
    usage_retention_days: Annotated[int | None, BeforeValidator(values.whole_number(70, 36_500))] = Field(
        None,
        alias="USAGE_RETENTION_DAYS",
        description="Days after which raw usage is removed, at least SWEEP_DAYS and 35 more. Unset: it is kept. The "
        "ledger always is.",
    )
    usage_customers: Annotated[frozenset[str], BeforeValidator(values.ids)] = Field(
        frozenset(), alias="USAGE_CUSTOMERS", description="Only these customers' usage (ids, by comma). Empty: all."
    )
    metrics_file: Annotated[MetricsFile | None, BeforeValidator(read_metrics_file)] = Field(
        None,
        alias="METRICS_FILE",
        description="A YAML file that says how each billable metric is billed, instead of USAGE_METRICS, "
        "METRIC_SLICINGS and METRIC_CALCULATIONS. `metronome-pipeline metrics init` writes it.",
    )
    usage_metrics: Annotated[frozenset[str], BeforeValidator(values.ids)] = Field(
        frozenset(), alias="USAGE_METRICS", description="Only these billable metrics (ids, by comma). Empty: all."
    )
    customer_usage_starts: Annotated[Mapping[str, datetime], BeforeValidator(values.hour_by_id)] = Field(
        {},
        alias="CUSTOMER_USAGE_STARTS",
        description="Later cut-overs of single customers: a JSON object, customer id to date or UTC hour.",
    )
    solvimon_events_path: Annotated[str, BeforeValidator(values.url_path)] = Field(
        "/v1/events/ingest-batch", alias="SOLVIMON_EVENTS_PATH", description="The endpoint that takes event batches."
    )
    solvimon_events_key: Annotated[str, BeforeValidator(values.name)] = Field(
        "meter_datas", alias="SOLVIMON_EVENTS_KEY", description="The key under which a batch lists its events."
    )
    solvimon_batch_limit: Annotated[int, BeforeValidator(values.whole_number(1, 1000))] = Field(
        50, alias="SOLVIMON_BATCH_LIMIT", description="The most events in one batch."
    )
    metronome_requests_per_second: Annotated[float, BeforeValidator(values.pace)] = Field(
        8.0,
        alias="METRONOME_REQUESTS_PER_SECOND",
        description="The budget of requests to Metronome, shared by every run on every machine.",
    )
    usage_hourly_share: Annotated[Decimal, BeforeValidator(values.share)] = Field(
        Decimal("0.60"),
        alias="USAGE_HOURLY_SHARE",
        description="The share of an hour's budget of requests that hourly runs may take. With more customers and "
        "metrics than that, those with usage of late are read each hour and the others take turns.",
    )
    metronome_requests_in_flight: Annotated[int, BeforeValidator(values.whole_number(1, 256))] = Field(
        8, alias="METRONOME_REQUESTS_IN_FLIGHT", description="The most requests of one run that await Metronome."
    )
    solvimon_requests_in_flight: Annotated[int, BeforeValidator(values.whole_number(1, 256))] = Field(
        8, alias="SOLVIMON_REQUESTS_IN_FLIGHT", description="The most requests of one run that await Solvimon."
    )
    usage_enabled: Annotated[bool, BeforeValidator(values.switch)] = Field(
        default=True, alias="USAGE_ENABLED", description="The workflow that ingests usage."
    )
    grouped_usage_enabled: Annotated[bool, BeforeValidator(values.switch)] = Field(
        default=False, alias="GROUPED_USAGE_ENABLED", description="The workflow that ingests usage with properties."
    )
    metric_slicings: Annotated[
        Mapping[str, Slicing], _with_the_file(values.slicing_by_id, lambda file: file.slicings)
    ] = Field(
        {},
        alias="METRIC_SLICINGS",
        validate_default=True,
        description='How metrics are sliced, with grouped usage on: a JSON object, metric id to "ungrouped" or to a '
        "list of group keys. Unnamed metrics use their first declared group key, those without one stay ungrouped.",
    )
    metric_calculations: Annotated[
        Mapping[str, Calculation], _with_the_file(values.calculation_by_id, lambda file: file.calculations)
    ] = Field(
        {},
        alias="METRIC_CALCULATIONS",
        validate_default=True,
        description='How LATEST, UNIQUE and SQL metrics are billed: a JSON object, metric id to "PERIOD_TO_DATE" '
        '(exact, by day), or to the "SUM" or "MAX" of their hourly values.',
    )
    default_customer_email: Annotated[str | None, BeforeValidator(values.email)] = Field(
        None, alias="DEFAULT_CUSTOMER_EMAIL", description="The address of customers that Metronome has none for."
    )
    brake_share: Annotated[Decimal, BeforeValidator(values.share)] = Field(
        Decimal("0.20"),
        alias="BRAKE_SHARE",
        description="A plan that takes back more than this share of what was billed stops and asks.",
    )
    brake_floor: Annotated[int, BeforeValidator(values.whole_number(0, 1_000_000_000))] = Field(
        100,
        alias="BRAKE_FLOOR",
        description="A decrease of at most so many of the metric's own unit passes whatever its share.",
    )
    billing_period_anchor_day: Annotated[int, BeforeValidator(values.whole_number(1, 28))] = Field(
        1,
        alias="BILLING_PERIOD_ANCHOR_DAY",
        description="The day of the month, at midnight UTC, on which billing periods begin.",
    )
    late_grace_hours: Annotated[int, BeforeValidator(values.whole_number(0, 744))] = Field(
        8,
        alias="LATE_GRACE_HOURS",
        description="Hours after a billing period's end at which Solvimon's invoices become final. A change to an hour "
        "already read is late from then on.",
    )
    late_usage: Annotated[Literal["send", "hold"], BeforeValidator(values.one_of("send", "hold"))] = Field(
        "send",
        alias="LATE_USAGE",
        description="What becomes of a change that is late for the destination: send, or hold until a person decides. "
        "Either way it is listed.",
    )
    backfill_partitions_per_run: Annotated[int, BeforeValidator(values.whole_number(1, 100_000))] = Field(
        744, alias="BACKFILL_PARTITIONS_PER_RUN", description="The most hours that one run of a backfill takes."
    )
    resource_owners: Annotated[tuple[str, ...], BeforeValidator(values.owners)] = Field(
        ("team:billing",),
        alias="RESOURCE_OWNERS",
        description="Owners shown on every asset and job: team:name or an address, by comma.",
    )
    alert_webhook_url: Annotated[SecretStr | None, BeforeValidator(values.webhook_url)] = Field(
        None,
        alias="ALERT_WEBHOOK_URL",
        description="Where alerts are posted, as Slack's incoming webhooks take them. A secret. Unset: nowhere.",
    )
    alert_email_to: Annotated[tuple[str, ...], BeforeValidator(values.emails)] = Field(
        (), alias="ALERT_EMAIL_TO", description="Who gets alerts by e-mail: addresses, by comma."
    )
    alert_email_from: Annotated[str | None, BeforeValidator(values.email)] = Field(
        None, alias="ALERT_EMAIL_FROM", description="The sender of alerts by e-mail."
    )
    smtp_url: Annotated[SecretStr | None, BeforeValidator(values.smtp_url)] = Field(
        None,
        alias="SMTP_URL",
        description="The mail server: smtp://user:password@host:587, which is used with STARTTLS, or smtps://. A "
        "secret.",
    )
    alert_stale_hours: Annotated[int, BeforeValidator(values.whole_number(1, 744))] = Field(
        3,
        alias="ALERT_STALE_HOURS",
        description="Hours after its close at which an hour that is not ingested is told, and one that is unsettled.",
    )
    alert_remind_hours: Annotated[int, BeforeValidator(values.whole_number(1, 744))] = Field(
        24,
        alias="ALERT_REMIND_HOURS",
        description="Hours after which a problem that has changed since it was told is told again.",
    )
    dagster_ui_url: Annotated[str | None, BeforeValidator(values.page_url)] = Field(
        None, alias="DAGSTER_UI_URL", description="Where people open Dagster: alerts link to it."
    )
    code_url: Annotated[str | None, BeforeValidator(values.page_url)] = Field(
        None,
        alias="CODE_URL",
        description="Where people read this project's files, such as https://github.com/acme/billing/blob/main: assets "
        "link to them. Unset: they open in the editor, where Dagster runs from a checkout.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = [
            _live_host_unconfirmed(self),
            _starts_before_cut_over(self),
            _half_of_the_mail(self),
            _needed_by_the_sweep(self),
            self.metrics_file and self.metrics_file.disagreement(self.usage_metrics),
        ]
        if any(problems):
            raise ValueError(" ".join(problem for problem in problems if problem))
        return self

    @property
    def account_pair(self) -> AccountPair:
        """The pair of accounts that these settings connect."""
        return AccountPair(
            metronome_host=values.host(self.metronome_base_url),
            metronome_environment=self.metronome_environment,
            solvimon_host=values.host(self.solvimon_base_url),
            solvimon_platform_id=self.solvimon_platform_id,
        )

    @property
    def permitted_metrics(self) -> Permitted:
        """The billable metrics that are billed, by USAGE_METRICS and METRICS_FILE."""
        file = self.metrics_file
        return Permitted(
            only=self.usage_metrics or (file.billed if file else None), without=file.left_out if file else frozenset()
        )

    @property
    def permitted_customers(self) -> Permitted:
        """The customers that are billed, by USAGE_CUSTOMERS."""
        return Permitted(only=self.usage_customers or None)

    def says_slicing(self, metric_id: str) -> str:
        """The setting that says a metric's slicing, for people: METRICS_FILE or METRIC_SLICINGS."""
        file = self.metrics_file
        return "METRICS_FILE" if file and metric_id in file.slicings else "METRIC_SLICINGS"

    def says_calculation(self, metric_id: str) -> str:
        """The setting that says a metric's calculation, for people: METRICS_FILE or METRIC_CALCULATIONS."""
        file = self.metrics_file
        return "METRICS_FILE" if file and metric_id in file.calculations else "METRIC_CALCULATIONS"

    def usage_start_of(self, customer_id: str) -> datetime:
        """The first hour billed for a customer: its own cut-over where it has one, else ``USAGE_START``."""
        return self.customer_usage_starts.get(customer_id, self.usage_start)


def environment() -> dict[str, str]:
    """What the process is set to: ``.env`` of the working directory, under the environment; blanks are left out.

    An empty variable in the environment still hides one of ``.env``: that is how a test or a shell unsets it.
    """
    file = {key: value for key, value in dotenv_values(Path.cwd() / ".env").items() if value is not None}
    return _without_blanks({**file, **os.environ})


def _without_blanks(environ: Mapping[str, str]) -> dict[str, str]:
    return {key: value.strip() for key, value in environ.items() if value.strip()}


def psycopg_url(url: str) -> str:
    """The URL as psycopg 3 and libpq read it: ``postgresql://…``.

    Raises:
        ValueError: It is not a Postgres URL; the text never holds any of it.
    """
    return f"postgresql://{values.after_postgres_scheme(url)}"


def sqlalchemy_url(url: str) -> str:
    """The URL as SQLAlchemy reads it, with the driver named.

    SQLAlchemy 2.1 takes a plain ``postgresql://`` to mean psycopg 3, which ``dagster-postgres`` can't work with. It
    also reads a plus sign in the query as a space, where libpq reads a plus sign.

    Raises:
        ValueError: It is not a Postgres URL; the text never holds any of it.
    """
    address, mark, query = values.after_postgres_scheme(url).partition("?")
    return f"postgresql+psycopg2://{address}{mark}{query.replace('+', '%2B')}"


def _live_host_unconfirmed(settings: Settings) -> str | None:
    host = values.host(settings.solvimon_base_url)
    if settings.solvimon_live or host == TEST_HOST or values.is_loopback(settings.solvimon_base_url):
        return None
    return (
        f"SOLVIMON_BASE_URL names {host}, which is not Solvimon's test host: set SOLVIMON_LIVE=true as well if events "
        f"sent there may become invoices, else use https://{TEST_HOST}."
    )


def _starts_before_cut_over(settings: Settings) -> str | None:
    early = sorted(key for key, start in settings.customer_usage_starts.items() if start < settings.usage_start)
    if not early:
        return None
    return (
        f"CUSTOMER_USAGE_STARTS is before USAGE_START for {', '.join(early)}: a customer's own cut-over can only be "
        "later, as nothing from before USAGE_START is billed."
    )


def _half_of_the_mail(settings: Settings) -> str | None:
    parts = {
        "ALERT_EMAIL_TO": settings.alert_email_to,
        "ALERT_EMAIL_FROM": settings.alert_email_from,
        "SMTP_URL": settings.smtp_url,
    }
    missing = [name for name, value in parts.items() if not value]
    if not missing or len(missing) == len(parts):
        return None
    return f"Alerts by e-mail need {' and '.join(missing)} as well: set all three or none."


def _needed_by_the_sweep(settings: Settings) -> str | None:
    days, least = settings.usage_retention_days, settings.sweep_days + 35
    if days is None or days >= least:
        return None
    return (
        f"USAGE_RETENTION_DAYS is {days}, and the sweeps compare what was read of the last {least} days (SWEEP_DAYS "
        f"and 35 more): set it to {least} at least."
    )


def _sentence(problem: ErrorDetails) -> str:
    """One problem as a sentence: the variable, what is wrong, what to do. Built from our own texts only."""
    cause: dict[str, Any] = problem.get("ctx", {})
    if not problem["loc"]:
        return str(cause["error"])
    variable = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{variable} is not set: {_MISSING[variable]}."
    if problem["type"] == "value_error":
        return f"{variable} {cause['error']}."
    return f"{variable} is not of the right type: compare it with .env.example."


_MISSING = {
    "METRONOME_BEARER_TOKEN": "put Metronome's API token into the environment or into .env",
    "SOLVIMON_API_KEY": "put Solvimon's API key into the environment or into .env",
    "USAGE_START": "name the first hour to bill, such as 2026-01-01 or 2026-01-01T06:00Z",
}

"""Several account pairs in one Dagster, from the very files of docs/deployment.md: ticked, launched and told apart.

Run by ``make deployment-test``, not by the ordinary suite: the services take a while to start.
"""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.deployment.services import (
    DAEMON,
    DAGSTER,
    MODULE,
    ROOT,
    WEBSERVER,
    WORKSPACE,
    Deployment,
    free_port,
    is_healthy,
    minute_long_off,
)
from metronome_pipeline_tests.world import START, Api, World, partition

HOURS = 24
ACCOUNTS = ("acme", "umbrella")
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_ASSETS = "query { assetNodes { assetKey { path } repository { location { name } } } }"
_TICK = """
mutation Tick($selector: ScheduleSelector!, $at: Float) {
  scheduleDryRun(selectorData: $selector, timestamp: $at) {
    __typename
    ... on DryRunInstigationTick { evaluationResult { error { message } runRequests { tags { key value } } } }
  }
}
"""


@dataclass
class Accounts(Deployment):
    """Services of one home folder, in which each account is a code location of its name."""

    worlds: Mapping[str, World] = field(default_factory=dict)

    def start(self, name: str, *command: str, account: str | None = None) -> None:
        """Starts a service where a person would: in an account's folder, or where ``dagster.yaml`` is."""
        log = self.folder / name / "service.log"
        log.parent.mkdir()
        with log.open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder / "accounts" / account if account else self.folder,
                env={**self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start_dagster(self) -> None:
        """Webserver and daemon; ``workspace.yaml`` is there."""
        port = self.url.rpartition(":")[2]
        self.start("webserver", *WEBSERVER, "--host", "127.0.0.1", "--port", port, *WORKSPACE)
        self.start("daemon", *DAEMON, "run", *WORKSPACE)
        self.wait_for("the webserver", self.is_up)

    def assets(self) -> dict[str, set[str]]:
        """The asset keys of each code location."""
        found: dict[str, set[str]] = {}
        for node in self.ask(_ASSETS)["assetNodes"]:
            location = node["repository"]["location"]["name"]
            found.setdefault(location, set()).add("/".join(node["assetKey"]["path"]))
        return found

    def requested(self, account: str, hour: int) -> list[str]:
        """The ranges of hours that an account's hourly schedule would request at its next tick after an hour's end."""
        selector = {
            "repositoryLocationName": account,
            "repositoryName": "__repository__",
            "scheduleName": "hourly_usage",
        }
        at = START + timedelta(hours=hour + 1)
        found = self.ask(_TICK, selector=selector, at=at.timestamp())["scheduleDryRun"]
        assert found["__typename"] == "DryRunInstigationTick", found
        result = found["evaluationResult"]
        assert result["error"] is None, result
        return [tag["value"] for request in result["runRequests"] for tag in request["tags"] if tag["key"] == "range"]


def test_two_accounts_are_ticked_and_launched_and_told_apart(world: World, folder: Path) -> None:
    with accounts_of(world, folder) as running:
        (workspace, ports) = with_free_ports(shown("workspace.yaml, for webserver and daemon"))
        (folder / "workspace.yaml").write_text(yaml.safe_dump(workspace), encoding="utf-8")
        for account, port in ports.items():
            command = (*DAGSTER, "api", "grpc", "--host", "127.0.0.1", "--port", str(port), "--module-name", MODULE)
            running.start(f"code of {account}", *command, account=account)
        for account, port in ports.items():
            running.wait_for(f"the code server of {account}", lambda port=port: is_healthy(port), every=1)  # type: ignore[misc]
        running.start_dagster()
        assert_told_apart(running, used(running))


def test_code_servers_that_dagster_starts_by_itself_get_their_accounts_settings(world: World, folder: Path) -> None:
    with accounts_of(world, folder) as running:
        (folder / "workspace.yaml").write_text(yaml.safe_dump(shown("workspace.yaml, for dagster dev")), "utf-8")
        instance = {
            **yaml.safe_load((folder / "dagster.yaml").read_text("utf-8")),
            **shown("dagster.yaml, for dagster dev"),
        }
        (folder / "dagster.yaml").write_text(yaml.safe_dump(instance), "utf-8")
        running.start_dagster()
        assert_told_apart(running, used(running))


def used(running: Accounts) -> dict[str, tuple[str, str, dict[int, Decimal]]]:
    """A customer, a metric, and what was used by hour, of each account. What one has, the other has not."""
    found = {}
    for number, (account, world) in enumerate(running.worlds.items()):
        hours = {hour: Decimal(f"{hour + 1}.{number}") for hour in range(number, HOURS, 5)}
        customer, metric = world.customer(f"A customer of {account}"), world.metric("SUM", "Calls")
        world.use_hours(customer, metric, hours)
        found[account] = customer, metric, hours
    return found


def assert_told_apart(running: Accounts, usage: Mapping[str, tuple[str, str, dict[int, Decimal]]]) -> None:
    """Both are imported by their own sensors and ingested by runs of a job and of assets; each is billed its own."""
    assets = running.assets()
    assert set(assets) == set(ACCOUNTS)
    for account in ACCOUNTS:
        assert {key.partition("/")[0] for key in assets[account]} == {account}
    running.wait_for("the import that each account's sensor requests", lambda: imported(running) == set(ACCOUNTS))

    # Acme is ingested by a job of its own, and umbrella by the same hours of its assets.
    asked = {FIRST: partition(0), LAST: partition(HOURS - 1)}
    runs = {"acme": running.launch("ingest_usage", location="acme", **asked)}
    assert running.end_of(runs["acme"]) == "SUCCESS", running.last_words()
    everything = "2026-01-05 00:00 to 2026-01-06 01:00 UTC"
    assert running.requested("acme", HOURS) == ["2026-01-06 00:00 to 2026-01-06 01:00 UTC"]
    assert running.requested("umbrella", HOURS) == [everything], "nothing of acme's is done in umbrella"
    own = ("umbrella/metronome/usage", "umbrella/solvimon/usage_events")
    runs["umbrella"] = running.launch("__ASSET_JOB", location="umbrella", assets=own, **asked)
    assert running.end_of(runs["umbrella"]) == "SUCCESS", running.last_words()
    assert running.requested("umbrella", HOURS) == running.requested("acme", HOURS)

    found = running.runs()
    for account, run_id in runs.items():
        tags = {name: found[run_id].tags.get(name) for name in ("workflow", "environment", "account", "range")}
        hours = "2026-01-05 00:00 to 2026-01-06 00:00 UTC"
        assert tags == {"workflow": "usage", "environment": "sandbox", "account": account, "range": hours}
    for account, world in running.worlds.items():
        customer, metric, hours_used = usage[account]
        assert world.counted(customer, metric) == hours_used
        assert {event["customer_reference"] for event in world.stored_events()} == {customer}


def imported(running: Accounts) -> set[str]:
    """The accounts of which the sensor ``account_changes`` has had everything imported."""
    return {
        run.tags["account"]
        for run in running.runs().values()
        if run.job == "import_everything" and run.status == "SUCCESS"
        if run.tags["requested_by"] == f"{run.tags['account']}/account_changes"
    }


def shown(what: str) -> Any:
    """The YAML that the page shows under a first comment."""
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Several account pairs\n") : text.index("\n## What is tested\n")]
    found = re.findall(r"```yaml\n# ([^\n]*)\n(.*?)```", section, re.DOTALL)
    return {comment.partition(":")[0]: yaml.safe_load(body) for comment, body in found}[what]


def with_free_ports(workspace: Any) -> tuple[Any, dict[str, int]]:
    """A workspace of code servers with ports that nobody has; these by location."""
    servers = [{**one["grpc_server"], "port": free_port()} for one in workspace["load_from"]]
    ports = {server["location_name"]: server["port"] for server in servers}
    return {"load_from": [{"grpc_server": server} for server in servers]}, ports


@contextmanager
def accounts_of(world: World, folder: Path) -> Iterator[Accounts]:
    """Two accounts in the folders that the page shows. Nothing is started yet; what is, ends with the block."""
    worlds = {"acme": world, "umbrella": another(world)}
    for account, own in worlds.items():
        home = folder / "accounts" / account
        home.mkdir(parents=True)
        (home / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in variables(account, own).items()))
    instance = (ROOT / "dagster.yaml").read_text(encoding="utf-8")
    (folder / "dagster.yaml").write_text(instance, encoding="utf-8")
    opened = Accounts(
        folder, environment(folder, world), instance, f"http://127.0.0.1:{free_port()}", 0, locations=2, worlds=worlds
    )
    try:
        yield opened
    finally:
        opened.end()


def another(world: World) -> World:
    """A second pair of accounts, in the same database."""
    metronome = Api(world.metronome.url, {"Authorization": f"Bearer token-{uuid.uuid4()}"})
    solvimon = Api(world.solvimon.url, {"X-API-KEY": f"key-{uuid.uuid4()}"})
    metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    solvimon.call("PUT", "/_sandbox/store", {})
    return replace(world, metronome=metronome, solvimon=solvimon, environment={"METRONOME_ENVIRONMENT": "umbrella"})


def variables(account: str, world: World) -> dict[str, str]:
    """The ``.env`` of an account."""
    settings = world.settings()
    return {
        "ACCOUNT_NAME": account,
        "METRONOME_BASE_URL": world.metronome.url,
        "METRONOME_BEARER_TOKEN": settings.metronome_bearer_token.get_secret_value(),
        "METRONOME_ENVIRONMENT": settings.metronome_environment,
        "METRONOME_REQUESTS_PER_SECOND": "1000",
        "SOLVIMON_BASE_URL": world.solvimon.url,
        "SOLVIMON_API_KEY": settings.solvimon_api_key.get_secret_value(),
        "USAGE_START": settings.usage_start.isoformat(),
        "USAGE_CLOSE_MINUTES": minute_long_off(),
        "DAGSTER_POSTGRES_URL": world.database_url,
    }


def environment(folder: Path, world: World) -> dict[str, str]:
    """What all services share: the database and Dagster's home, and no setting of an account."""
    settings = {one.alias for one in Settings.model_fields.values()}
    return {
        **{name: value for name, value in os.environ.items() if name not in settings},
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "DAGSTER_HOME": str(folder),
        "DAGSTER_POSTGRES_URL": world.database_url,
    }

"""The files of docs/deployment.md: what can be held against the code, the lock and each other without an engine."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths

from metronome_pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
_CODE = "dagster-user-deployments"
_SETTINGS = {field.alias for field in Settings.model_fields.values()}
# Read by Dagster, by the Postgres image, and by the interpreter.
_OF_OTHERS = {
    "DAGSTER_EVENT_BATCH_SIZE",
    "DAGSTER_HOME",
    "PATH",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_NO_CACHE_DIR",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "PYTHONUNBUFFERED",
}


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _yaml(name: str) -> Any:
    return yaml.safe_load(_text(name))


def _locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", _text("requirements.lock"), re.MULTILINE)
    assert found is not None
    return found.group(1)


def _commands() -> list[list[str]]:
    """Every command that a container is started or looked after with."""
    image = [yaml.safe_load(line) for line in re.findall(r"CMD (\[.*\])$", _text("Dockerfile"), re.MULTILINE)]
    services = _yaml("deploy/compose.yaml")["services"]
    started = [service["command"] for service in services.values() if "command" in service]
    checked = [service["healthcheck"]["test"][1:] for service in services.values() if "healthcheck" in service]
    return [command for command in [*image, *started, *checked] if str(command[0]).startswith("dagster")]


@pytest.mark.parametrize("command", _commands(), ids=shlex.join)
def test_every_command_exists_with_every_option(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    assert program.exists()
    words = [word for word in command[1:] if re.fullmatch("[a-z][a-z_-]*", word)]
    subcommand = {"dagster": words[:2], "dagster-daemon": words[:1]}.get(command[0], [])
    shown = subprocess.run([program, *subcommand, "--help"], check=True, capture_output=True, text=True).stdout
    options = [word for word in command if word.startswith("--")]
    assert [option for option in options if not re.search(rf"{option}\b", shown)] == []


def test_containers_get_settings_that_exist() -> None:
    lines = re.findall(r"^(?:ENV|  +[A-Z]).*$", _text("Dockerfile"), re.MULTILINE)
    named = set(re.findall(r"\b([A-Z][A-Z_]+)=", "\n".join(lines)))
    for service in _yaml("deploy/compose.yaml")["services"].values():
        named |= set(service.get("environment", {}))
    for deployed in _yaml("deploy/helm-values.yaml")[_CODE]["deployments"]:
        named |= set(deployed["env"])
    assert named - _SETTINGS - _OF_OTHERS == set()
    assert {"DAGSTER_HOME", "DAGSTER_POSTGRES_URL"} <= named


def test_only_the_code_server_is_given_the_accounts() -> None:
    services = _yaml("deploy/compose.yaml")["services"]
    assert [name for name, service in services.items() if "env_file" in service] == ["code"]


def test_nothing_but_the_ui_listens_and_that_on_this_machine_alone() -> None:
    services = _yaml("deploy/compose.yaml")["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"webserver": ["127.0.0.1:3000:3000"]}


def test_every_service_is_looked_after() -> None:
    services = _yaml("deploy/compose.yaml")["services"]
    # The code server has the image's own check.
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["code"]
    assert "HEALTHCHECK" in _text("Dockerfile")


def test_the_image_is_not_root_and_holds_no_secret() -> None:
    last = _text("Dockerfile").rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert not re.search("TOKEN|KEY|PASSWORD|POSTGRES_URL", _text("Dockerfile"))
    assert _text(".dockerignore").splitlines()[1] == "*"


def test_the_image_gets_every_file_that_it_copies() -> None:
    allowed = {line[1:].rstrip("/") for line in _text(".dockerignore").splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", _text("Dockerfile"), re.MULTILINE):
        copied |= {word for word in line.split()[:-1] if not word.startswith("--")}
    assert copied == allowed
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


def test_the_workspace_is_the_one_that_compose_serves() -> None:
    (origin,) = location_origins_from_yaml_paths([str(ROOT / "deploy" / "workspace.yaml")])
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    assert origin.host in _yaml("deploy/compose.yaml")["services"]
    assert f'"{origin.port}", "--module-name", "metronome_pipeline.definitions"]' in _text("Dockerfile")
    assert origin.location_name == _yaml("workspace.yaml")["load_from"][0]["python_module"]["location_name"]


def test_kubernetes_queues_limits_and_retries_as_the_instance_file_does() -> None:
    instance, values = _yaml("dagster.yaml"), _yaml("deploy/helm-values.yaml")
    daemon = values["dagsterDaemon"]
    # Disabled, the chart launches each run at once; with limits of its own, it refuses those of `concurrency`.
    assert daemon["runCoordinator"] == {"enabled": True, "type": "QueuedRunCoordinator"}
    assert values["concurrency"] == {"enabled": True, **_camel(instance["concurrency"])}
    of_the_daemon = ("run_retries", "run_monitoring", "sensors", "schedules", "backfills")
    for key, asked in _camel({key: instance[key] for key in of_the_daemon}).items():
        assert daemon[key].items() >= asked.items(), key
    assert values["additionalInstanceConfig"] == {key: instance[key] for key in ("freshness", "nux")}
    assert values["telemetry"] == instance["telemetry"]
    assert values["pythonLogs"] == _camel(instance["python_logs"])


def _camel(value: Any) -> Any:
    """Dagster's keys as its chart spells them."""
    if isinstance(value, list):
        return [_camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    words = {key: key.split("_") for key in value}
    return {
        first + "".join(word.capitalize() for word in others): _camel(value[key])
        for key, (first, *others) in words.items()
    }


def test_runs_on_kubernetes_have_no_more_rights_than_the_code_server() -> None:
    values = _yaml("deploy/helm-values.yaml")
    (deployed,) = values[_CODE]["deployments"]
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    assert launcher["securityContext"] == deployed["securityContext"]
    assert launcher["runK8sConfig"]["podSpecConfig"]["securityContext"] == deployed["podSecurityContext"]


def test_the_versions_that_are_named_are_the_locked_ones() -> None:
    text = _text("deploy/helm-values.yaml") + _text("docs/deployment.md")
    assert set(re.findall(r"--version (\S+)", text)) == {_locked("dagster")}
    assert set(re.findall(r"dagster-k8s==(\d[\d.]*\d)", text)) == {_locked("dagster-postgres")}
    images = [_yaml("deploy/compose.yaml")["services"]["code"]["image"].rpartition(":")[2]]
    images += [one["image"]["tag"] for one in _yaml("deploy/helm-values.yaml")[_CODE]["deployments"]]
    project = re.search(r'^version = "(.*)"$', _text("pyproject.toml"), re.MULTILINE)
    assert project is not None
    assert set(images) == {project.group(1)}

"""``deploy/helm-values.yaml`` rendered by Helm with Dagster's chart, and read by Dagster as its pods would read it.

Run by ``make chart-test``: it needs Helm, and the network for the chart, whose schema Helm holds the values against.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.instance.ref import InstanceRef

from metronome_pipeline_tests.deployment.services import ROOT

# The chart keeps Dagster's state where the values say, and starts no code server by itself.
_NOT_OF_THE_CHART = {"storage", "code_servers"}
Documents = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def documents() -> Documents:
    """By kind and name: what `helm upgrade --install`, as docs/deployment.md has it, would bring into the cluster."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    repository = re.search(r"^helm repo add dagster (\S+)$", page, re.MULTILINE)
    installed = re.search(r"^helm upgrade --install dagster dagster/dagster (.*)$", page, re.MULTILINE)
    assert repository is not None
    assert installed is not None
    command = ["helm", "template", "dagster", "dagster", "--repo", repository[1], *installed[1].split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}


@pytest.fixture
def home(documents: Documents, tmp_path: Path) -> Path:
    """A folder with the ``dagster.yaml`` of the chart."""
    text = documents["ConfigMap", "dagster-instance"]["data"]["dagster.yaml"]
    (tmp_path / "dagster.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_dagster_takes_it_and_queues_runs(home: Path) -> None:
    instance = InstanceRef.from_dir(str(home))
    assert instance.run_coordinator_data is not None
    assert instance.run_coordinator_data.class_name == "QueuedRunCoordinator"
    assert instance.run_launcher_data is not None
    assert instance.run_launcher_data.class_name == "K8sRunLauncher"


def test_it_says_what_the_projects_own_instance_file_says(home: Path) -> None:
    found = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8"))
    own = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    for key in own.keys() - _NOT_OF_THE_CHART:
        assert _within(own[key], found.get(key)), f"{key}: {found.get(key)} is not {own[key]}"


def test_dagsters_storage_names_its_driver(home: Path) -> None:
    found = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8"))
    storages = [found[name]["config"]["postgres_db"] for name in found if name.endswith("_storage")]
    assert [each["scheme"] for each in storages] == ["postgresql+psycopg2"] * 3


def test_webserver_and_daemon_find_the_code_server(documents: Documents) -> None:
    (workspace,) = [
        one for (kind, name), one in documents.items() if kind == "ConfigMap" and name.endswith("workspace-yaml")
    ]
    (location,) = yaml.safe_load(workspace["data"]["workspace.yaml"])["load_from"]
    service = documents["Service", location["grpc_server"]["host"]]
    assert [port["port"] for port in service["spec"]["ports"]] == [location["grpc_server"]["port"]] == [4000]


def _within(asked: Any, found: Any) -> bool:
    """Whether everything that is asked for is there; the chart may say more."""
    if isinstance(asked, dict):
        return isinstance(found, dict) and all(_within(value, found.get(key)) for key, value in asked.items())
    return bool(asked == found)

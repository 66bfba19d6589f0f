"""The example of docs/extending.md: its blocks are taken out of the page, put in place, and run."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest

from metronome_pipeline_tests.world import World, failure, metadata, rows

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
FAR = {"starting_at": "2020-01-01T00:00:00Z"}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def _program() -> str:
    """The workflow, and the job that the page adds after it."""
    workflow, job = _blocks("python")
    return f"{workflow}\n\n{job}"


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = tmp_path / "contracts.py"
    path.write_text(_program(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("contracts_of_the_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def _run(world: World, contracts: ModuleType) -> dg.ExecuteInProcessResult:
    added = dg.Definitions(
        assets=[contracts.metronome_contracts, contracts.solvimon_contracts],
        jobs=[contracts.JOB],
    )
    definitions = dg.Definitions.merge(world.definitions(), added)
    job = definitions.resolve_job_def("watch_contracts")
    return job.execute_in_process(instance=world.instance, raise_on_error=False)


def _answer(world: World, *pages: dict[str, Any]) -> None:
    """What Metronome's emulator, which knows no contracts, answers next."""
    answer = {"method": "POST", "path": "/v2/contracts/list", "times": 1}
    world.metronome.call("PUT", "/_sandbox/answers", [{**answer, "body": page} for page in pages])


def _contract(number: int, customer: str, **fields: Any) -> dict[str, Any]:
    identifier = f"00000000-0000-4000-8000-{number:012}"
    return {"id": identifier, "customer_id": customer, "commits": [], **FAR, **fields}


def test_the_example_reads_contracts_and_lists_those_without_a_subscription(
    world: World, contracts: ModuleType
) -> None:
    # Read in the order of their ids.
    billed, unbilled, former = (
        world.customer(name, id=f"00000000-0000-4000-8000-00000000000{number}")
        for number, name in enumerate(("Billed", "Unbilled", "Former"))
    )
    world.imported()
    for statement in _blocks("sql"):
        world.sql(statement)
    world.solvimon.call("POST", "/_sandbox/subscriptions", {"customer_reference": billed})
    _answer(
        world,
        {"data": [_contract(1, billed)], "cursor": "more"},
        {"data": [_contract(2, billed)], "cursor": None},
        {"data": [_contract(3, unbilled)]},
        {"data": [_contract(4, former, ending_before="2021-01-01T00:00:00Z")]},
    )
    result = _run(world, contracts)
    assert result.success, failure(result)

    assert metadata(result, "metronome", "contracts")["dagster/row_count"] == 4
    assert world.sql("SELECT count(*) FROM metronome.contracts") == [(4,)]
    assert metadata(result, "solvimon", "contracts")["contracted_customers"] == 2
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert [row["name"] for row in rows(check.metadata["list"].value)] == ["Unbilled"]


def test_a_read_that_is_cut_short_leaves_what_was_known(world: World, contracts: ModuleType) -> None:
    customer = world.customer()
    world.imported()
    for statement in _blocks("sql"):
        world.sql(statement)
    _answer(world, {"data": [_contract(1, customer)]})
    assert _run(world, contracts).success
    # The second page does not exist: the emulator answers it with a 404.
    _answer(world, {"data": [_contract(2, customer)], "cursor": "more"})
    assert not _run(world, contracts).success
    assert [str(row[0])[-1] for row in world.sql("SELECT contract_id FROM metronome.contracts")] == ["1"]


def test_the_example_is_as_short_as_the_page_says_and_passes_the_projects_linters(tmp_path: Path) -> None:
    workflow, _ = _blocks("python")
    assert len(workflow.splitlines()) < 100
    path = tmp_path / "contracts.py"
    path.write_text(workflow, encoding="utf-8")
    ruff, config = (sys.executable, "-m", "ruff"), ("--config", str(Path(__file__).parents[2] / "pyproject.toml"))
    for arguments in (("check", "--ignore", "INP001"), ("format", "--check")):
        done = subprocess.run([*ruff, *arguments, *config, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

"""Code links: they lead to lines that exist, in a checkout, on the web, or nowhere, and never warn."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
from dagster._serdes import deserialize_value, serialize_value

from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.code_links import CODE, code_links

VARIABLES = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-05T00:00:00Z"}
PROJECT = Path(__file__).parents[2]
_READ = """
import sys
from dagster._serdes import deserialize_value
from dagster import CodeReferencesMetadataValue
print(deserialize_value(sys.argv[1], CodeReferencesMetadataValue).code_references[0].source)
"""


def links(**variables: str) -> dict[str, dg.CodeReferencesMetadataValue]:
    definitions = build_definitions(Settings.from_environment({**VARIABLES, **variables}))
    return {spec.key.to_user_string(): spec.metadata[CODE] for spec in definitions.resolve_all_asset_specs()}


def test_in_a_checkout_every_asset_opens_its_definition_in_the_editor() -> None:
    for key, value in links().items():
        code, *mappings = value.code_references
        assert isinstance(code, dg.LocalFileCodeReference), key
        line = Path(code.file_path).read_text(encoding="utf-8").splitlines()[(code.line_number or 0) - 1]
        assert line.strip().startswith(("@dg.asset", "@dg.multi_asset")), key
        assert code.label == f"workflows/{Path(code.file_path).name}"
        for mapping in mappings:
            assert isinstance(mapping, dg.LocalFileCodeReference)
            assert Path(mapping.file_path).parent == PROJECT / "metronome_pipeline" / "mapping", key


def test_what_is_mapped_links_to_its_mapping_too() -> None:
    labels = {key: [code.label for code in value.code_references] for key, value in links().items()}
    assert labels["solvimon/usage_events"] == ["workflows/usage.py", "mapping/usage.py"]
    assert labels["solvimon/products"] == ["workflows/products.py", "mapping/products.py"]
    assert labels["metronome/customers"] == ["workflows/customers.py"]


def test_with_the_address_of_the_code_every_asset_links_there() -> None:
    found = links(CODE_URL="https://code.example.com/acme/billing/blob/main/")
    code, mapping = found["solvimon/customers"].code_references
    assert isinstance(code, dg.UrlCodeReference)
    assert isinstance(mapping, dg.UrlCodeReference)
    path, line = code.url.split("#L")
    assert path == "https://code.example.com/acme/billing/blob/main/metronome_pipeline/workflows/customers.py"
    assert int(line) > 1
    assert mapping.url.endswith("/metronome_pipeline/mapping/customers.py#L1")


def test_an_installed_package_links_to_nothing_and_a_step_from_elsewhere_neither(tmp_path: Path) -> None:
    @dg.asset
    def elsewhere() -> None:
        """An asset of another project."""

    installed = PROJECT / "metronome_pipeline_tests"
    assert CODE not in code_links(elsewhere, None, installed)(elsewhere.get_asset_spec()).metadata
    assert CODE not in code_links(elsewhere, "https://code.example.com", tmp_path)(elsewhere.get_asset_spec()).metadata


def test_what_other_processes_read_of_a_link_is_what_was_written_and_warns_of_nothing() -> None:
    for value in links().values():
        assert deserialize_value(serialize_value(value), dg.CodeReferencesMetadataValue) == value
    program = [sys.executable, "-W", "error", "-c", _READ, serialize_value(links()["solvimon/customers"])]
    read = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert read.returncode == 0, read.stderr
    assert ".py:" in read.stdout
    assert not read.stderr

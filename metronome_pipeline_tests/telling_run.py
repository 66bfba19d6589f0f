"""Runs with failures in them, in a process of their own, as people have them: everything that it says, it says aloud.

The environment is the one of an installation. ``ECHOES`` names servers that repeat every credential that they are
given, by what they answer with. What the webserver answers about it all goes into ``answers.json`` in its folder.
"""

import gzip
import json
import logging
import os
import pickle
import smtplib
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.testclient import TestClient

from metronome_pipeline import http
from metronome_pipeline.alerts.channels import NotTaken, channels_of
from metronome_pipeline.alerts.messages import Message
from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.errors import ApiError, PipelineError
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.settings import Settings

_RANGE = {
    "dagster/asset_partition_range_start": "2026-01-05-00:00",
    "dagster/asset_partition_range_end": "2026-01-05-03:00",
}


def main() -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    # Failures are not waited for.
    http.RetryPolicy = partial(RetryPolicy, attempts=2, first_delay=0.01)  # type: ignore[assignment, attr-defined]
    with dg.DagsterInstance.get() as instance:
        runs(instance)
        # Not to standard output, which the code server has too.
        Path("answers.json").write_text(json.dumps(list(answers(instance))), encoding="utf-8")


def runs(instance: dg.DagsterInstance) -> None:
    """Runs that go well, then the same against everything that repeats credentials, then the alerts of it."""
    assert _run(instance, "import_everything", {})
    assert _run(instance, "ingest_usage", {})
    for how, url in json.loads(os.environ["ECHOES"]).items():
        for side in ("METRONOME_BASE_URL", "SOLVIMON_BASE_URL"):
            done = _run(instance, "import_customers", {side: url})
            # Single records that are not as promised are refused by name, and the others are brought over.
            assert not done or how == "the wrong shape", f"{side} answering with {how}"
    assert not _run(instance, "ingest_usage", {"DAGSTER_POSTGRES_URL": os.environ["LOST_POSTGRES_URL"]})
    for channel in channels_of(Settings.from_environment()):
        try:
            channel.send(Message("subject", "body"))
        except (NotTaken, smtplib.SMTPException) as error:
            _tell(error)


def _run(instance: dg.DagsterInstance, job: str, instead: dict[str, str]) -> bool:
    """One run as Dagster executes it: its resources take the credentials from the environment."""
    before = {name: os.environ[name] for name in instead}
    os.environ.update(instead)
    try:
        definition = build_definitions(Settings.from_environment()).resolve_job_def(job)
        tags = _RANGE if job == "ingest_usage" else {}
        result = definition.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    except PipelineError as error:
        _tell(error)
        return False
    finally:
        os.environ.update(before)
    return result.success


def _tell(error: BaseException) -> None:
    """Everything that somebody who keeps an error may come to see of it."""
    traceback.print_exception(error)
    print(repr(error), error.args, vars(error), file=sys.stderr)
    if isinstance(error, ApiError):
        sys.stderr.write(pickle.dumps(error).decode("latin-1"))


_METADATA = "label description ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr }"
_ERROR = "error { message stack cause { message stack } errorChain { error { message stack } } }"
_EVENTS = f"""
events {{ __typename ... on MessageEvent {{ message }}
... on ExecutionStepFailureEvent {{ {_ERROR} failureMetadata {{ metadataEntries {{ {_METADATA} }} }} }}
... on MaterializationEvent {{ metadataEntries {{ {_METADATA} ... on JsonMetadataEntry {{ jsonString }}
... on TableMetadataEntry {{ table {{ records }} }} }} }} }}
"""
_REPOSITORY = '{repositoryName: "__repository__", repositoryLocationName: "metronome_pipeline"}'
_RESOURCES = f"""
{{ allTopLevelResourceDetailsOrError(repositorySelector: {_REPOSITORY}) {{ __typename ... on ResourceDetailsList {{
results {{ name configFields {{ name defaultValueAsJson description }} configuredValues {{ key value type }} }} }} }} }}
"""
_LOCATIONS = f"""
{{ workspaceOrError {{ ... on Workspace {{ locationEntries {{ name displayMetadata {{ key value }}
locationOrLoadError {{ __typename ... on PythonError {{ message stack }} ... on RepositoryLocation {{ repositories {{
displayMetadata {{ key value }} assetNodes {{ assetKey {{ path }} metadataEntries {{ {_METADATA} }} }}
schedules {{ name description }} sensors {{ name description }} }} }} }} }} }} }} }}
"""
_RUNS = f"""
{{ runsOrError {{ ... on Runs {{ results {{ runId status jobName runConfigYaml tags {{ key value }}
eventConnection(limit: 1000) {{ {_EVENTS} }} }} }} }} }}
"""
_QUERIES = ("{ instance { info } }", _RUNS, _RESOURCES, _LOCATIONS)


def answers(instance: dg.DagsterInstance) -> Iterator[Any]:
    """What Dagster's webserver answers about these runs, with a code server of its own."""
    target = ModuleTarget(
        module_name="metronome_pipeline.definitions",
        attribute=None,
        working_directory=str(Path.cwd()),
        location_name="metronome_pipeline",
    )
    with WorkspaceProcessContext(instance, target) as context:
        client = TestClient(create_app_from_workspace_process_context(context))
        for query in _QUERIES:
            answer = client.post("/graphql", json={"query": query})
            yield answer.json()
        yield client.get("/server_info").text
        for run in instance.get_runs():
            yield gzip.decompress(client.get(f"/download_debug/{run.run_id}").content).decode()


if __name__ == "__main__":
    main()

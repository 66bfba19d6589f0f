"""Code links: from an asset in Dagster's UI to the file that makes it, and to the one that maps its fields.

Here: which files, and where they are read. Not here: what they do.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
from dagster import CodeReferencesMetadataValue, LocalFileCodeReference, UrlCodeReference

from metronome_pipeline.mapping import customers, meters, periods, products, usage

CODE = "dagster/code_references"
_PROJECT = Path(__file__).resolve().parents[2]
_MAPPINGS: Mapping[str, ModuleType] = {
    "solvimon/customers": customers,
    "solvimon/meters": meters,
    "solvimon/products": products,
    "solvimon/usage_events": usage,
    "solvimon/grouped_usage_events": usage,
    "solvimon/period_usage_events": periods,
}


def code_links(
    asset: dg.AssetsDefinition, code_url: str | None, checkout: Path = _PROJECT
) -> Callable[[dg.AssetSpec], dg.AssetSpec]:
    """What adds, to each asset of one step, links to its code.

    Args:
        asset: A step of this project, under any prefix.
        code_url: Where the checkout is browsed, such as ``https://host/owner/name/blob/main``. Without it the links
            open the files in the editor of whoever looks, which works where Dagster runs from a checkout. An installed
            package has no files that anybody could open: then there are no links, and none to files elsewhere.
        checkout: The folder that the paths are relative to.
    """
    file, line = _source(asset)
    readable = code_url is not None or (checkout / "pyproject.toml").exists()

    def linked(spec: dg.AssetSpec) -> dg.AssetSpec:
        if not readable or not file.is_relative_to(checkout):
            return spec
        mapping = _MAPPINGS.get("/".join(spec.key.path[-2:]))
        files = [(file, line)] + ([(Path(str(mapping.__file__)), 1)] if mapping else [])
        links = [_link(*each, code_url, checkout) for each in files]
        # Made without Dagster's constructors, which warn that they are in beta; what is read back is the same.
        return spec.merge_attributes(
            metadata={CODE: CodeReferencesMetadataValue.model_construct(code_references=links)}
        )

    return linked


def _source(asset: dg.AssetsDefinition) -> tuple[Path, int]:
    """The file and the line of the function that the asset's step runs."""
    step: Any = asset.op.compute_fn
    code = inspect.unwrap(step.decorated_fn).__code__
    return Path(code.co_filename).resolve(), code.co_firstlineno


def _link(file: Path, line: int, code_url: str | None, checkout: Path) -> LocalFileCodeReference | UrlCodeReference:
    path = file.relative_to(checkout).as_posix()
    label = "/".join(file.parts[-2:])
    if code_url is None:
        return LocalFileCodeReference.model_construct(file_path=str(file), line_number=line, label=label)
    return UrlCodeReference.model_construct(url=f"{code_url.rstrip('/')}/{path}#L{line}", label=label)

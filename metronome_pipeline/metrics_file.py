"""The metrics file: how each billable metric is billed, in YAML, and its JSON Schema, by which editors check it.

Here: what the file may say, and reading it, with a sentence for each mistake. Not here: how it goes together with the
variables (``settings.py``), and how one is written (``cli/metrics_text.py``).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, SkipJsonSchema
from pydantic_core.core_schema import WithDefaultSchema

from metronome_pipeline.errors import quoted
from metronome_pipeline.yaml_source import NotYaml, Source, parsed

SCHEMA_FILE = Path(__file__).with_name("metrics.schema.json")
"""The schema as it is shipped; ``metronome-pipeline metrics schema`` prints it."""
LARGEST_FILE = 4 * 1024 * 1024
"""Bytes. A thousand metrics take a thirtieth of it."""
_MOST_SENTENCES = 10

Slicing = Literal["ungrouped"] | tuple[str, ...]
Calculation = Literal["SUM", "MAX", "PERIOD_TO_DATE"]


def _each_once(keys: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(keys)) < len(keys):
        raise ValueError("a group key stands twice")
    return keys


_GroupKeys = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1)], ...],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_each_once),
]
_LeftOut = SkipJsonSchema[None]
# The pattern is the schema's as well, which knows no flag for the case of letters.
_MetricId = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"),
    AfterValidator(str.lower),
]


class _Strict(BaseModel):
    # Nothing is converted: an editor, which goes by the schema, and a run must agree on every file.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        # None stands for what is left out. A key with nothing after it is a line that somebody did not finish.
        if value is None:
            raise ValueError("nothing is written there")
        return value


class MetricSettings(_Strict):
    """One billable metric. What is left out is as the variables say, and by default as if the file did not name it."""

    model_config = ConfigDict(title="A billable metric")

    name: str | _LeftOut = Field(
        None,
        description="Its name in Metronome, for whoever reads the file: nothing goes by it. `metronome-pipeline check` "
        "tells when Metronome calls it otherwise.",
    )
    slicing: Literal["ungrouped"] | _GroupKeys | _LeftOut = Field(
        None,
        description="With grouped usage on (GROUPED_USAGE_ENABLED): `ungrouped`, or one of the metric's group keys as "
        "a list, such as [region] or [region, tier]. By default its first declared group key. A metric that was billed "
        "another way needs `metronome-pipeline slicing switch` as well.",
    )
    calculation: Calculation | _LeftOut = Field(
        None,
        description="How a LATEST, UNIQUE or SQL metric is billed: PERIOD_TO_DATE (exact, by day), or the SUM or MAX "
        "of its hourly values. Without one it is not billed. COUNT, SUM and MAX metrics need none.",
    )
    billed: bool | _LeftOut = Field(
        None,
        description="false leaves the metric out altogether: no meter is imported and no usage sent. By default it is "
        "billed, unless USAGE_METRICS leaves it out.",
    )


class OtherMetrics(_Strict):
    """The billable metrics that this file does not name, also those that Metronome will have later."""

    model_config = ConfigDict(title="All other billable metrics")

    billed: bool | _LeftOut = Field(
        None,
        description="false leaves them out: only metrics that stand in this file are billed. By default they are "
        "billed.",
    )


class MetricsFile(_Strict):
    """How Metronome's billable metrics are billed in Solvimon. METRICS_FILE names this file; it is read at the start.

    Of a metric that the file does not name, and of each setting that it leaves out, the variables METRIC_SLICINGS,
    METRIC_CALCULATIONS and USAGE_METRICS hold, or the default. A variable that says something else is an error.
    """

    model_config = ConfigDict(title="How billable metrics are billed")

    metrics: Mapping[_MetricId, MetricSettings] = Field(description="The settings of each metric, by Metronome's id.")
    others: OtherMetrics = OtherMetrics()

    @property
    def billed(self) -> frozenset[str] | None:
        """The only metrics that are billed, where those that the file does not name are not; else None."""
        if self.others.billed is not False:
            return None
        return frozenset(key for key, metric in self.metrics.items() if metric.billed is not False)

    @property
    def left_out(self) -> frozenset[str]:
        """The metrics that are named and not billed."""
        return frozenset(key for key, metric in self.metrics.items() if metric.billed is False)

    @property
    def slicings(self) -> dict[str, Slicing]:
        """Those that are chosen, by metric id."""
        return {key: metric.slicing for key, metric in self.metrics.items() if metric.slicing is not None}

    @property
    def calculations(self) -> dict[str, Calculation]:
        """Those that are chosen, by metric id."""
        return {key: metric.calculation for key, metric in self.metrics.items() if metric.calculation is not None}

    def disagreement(self, usage_metrics: frozenset[str]) -> str | None:
        """What USAGE_METRICS (empty: unset) and this file say of the same metrics and differently, as a sentence.

        What the file leaves open, the variable decides.
        """
        outright = {key for key, metric in self.metrics.items() if metric.billed} | (self.billed or frozenset())
        if not usage_metrics:
            return None
        if self.others.billed:
            return (
                "USAGE_METRICS leaves metrics out, and METRICS_FILE says that all others are billed: keep one of them."
            )
        out = self.left_out if self.billed is None else usage_metrics - self.billed
        if usage_metrics & out:
            named = ", ".join(sorted(usage_metrics & out))
            return f"USAGE_METRICS names {named}, and METRICS_FILE leaves that out: keep one of them."
        if outright - usage_metrics:
            named = ", ".join(sorted(outright - usage_metrics))
            return f"USAGE_METRICS leaves out {named}, and METRICS_FILE says that it is billed: keep one of them."
        return None


def read_metrics_file(path: str) -> MetricsFile:
    """The file, checked.

    Raises:
        ValueError: What reads on after the variable's name: a clause for each mistake, with file, line and metric id,
            what is allowed there, and no full stop at the end.
    """
    text = _text(path)
    where = quoted(Path(path).name, 80)
    try:
        source = parsed(text)
    except NotYaml as error:
        raise ValueError(f"has a mistake in {where}, line {error.line}: {quoted(str(error))}") from None
    found = [*source.mistakes]
    try:
        file = MetricsFile.model_validate(source.value)
        found += [(source.line(("metrics", key)), f"metric {key} stands twice: keep one") for key in _twice(source)]
    except ValidationError as error:
        # A union tells of each of its members: the place is said once.
        found += dict.fromkeys(_mistakes(error, source))
    if found:
        told = [f"in {where}, line {line}: {quoted(what)}" for line, what in sorted(found)[:_MOST_SENTENCES]]
        if len(found) > _MOST_SENTENCES:
            told.append(f"{len(found) - _MOST_SENTENCES} times more further down")
        raise ValueError("has a mistake " + ". METRICS_FILE has a mistake ".join(told))
    return file


def _text(path: str) -> str:
    where = quoted(path, 300)
    remedy = "`metronome-pipeline metrics init` writes one"
    if "\x00" in path:
        raise ValueError("holds a NUL character: name a file")
    try:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ValueError(f"names {where}, which is no file{' yet' * (not file.exists())}: {remedy}")
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"names {where}, which has more than {LARGEST_FILE // 1024**2} MB: {remedy}")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeError:
        raise ValueError(f"names {where}, which is not UTF-8: save it as UTF-8") from None
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its folder is unknown"
        raise ValueError(f"names {where}, which cannot be read: {reason}") from None


def _twice(source: Source) -> Iterator[str]:
    """Ids that differ in the case of their letters alone: of equal ones the source tells itself."""
    seen: set[str] = set()
    for key in source.value["metrics"]:
        if key.lower() in seen:
            yield key
        seen.add(key.lower())


_WRITE = {
    "name": "write a text, in quotes",
    "slicing": "write ungrouped, or a list of different group keys such as [region, tier]",
    "calculation": "write SUM, MAX or PERIOD_TO_DATE",
    "billed": "write true or false",
    "metrics": "write the settings of each metric under its id, or {} for none",
    "others": "write billed: true or billed: false under it",
}


def _mistakes(error: ValidationError, source: Source) -> Iterator[tuple[int, str]]:
    """Each mistake with its line. Nothing of pydantic's own texts is passed on: they speak to programmers."""
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        place = [str(part) for part in problem["loc"]]
        yield source.line(place), _clause(problem["type"], place, source)


def _clause(kind: str, place: list[str], source: Source) -> str:
    """A mistake as a clause. ``place``: the keys down to it, and then what is pydantic's own."""
    if not place:
        return "it is no mapping: write `metrics:`, and the settings of each metric under its id"
    if place == ["metrics"] and kind == "missing":
        return "`metrics` is missing: write it, and the settings of each metric under its id, or {} for none"
    if kind == "extra_forbidden":
        models: dict[int, type[BaseModel]] = {1: MetricsFile, 2: OtherMetrics, 3: MetricSettings}
        model = models[len(place)]
        return f"{_of(place)}there is no setting {quoted(place[-1], 80)!r}: write {_names(model.model_fields)}"
    if place[0] == "metrics" and place[-1] == "[key]":
        return f"{quoted(place[1], 80)!r} is no metric id: copy the UUID that Metronome shows"
    depth = 3 if place[0] == "metrics" else 2
    place = place[:depth]
    if len(place) == 2 and place[0] == "metrics":
        return f"{_of([*place, ''])}it has no settings: write {_names(MetricSettings.model_fields)}, or take it out"
    said = quoted(source.text(place), 80)
    return f"{_of(place)}{place[-1]} is {said or 'empty'}: {_WRITE[place[-1]]}"


def _of(place: list[str]) -> str:
    return f"metric {place[1]}: " if place[0] == "metrics" and len(place) > 2 else ""


def _names(fields: Mapping[str, FieldInfo]) -> str:
    *names, last = fields
    return f"{', '.join(names)} or {last}" if names else last


class _Draft7(GenerateJsonSchema):
    """The dialect that the language server of most editors knows, which is draft 7, and no more than editors show."""

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a title that repeats the name hides the description."""
        del schema
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """Without the default: what a setting that is left out means depends on the variables."""
        return self.generate_inner(schema["schema"])

    def generate(self, schema: Any, mode: Literal["validation", "serialization"] = "validation") -> JsonSchemaValue:
        """The schema, in which ids alone are keys: a pattern by itself forbids no other key."""
        made = super().generate(schema, mode)
        made["properties"]["metrics"]["additionalProperties"] = False
        return {"$schema": self.schema_dialect, **made}


def schema_text() -> str:
    """The JSON Schema of the file, as it is shipped."""
    schema = MetricsFile.model_json_schema(schema_generator=_Draft7)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

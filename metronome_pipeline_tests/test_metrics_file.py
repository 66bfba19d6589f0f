"""The metrics file: what it may say, a sentence for each mistake, its schema, and what variables say beside it."""

import copy
import json
import pickle
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examined
from hypothesis import strategies as st

from metronome_pipeline.metrics_file import SCHEMA_FILE, MetricsFile, read_metrics_file, schema_text
from metronome_pipeline.settings import Permitted, Settings, SettingsError
from metronome_pipeline.yaml_source import NotYaml, parsed

ROOT = Path(__file__).parent.parent
A = "7f8a6c1e-0a5b-4c77-9d3e-0123456789ab"
B = "0b1c2d3e-4f50-4a61-8b72-c3d4e5f60718"
C = "99999999-0000-4000-8000-000000000000"
REQUIRED = {"METRONOME_BEARER_TOKEN": "t", "SOLVIMON_API_KEY": "k", "USAGE_START": "2026-01-01"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str) -> str:
    Path("metrics.yaml").write_text(text, encoding="utf-8")
    return "metrics.yaml"


def settings(text: str, **variables: str) -> Settings:
    return Settings.from_environment({**REQUIRED, "METRICS_FILE": written(text), **variables})


def mistake(text: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as raised:
        settings(text, **variables)
    return str(raised.value)


def entry(lines: str, metric: str = A) -> str:
    return f"metrics:\n  {metric}:\n    {lines}\n"


pytestmark = pytest.mark.usefixtures("folder")


def test_each_setting_of_a_metric_takes_effect() -> None:
    found = settings(f"""
# People may write what they like here.
metrics:
  {A}:
    name: Miles
    slicing: [region, tier]
  {B.upper()}:
    slicing: ungrouped
    calculation: PERIOD_TO_DATE
  {C}:
    billed: false
""")
    assert found.metric_slicings == {A: ("region", "tier"), B: "ungrouped"}
    assert found.metric_calculations == {B: "PERIOD_TO_DATE"}
    assert [one in found.permitted_metrics for one in (A, B, C, "another")] == [True, True, False, True]
    assert found.metrics_file is not None
    assert found.metrics_file.metrics[A].name == "Miles"
    assert (found.says_slicing(A), found.says_slicing(C)) == ("METRICS_FILE", "METRIC_SLICINGS")
    assert (found.says_calculation(B), found.says_calculation(A)) == ("METRICS_FILE", "METRIC_CALCULATIONS")


def test_others_may_be_left_out_even_when_that_is_everything() -> None:
    found = settings(f"others:\n  billed: false\nmetrics:\n  {A}: {{}}\n  {B}:\n    billed: false\n")
    assert [one in found.permitted_metrics for one in (A, B, C)] == [True, False, False]
    nothing = settings("others: {billed: false}\nmetrics: {}")
    assert A not in nothing.permitted_metrics
    assert nothing.permitted_metrics.only == frozenset()


def test_without_a_file_every_metric_is_permitted_or_those_of_the_variable() -> None:
    assert Settings.from_environment(REQUIRED).permitted_metrics == Permitted()
    chosen = Settings.from_environment({**REQUIRED, "USAGE_METRICS": A})
    assert [one in chosen.permitted_metrics for one in (A, B)] == [True, False]


def test_what_the_file_leaves_open_the_variables_say() -> None:
    variables = {
        "METRIC_SLICINGS": json.dumps({A: ["region"]}),
        "METRIC_CALCULATIONS": json.dumps({B: "MAX"}),
        "USAGE_METRICS": f"{A},{B}",
    }
    found = settings(f"metrics:\n  {A}: {{name: Miles}}\n  {C}: {{name: Left out}}\n", **variables)
    assert found.metric_slicings == {A: ("region",)}
    assert found.metric_calculations == {B: "MAX"}
    assert [one in found.permitted_metrics for one in (A, B, C)] == [True, True, False]
    assert found.says_slicing(A) == "METRIC_SLICINGS"


def test_equal_values_in_both_are_fine() -> None:
    text = f"others: {{billed: false}}\nmetrics:\n  {A}: {{slicing: [b, a], calculation: SUM, billed: true}}\n"
    found = settings(
        text,
        METRIC_SLICINGS=json.dumps({A.upper(): ["b", "a"]}),
        METRIC_CALCULATIONS=json.dumps({A: "SUM"}),
        USAGE_METRICS=A,
    )
    assert found.metric_slicings == {A: ("b", "a")}


@pytest.mark.parametrize(
    ("text", "variables", "sentence"),
    [
        (
            entry("slicing: [region]"),
            {"METRIC_SLICINGS": json.dumps({A: "ungrouped"})},
            f'METRIC_SLICINGS of {A} is ungrouped, and METRICS_FILE says ["region"]: keep one of them.',
        ),
        (
            entry("calculation: SUM"),
            {"METRIC_CALCULATIONS": json.dumps({A: "MAX"})},
            f"METRIC_CALCULATIONS of {A} is MAX, and METRICS_FILE says SUM: keep one of them.",
        ),
        (
            entry("billed: false"),
            {"USAGE_METRICS": f"{A},{B}"},
            f"USAGE_METRICS names {A}, and METRICS_FILE leaves that out: keep one of them.",
        ),
        (
            entry("billed: true"),
            {"USAGE_METRICS": B},
            f"USAGE_METRICS leaves out {A}, and METRICS_FILE says that it is billed: keep one of them.",
        ),
        (
            "others: {billed: true}\nmetrics: {}",
            {"USAGE_METRICS": B},
            "USAGE_METRICS leaves metrics out, and METRICS_FILE says that all others are billed: keep one of them.",
        ),
        (
            "others: {billed: false}\nmetrics: {}",
            {"USAGE_METRICS": B},
            f"USAGE_METRICS names {B}, and METRICS_FILE leaves that out: keep one of them.",
        ),
        (
            f"others: {{billed: false}}\nmetrics: {{{A}: {{}}, {B}: {{}}}}",
            {"USAGE_METRICS": B},
            f"USAGE_METRICS leaves out {A}, and METRICS_FILE says that it is billed: keep one of them.",
        ),
    ],
    ids=["slicing", "calculation", "left out", "billed", "others billed", "others left out", "named"],
)
def test_a_variable_that_says_otherwise_is_an_error_that_names_both(
    text: str, variables: dict[str, str], sentence: str
) -> None:
    assert mistake(text, **variables) == sentence


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (entry("slices: [region]"), 3, f"metric {A}: there is no setting 'slices': write name, slicing, calculation"),
        (entry("slicing: region"), 3, f"metric {A}: slicing is region: write ungrouped, or a list"),
        (entry("slicing: []"), 3, f"metric {A}: slicing is []: write ungrouped, or a list"),
        (entry("slicing: [region, region]"), 3, "slicing is [region, region]: write ungrouped, or a list of different"),
        (entry("slicing:\n      - region\n      - 7"), 3, "or a list of different group keys"),
        (entry('slicing: [""]'), 3, 'slicing is [""]: '),
        (entry("calculation: AVG"), 3, f"metric {A}: calculation is AVG: write SUM, MAX or PERIOD_TO_DATE"),
        (entry("calculation: sum"), 3, "calculation is sum: write SUM, MAX or PERIOD_TO_DATE"),
        (entry("billed: no"), 3, f"metric {A}: billed is no: write true or false"),
        (entry("billed:"), 3, f"metric {A}: billed is empty: write true or false"),
        (entry("name: 12"), 3, f"metric {A}: name is 12: write a text, in quotes"),
        (entry("name: a\n    name: b"), 4, "name stands twice: keep one"),
        (f"metrics:\n  {A}: {{}}\n  {A}: {{}}\n", 3, f"{A} stands twice: keep one"),
        (f"metrics:\n  {A}: {{}}\n  {A.upper()}: {{}}\n", 3, f"{A.upper()} stands twice: keep one"),
        ("metrics:\n  Miles: {}\n", 2, "'Miles' is no metric id: copy the UUID that Metronome shows"),
        (f"metrics:\n  {A}:\n  {B}: {{}}\n", 2, f"metric {A}: it has no settings: write name, slicing"),
        ("metrics:\n", 1, "metrics is empty: write the settings of each metric under its id, or {} for none"),
        ("metrics: []\n", 1, "metrics is []: write the settings"),
        ("others:\n  billed: false\n", 1, "`metrics` is missing: write it"),
        ("metrics: {}\nothers: no\n", 2, "others is no: write billed: true or billed: false under it"),
        ("metrics: {}\nothers:\n  slicing: [a]\n", 3, "there is no setting 'slicing': write billed"),
        ("metrics: {}\nmetric: {}\n", 2, "there is no setting 'metric': write metrics or others"),
        ("", 1, "it is no mapping: write `metrics:`"),
        ("- a\n", 1, "it is no mapping"),
        ("# only words\n", 1, "it is no mapping"),
        (f"metrics:\n  {A}: [\n", 3, "it is not YAML: "),
        ("metrics: {}\n---\nmetrics: {}\n", 2, "it is not YAML: expected a single document"),
        ("metrics: {}\n# \x07\n", 2, "it holds a control character"),
        ("metrics: &m\n  a: *m\n", 1, "it is nested too deeply, or within itself"),
        ("metrics: {12: {}}\n", 1, "a key is no text: write it in quotes"),
        (entry("name: !secret x"), 3, "!secret means nothing here: take it out"),
    ],
)
def test_a_mistake_is_a_sentence_with_file_line_and_what_is_allowed(text: str, line: int, words: str) -> None:
    sentence = mistake(text)
    assert sentence.startswith("METRICS_FILE has a mistake in metrics.yaml, line ")
    assert f"line {line}: " in sentence, sentence
    assert words in sentence, sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_several_mistakes_are_several_sentences_up_to_ten() -> None:
    both = mistake(entry("billed: no\n    calculation: AVG"))
    assert both == (
        f"METRICS_FILE has a mistake in metrics.yaml, line 3: metric {A}: billed is no: write true or false. "
        f"METRICS_FILE has a mistake in metrics.yaml, line 4: metric {A}: calculation is AVG: write SUM, MAX or "
        "PERIOD_TO_DATE."
    )
    many = mistake("metrics:\n" + "".join(f"  metric-{number}: {{}}\n" for number in range(15)))
    assert many.count("is no metric id") == 10
    assert many.endswith("METRICS_FILE has a mistake 5 times more further down.")


def test_a_file_that_cannot_be_read_is_a_sentence() -> None:
    def sentence(path: str) -> str:
        with pytest.raises(SettingsError) as raised:
            Settings.from_environment({**REQUIRED, "METRICS_FILE": path})
        return str(raised.value)

    assert sentence("not/there.yaml") == (
        "METRICS_FILE names not/there.yaml, which is no file yet: `metronome-pipeline metrics init` writes one."
    )
    assert "is no file: " in sentence(".")
    assert "is no file: " in sentence("/dev/zero")
    assert "NUL" in sentence("a\x00b")
    assert "cannot be read" in sentence("x" * 5000)
    Path("latin.yaml").write_bytes("metrics: {} # größe".encode("latin-1"))
    assert sentence("latin.yaml") == "METRICS_FILE names latin.yaml, which is not UTF-8: save it as UTF-8."
    with Path("large.yaml").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    assert "more than 4 MB" in sentence("large.yaml")


def test_words_that_yaml_once_took_for_switches_are_group_keys() -> None:
    found = settings(entry("slicing: [no, on, 2013-01-01, '1', größe]"))
    assert found.metric_slicings == {A: ("no", "on", "2013-01-01", "1", "größe")}


def test_settings_with_a_file_are_frozen_and_can_be_copied() -> None:
    found = settings(entry("slicing: [region]"))
    assert copy.deepcopy(found) == found
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_file_of_a_thousand_metrics_is_read_in_little_time() -> None:
    lines = [f"  {number:08}-0000-4000-8000-000000000000: {{slicing: [a, b]}}\n" for number in range(1000)]
    began = time.process_time()
    assert len(settings("metrics:\n" + "".join(lines)).metric_slicings) == 1000
    assert time.process_time() - began < 5


@given(text=st.text() | st.text("metrics:{}[]&*!\n -'\"#|>\t%@`" + A))
@examined(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(text='metrics: {"a\\nb": {}, "a\\nb": {}, "\\u202e": {name: !\u202e x}}')
@example(text="? [a]\n: b")
@example(text="{? {a: b} : c}")
@example(text="metrics: *x")
@example(text="%YAML 9.9\n---\nmetrics: {}")
@example(text="[" * 500)
def test_whatever_a_file_holds_it_is_read_or_a_sentence(text: str) -> None:
    path, told = written(text), ""
    try:
        assert isinstance(read_metrics_file(path), MetricsFile)
    except ValueError as error:
        told = str(error)
    assert told.isprintable()


# The schema ----------------------------------------------------------------------------------------------------------


def test_the_shipped_schema_is_the_models() -> None:
    shipped = SCHEMA_FILE.read_text(encoding="utf-8")
    assert shipped == schema_text(), (
        f"renew it: .venv/bin/metronome-pipeline metrics schema > {SCHEMA_FILE.relative_to(ROOT)}"
    )


def test_the_schema_is_in_the_package() -> None:
    assert '"metrics.schema.json"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_editors_know_every_word_of_the_schema_and_every_setting_is_described() -> None:
    schema = json.loads(schema_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert set(words(schema)) <= _KNOWN | {"$schema", "$defs", "title", "description"}
    for model in schema["$defs"].values():
        assert model["description"]
        assert all(one["description"].endswith(".") for one in model["properties"].values())


def examples() -> list[str]:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def test_the_example_of_the_page_is_read_and_fits_the_schema() -> None:
    (text,) = examples()
    assert text.startswith("# yaml-language-server: $schema=metrics.schema.json\n")
    assert read_metrics_file(written(text)).metrics
    assert problems(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")), parsed(text).value) == []


scalars = st.sampled_from(["region", "ungrouped", "SUM", "AVG", "", True, False, None, 7, 1.5])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
metrics = st.dictionaries(st.sampled_from(["name", "slicing", "calculation", "billed", "unit"]), values, max_size=3)
files = st.fixed_dictionaries(
    {"metrics": st.dictionaries(st.sampled_from([A, B, C.upper(), "Miles"]), metrics | scalars, max_size=2)},
    optional={"others": st.dictionaries(st.sampled_from(["billed", "name"]), scalars) | scalars, "metric": scalars},
)


@given(said=files | values)
@examined(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_an_editor_and_a_run_agree_on_every_file(said: Any) -> None:
    # Every JSON text is YAML.
    path = written(json.dumps(said))
    try:
        read_metrics_file(path)
        fits = True
    except ValueError:
        fits = False
    assert fits == (problems(json.loads(schema_text()), said) == [])


_KNOWN = {
    "$ref",
    "additionalProperties",
    "anyOf",
    "const",
    "enum",
    "items",
    "minItems",
    "minLength",
    "pattern",
    "patternProperties",
    "properties",
    "required",
    "type",
    "uniqueItems",
}
_TYPES: dict[str, Any] = {"string": str, "boolean": bool, "object": dict, "array": (list, tuple)}


def words(schema: Any) -> list[str]:
    """Every keyword of a schema."""
    found = []
    for key, value in schema.items():
        found.append(key)
        if key in ("properties", "patternProperties", "$defs"):
            found += [word for each in value.values() for word in words(each)]
        elif key == "anyOf":
            found += [word for each in value for word in words(each)]
        elif isinstance(value, dict):
            found += words(value)
    return found


def problems(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any] | None = None) -> list[str]:
    """What a value does against a schema, by the keywords of draft 7 that this schema uses, and no others."""
    root = root or schema
    if "$ref" in schema:
        return problems(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root)
    if "anyOf" in schema:
        return [] if any(problems(each, value, root) == [] for each in schema["anyOf"]) else ["anyOf"]
    if not isinstance(value, _TYPES[schema["type"]]):
        return ["type"]
    found = [key for key in ("const", "enum") if key in schema and value not in (schema.get("enum") or [schema[key]])]
    if isinstance(value, str):
        found += ["minLength"] * (len(value) < schema.get("minLength", 0))
    elif isinstance(value, list | tuple):
        distinct = {json.dumps(one) for one in value}
        found += ["minItems"] * (len(value) < schema.get("minItems", 0))
        found += ["uniqueItems"] * (schema.get("uniqueItems", False) and len(distinct) < len(value))
        found += [problem for each in value for problem in problems(schema.get("items", {}), each, root)]
    elif isinstance(value, dict):
        found += ["required"] * bool(set(schema.get("required", [])) - set(value))
        for key, each in value.items():
            of_key = [schema["properties"][key]] if key in schema.get("properties", {}) else []
            patterns = schema.get("patternProperties", {})
            of_key += [patterns[pattern] for pattern in patterns if re.search(pattern, key)]
            found += [problem for one in of_key for problem in problems(one, each, root)]
            found += ["additionalProperties"] * (not of_key and not schema["additionalProperties"])
    return found


def test_a_source_knows_where_things_stand() -> None:
    source = parsed("a:\n  b: [x,\n   y]\n  c: 'z'\n")
    assert (source.line(["a"]), source.line(["a", "c"]), source.line(["a", "nothing"]), source.line([])) == (1, 4, 1, 1)
    assert source.text(["a", "c"]) == "'z'"
    with pytest.raises(NotYaml):
        parsed("a: b: c")

"""Whatever a stack file says, the answer is a stack or one line about what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyswarm.cli.compose import document, references, schema, support
from pyswarm.cli.compose.convert import convert
from pyswarm.cli.compose.dump import dump
from pyswarm.cli.compose.load import load
from pyswarm.cli.compose.shapes import plain
from pyswarm.cli.errors import CliError

ENVIRONMENT = {"A": "1", "B": "x y", "E": ""}
NAMES = ("web", "db", "default", "a-b", "x-own", "with space")
KEYS = (
    *schema.FILE.keys, *schema.SERVICE.keys, *NAMES, "name", "file", "external", "source", "target",
    "published", "replicas", "resources", "limits",
    "memory", "cpus", "update_config", "parallelism", "delay", "aliases", "type",
    "restart_policy", "condition", "ipam", "config", "subnet", "driver", "driver_opts", "mode", "soft", "hard",
)  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 70_000), st.floats(allow_nan=True), st.text(max_size=8),
    st.sampled_from(("80:80", "1-3:5", "5s", "64M", "0.5", "A=1", "B", "$A", "${B:-x}", "${C:?no}", "a 'b'",
                     "./x:/y", "named:/z", "3.8", "host", "global", "on-failure", "{{.Task.Slot}}", *NAMES)),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
services = st.dictionaries(
    st.sampled_from(NAMES[:4]),
    st.dictionaries(st.sampled_from(schema.SERVICE.keys), values, max_size=5),
    max_size=3,
)
files = st.fixed_dictionaries(
    {"services": services},
    optional={key: st.dictionaries(st.sampled_from(NAMES), values, max_size=3) for key in schema.FILE.keys[2:]},
)


def refused(act: Callable[[], object]) -> str:
    """What is complained of, empty if nothing is; any other exception is a mistake of ours."""
    try:
        act()
    except CliError as exc:
        return str(exc)
    return ""


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!<#'\"|>%@`, \t\n\r?~", max_size=40))
def test_any_text_is_yaml_or_told_not_to_be(text: str) -> None:
    complaint = refused(lambda: plain(document.parse(text.encode(errors="surrogatepass"), "f.yml")))
    assert complaint == "" or complaint.startswith("f.yml:")


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_any_bytes_are_yaml_or_told_not_to_be(content: bytes) -> None:
    complaint = refused(lambda: document.parse(content, "f.yml"))
    assert complaint == "" or complaint.startswith("f.yml:")


def _stack(texts: list[str]) -> None:
    names = tuple(f"{number}.yml" for number in range(len(texts)))
    for name, text in zip(names, texts, strict=True):
        Path(name).write_text(text)
    loaded = load(names, ENVIRONMENT)
    Path("printed.yml").write_text(dump(loaded.config))
    assert load(("printed.yml",), {}, interpolate=False).config == loaded.config
    references.check(loaded.files)
    support.warnings(loaded.files)
    for file in loaded.files:
        support.check_supported(file)
    made = convert("app", loaded.config, loaded.files)
    assert json.loads(json.dumps(made.services)) == made.services


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        files | st.dictionaries(st.sampled_from(schema.FILE.keys), values, max_size=3), min_size=1, max_size=2
    )
)
def test_any_stack_is_made_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_files: list[dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    complaint = refused(lambda: _stack([json.dumps(file) for file in given_files]))
    assert complaint == "" or ":" in complaint

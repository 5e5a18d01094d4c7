"""Environment variables taken out of documents, and what is refused rather than half done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.core.errors import CorruptArchive, Refused
from tintype.core.scrub import REPLACEMENT, Scrubber, check_scrubbable

SECRET = "hunter2-Zx9"
EVERYDAY = ["", "1", "true", "s3cr3", "production", "/usr/local/bin:/usr/bin", "/opt/app", "1.25.3"]


def scrubbed(document: dict[str, object], *names: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the configuration without the variables, and the names of those found."""
    scrubber = Scrubber(names or ["TOKEN"])
    scrubber.learn([document])
    return scrubber.configuration(document), scrubber.found


def with_secret(**fields: object) -> dict[str, object]:
    """Return a configuration that has TOKEN and `fields`."""
    return {"config": {"Env": [f"TOKEN={SECRET}"]}, **fields}


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_what_is_no_name_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="not a name of an environment variable"):
        Scrubber(["A", name])


# What goes


def test_variables_leave_all_environments() -> None:
    environment = ["A=1", "TOKEN=x", "TOKEN", "TOKEN=y=z", "TOKEN_FILE=f", "MY_TOKEN=m", "token=t"]
    rest = ["A=1", "TOKEN_FILE=f", "MY_TOKEN=m", "token=t"]
    document, found = scrubbed(
        {
            "config": {"Env": environment, "Cmd": ["sh"]},
            "container_config": {"Env": environment, "Cmd": None},
            "Config": {"ENV": environment},
        }
    )
    assert document == {
        "config": {"Env": rest, "Cmd": ["sh"]},
        "container_config": {"Env": rest, "Cmd": None},
        "Config": {"ENV": rest},
    }
    assert found == ("TOKEN",)


@pytest.mark.parametrize(
    "text",
    [
        "/bin/sh -c #(nop)  ENV A=1 TOKEN=two words B=3",
        "ENV TOKEN=x",
        "ENV TOKEN x",
        "|2 A=1 TOKEN=x /bin/sh -c make # buildkit",
        "ARG TOKEN=x",
        "RUN /bin/sh -c export TOKEN=x; make",
        "TOKEN=x",
    ],
)
@pytest.mark.parametrize("field", ["created_by", "comment", "author"])
def test_remark_that_sets_a_variable_is_replaced_as_a_whole(text: str, field: str) -> None:
    entry = {"created": "2026-01-01T00:00:00Z", field: text, "empty_layer": True}
    document, found = scrubbed({"history": [entry, {"created_by": "RUN true"}]})
    assert document["history"] == [
        {**entry, field: "[scrubbed: set TOKEN]"},
        {"created_by": "RUN true"},
    ]
    assert found == ("TOKEN",)


@pytest.mark.parametrize(
    "text",
    ["ARG TOKEN", "RUN echo $TOKEN", "ENV MY_TOKEN=x", "ENV TOKEN_FILE=x", "ENV TOKEN_FILE x"],
)
def test_remark_that_only_mentions_a_variable_stays(text: str) -> None:
    assert scrubbed({"history": [{"created_by": text}]}) == (
        {"history": [{"created_by": text}]},
        (),
    )


def test_value_in_a_remark_is_replaced() -> None:
    document, _ = scrubbed(
        with_secret(
            author=SECRET,
            comment=f"with {SECRET}.",
            history=[{"created_by": f"curl -H {SECRET}{SECRET}"}],
            container_config={
                "Cmd": ["/bin/sh", "-c", "#(nop) ", f"CMD [{SECRET}]"],
                "Labels": {"id": SECRET, SECRET: "x", "created": SECRET},
            },
            somebodys={"own": [{"Env": ["TOKEN=x", f"A={SECRET}"]}]},
        )
    )
    assert SECRET not in json.dumps(document)
    assert document["comment"] == f"with {REPLACEMENT}."
    assert document["history"] == [{"created_by": f"curl -H {REPLACEMENT}{REPLACEMENT}"}]
    assert document["somebodys"] == {"own": [{"Env": [f"A={REPLACEMENT}"]}]}


def test_what_the_engine_noted_in_the_config_is_a_remark() -> None:
    document, _ = scrubbed(
        {"config": {"Env": ["TOKEN=db335aff8503"], "Hostname": "db335aff8503", "Image": "a:1"}}
    )
    assert document == {"config": {"Env": [], "Hostname": REPLACEMENT, "Image": "a:1"}}


def test_value_as_json_has_it_is_found() -> None:
    value = 'a"b\\c é\n<d>'
    document, _ = scrubbed(
        {
            "config": {"Env": [f"TOKEN={value}"]},
            "author": json.dumps({"x": value}),
            "comment": json.dumps({"x": value}, ensure_ascii=False),
        }
    )
    assert document["author"] == document["comment"] == '{"x": "[scrubbed]"}'


def test_value_as_go_writes_json_is_found() -> None:
    """encoding/json escapes what means something in HTML, and two line ends of JavaScript's."""
    document, _ = scrubbed(
        {
            "config": {"Env": ["TOKEN=a&b<c>d\u2028\u2029-1"]},
            "comment": '{"x": "a\\u0026b\\u003cc\\u003ed\\u2028\\u2029-1"}',
        }
    )
    assert document["comment"] == '{"x": "[scrubbed]"}'


def test_value_that_contains_another_goes_as_a_whole() -> None:
    environment = [f"B={SECRET}", f"A={SECRET}-{SECRET}", f"C={SECRET}-"]
    document, found = scrubbed(
        {"config": {"Env": environment}, "comment": f"{SECRET}-{SECRET}"}, "A", "B", "C"
    )
    assert document == {"config": {"Env": []}, "comment": REPLACEMENT}
    assert found == ("A", "B", "C")


def test_buildkit_s_own_fields_go() -> None:
    document, _ = scrubbed(
        with_secret(**{"moby.buildkit.buildinfo.v1": "aHVudGVy", "MOBY.buildkit.cache.v0": "x"})
    )
    assert document == {"config": {"Env": []}}


# What stays


@pytest.mark.parametrize("value", EVERYDAY)
def test_everyday_values_are_left_where_else_they_stand(value: str) -> None:
    rest = {"Cmd": ["sh", "-c", f"run {value}"], "Labels": {"x": value}}
    document, found = scrubbed(
        {"config": {"Env": [f"TOKEN={value}", f"B={value}"], **rest}, "comment": f"x {value}"}
    )
    assert document == {"config": {"Env": [f"B={value}"], **rest}, "comment": f"x {value}"}
    assert found == ("TOKEN",)


def test_the_format_s_own_fields_stay() -> None:
    document = {
        "architecture": "amd64-2026",
        "created": "2026-01-01T00:00:00Z",
        "os": "linux-2026",
        "rootfs": {"type": "layers-2026", "diff_ids": ["sha256:2026-01"]},
        "history": [{"created": "2026-01-01T00:00:00Z"}],
        "id": "2026-01",
        "Size": 0,
    }
    config = {"config": {"Env": ["TOKEN=2026-01", "B=-2026"]}}
    after, _ = scrubbed({**document, **config}, "TOKEN", "B")
    assert after == {**document, "config": {"Env": []}}


def test_the_format_s_own_fields_hide_nothing() -> None:
    after, _ = scrubbed(
        with_secret(
            os={"x": SECRET},
            created=[{"x": SECRET}],
            rootfs={"type": {"x": SECRET}, "diff_ids": [{"x": SECRET}], "x": SECRET},
            history=[{"created": {"x": SECRET}, "x": SECRET}],
        )
    )
    assert SECRET not in json.dumps(after)


@pytest.mark.parametrize("value", [None, [], {}, "production"])
def test_label_env_is_no_environment(value: object) -> None:
    document = {
        "config": {"Env": None, "Labels": {"env": value}},
        "container_config": {"Env": None},
    }
    assert scrubbed(document) == (document, ())


def test_nothing_to_take_out_changes_nothing() -> None:
    document = {"config": {"Env": ["A=1"], "x": None}, "history": None, "container_config": None}
    assert scrubbed(document) == (document, ())


# What is refused


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("Cmd", ["sh", "-c", f"run {SECRET} x"], "config/Cmd"),
        ("Entrypoint", [SECRET], "config/Entrypoint"),
        ("Labels", {"b": f"<{SECRET}>"}, "config/Labels/b"),
        ("Labels", {"b": json.dumps({"x": f"<{SECRET}>"})}, "config/Labels/b"),
        ("Labels", {SECRET: "x"}, "config/Labels"),
        ("Labels", {SECRET: SECRET}, "config/Labels"),
        ("Healthcheck", {"Test": ["CMD", SECRET]}, "config/Healthcheck/Test"),
        ("Env", ["A=1", f"DATABASE_URL=db://u:{SECRET}@h/"], "environment variable DATABASE_URL"),
        ("Env", [f"{SECRET}={SECRET}"], "environment"),
        (SECRET, "x", "config"),
    ],
)
def test_value_in_what_is_run_is_refused(field: str, value: Any, where: str) -> None:
    config = {"Env": [f"TOKEN={SECRET}"], "User": "root"}
    config[field] = config["Env"] + value if field == "Env" else value
    with pytest.raises(Refused) as caught:
        scrubbed({"config": config})
    message = str(caught.value)
    assert message.startswith(f"/unset_env: the value of TOKEN stands in the image's {where} too:")
    assert SECRET not in message
    with pytest.raises(Refused, match="the value of TOKEN"):
        check_scrubbable(config, ["TOKEN"])
    check_scrubbable(config, ["OTHER"])


def test_naming_the_other_variable_is_a_way_out() -> None:
    environment = [f"TOKEN={SECRET}", f"DATABASE_URL=db://u:{SECRET}@h/"]
    document, found = scrubbed({"config": {"Env": environment}}, "TOKEN", "DATABASE_URL")
    assert document == {"config": {"Env": []}}
    assert found == ("DATABASE_URL", "TOKEN")


@pytest.mark.parametrize(
    "document",
    [
        {"config": [f"TOKEN={SECRET}"]},
        {"config": {"Env": f"TOKEN={SECRET}"}},
        {"config": {"Env": {"TOKEN": SECRET}}},
        {"config": {"Env": [["TOKEN"]]}},
        {"history": {"created_by": "x"}},
        {"history": ["x"]},
        {"rootfs": []},
    ],
)
def test_other_shapes_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(CorruptArchive):
        scrubbed(document)


# Whatever the document


_texts = st.text(max_size=12) | st.sampled_from([SECRET, f"x{SECRET}", f"TOKEN={SECRET}", "TOKEN"])
_keys = _texts | st.sampled_from(
    ["config", "Env", "env", "history", "rootfs", "created", "os", "Labels", "container_config"]
)
_documents = st.recursive(
    _texts | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=30,
)


@given(st.dictionaries(_keys, _documents, max_size=6))
def test_no_document_keeps_the_value(document: dict[str, object]) -> None:
    scrubber = Scrubber(["TOKEN"])
    scrubber.learn([with_secret(), document])
    for field in ("os", "created"):  # a text there is the format's own
        document.pop(field, None)
    try:
        after = scrubber.configuration(document)
    except (CorruptArchive, Refused):
        return
    structure = {"rootfs", "history"}
    rest = {key: value for key, value in after.items() if key.casefold() not in structure}
    assert SECRET not in json.dumps(rest)

"""Rules: read from labels and from the operator's file; templates; cron expressions."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.adapters.cron import ALIASES, next_after
from tintype.adapters.rules_file import RulesError, read_rules
from tintype.core import templates
from tintype.core.errors import Invalid
from tintype.core.events import COMMIT_REQUEST
from tintype.core.rules import BEFORE_DELETE, LABEL_PREFIX, LABEL_RULE, STOP, Rule, rule_of_labels
from tintype.schemas import SCHEMAS, validate

MOMENT = datetime(2026, 11, 24, 22, 15, 0, tzinfo=UTC)
ENGINE_ID = "0123456789abcdef" * 4
WEB = {
    "container_uuid": ENGINE_ID,
    "container_name": "web",
    "host": "host-1",
    "base_image": "registry:5000/team/web:1",
    "labels": {"tier": "front"},
    "project_id": "project-a",
}


def of_labels(**labels: str) -> Rule:
    """Read labels, `_` standing for `-`."""
    rule = rule_of_labels(
        {f"{LABEL_PREFIX}{name.replace('_', '-')}": text for name, text in labels.items()}
    )
    assert rule is not None
    return rule


# Labels


def test_a_container_without_our_labels_has_no_rule() -> None:
    assert rule_of_labels({}) is None
    assert rule_of_labels({"tintype.project_id": "a", "tintype.snapshots": "b"}) is None


@pytest.mark.parametrize(
    ("text", "on", "schedule"),
    [
        ("stop", {STOP}, None),
        ("die", {STOP}, None),
        ("stop,die", {STOP}, None),
        ("before-delete", {BEFORE_DELETE}, None),
        (" Stop ; before-delete ,", {STOP, BEFORE_DELETE}, None),
        ("schedule=0 3 * * *", set(), "0 3 * * *"),
        ("stop,schedule=0,30 3 * * 1,3", {STOP}, "0,30 3 * * 1,3"),
        ("schedule=0,30 3 * * 1,3 ; stop", {STOP}, "0,30 3 * * 1,3"),
        ("schedule=@daily;before-delete,stop", {STOP, BEFORE_DELETE}, "@daily"),
        ("SCHEDULE=0 3 * * MON,TUE", set(), "0 3 * * MON,TUE"),
    ],
)
def test_on_says_when(text: str, on: set[str], schedule: str | None) -> None:
    rule = of_labels(on=text)
    assert (rule.name, set(rule.on), rule.schedule) == (LABEL_RULE, on, schedule)


def test_all_labels_are_read() -> None:
    rule = of_labels(
        on="stop",
        schedule=" 0 3 * * * ",
        image="backup/{container_name}:{date}",
        keep_last="7",
        keep_days=" 30 ",
        stores="glance, directory",
    )
    assert rule == Rule(
        LABEL_RULE,
        on=frozenset({STOP}),
        schedule="0 3 * * *",
        image_name="backup/{container_name}",
        tag="{date}",
        keep_last=7,
        keep_days=30,
        stores=("glance", "directory"),
    )
    assert of_labels(on="stop", image="{host}").tag == Rule("x").tag


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"on": ""}, ".on: expected stop, die, before-delete or schedule=<cron>.*got ''"),
        ({"on": "stpo"}, ".on: expected stop, die.*got 'stpo'"),
        ({"on": "stop,schedule"}, ".on: expected stop, die.*got 'schedule'"),
        ({"on": "schedule= ;stop"}, ".on: expected a cron expression"),
        ({"on": "schedule=@daily;schedule=@hourly"}, ".on: expected one schedule"),
        ({"on": "schedule=@daily", "schedule": "@daily"}, ".schedule: expected one schedule"),
        ({"schedule": ""}, ".schedule: expected a cron expression: minute hour"),
        ({"schedule": "1," * 200}, ".schedule: expected a cron expression"),
        ({"on": "stop", "image": "{name}"}, r".image: expected only the fields .*got '\{name\}'"),
        ({"on": "stop", "image": "{host.x}"}, r"got '\{host.x\}'"),
        ({"on": "stop", "image": "{host!r}"}, r"got '\{host!r\}'"),
        ({"on": "stop", "image": "{}"}, r"got '\{\}'"),
        ({"on": "stop", "image": "{{host}}"}, "each field in its braces"),
        ({"on": "stop", "image": "a{host"}, "each field in its braces"),
        ({"on": "stop", "image": "Web"}, ".image: expected a lowercase Docker repository name"),
        ({"on": "stop", "image": ""}, ".image: expected a lowercase"),
        ({"on": "stop", "image": "{host}-"}, ".image: expected a lowercase"),
        ({"on": "stop", "image": "registry:5000/web"}, ".image: expected a tag"),
        ({"on": "stop", "image": "web:"}, ".image: expected a tag"),
        ({"on": "stop", "image": "web:-{date}"}, ".image: expected a tag"),
        ({"on": "stop", "image": "a" * 201}, ".image: expected at most 200"),
        ({"on": "stop", "keep-last": "0"}, ".keep-last: expected a whole number from 1 to 1000"),
        ({"on": "stop", "keep-last": "seven"}, ".keep-last: .*got 'seven'"),
        ({"on": "stop", "keep-last": "\u0667"}, ".keep-last: expected"),
        ({"on": "stop", "keep-days": "3651"}, ".keep-days: expected a whole number from 1 to 3650"),
        ({"on": "stop", "stores": " , "}, ".stores: expected 1 to 8 names"),
        ({"on": "stop", "stores": "a,b,c,d,e,f,g,h,i"}, ".stores: expected 1 to 8 names"),
        (
            {"on": "stop", "keep-lst": "3"},
            (
                "^/labels/tintype.snapshot.keep-lst: expected one of the labels"
                " tintype.snapshot.on, tintype.snapshot.schedule, .*, got an unknown one$"
            ),
        ),
        ({"keep-last": "3"}, ".on: expected a label that says when.*got nothing"),
    ],
    ids=str,
)
def test_a_bad_label_is_named(labels: dict[str, str], expected: str) -> None:
    with pytest.raises(Invalid, match=expected) as caught:
        rule_of_labels({f"{LABEL_PREFIX}{name}": text for name, text in labels.items()})
    assert caught.value.violations


def test_all_bad_labels_are_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        of_labels(on="never", image="{x}", keep_last="-1")
    pointers = [violation.pointer for violation in caught.value.violations]
    with pytest.raises(Invalid) as hostile:
        rule_of_labels({f"{LABEL_PREFIX}\ud800\n{'x' * 1000}": "3"})
    assert len(str(hostile.value).encode()) < 400
    assert str(hostile.value).isprintable()
    assert pointers == [f"/labels/{LABEL_PREFIX}{name}" for name in ("image", "keep-last", "on")]


@given(st.dictionaries(st.sampled_from(["on", "schedule", "image", "stores", "x"]), st.text()))
def test_any_label_is_read_or_refused(labels: dict[str, str]) -> None:
    try:
        rule = rule_of_labels({f"{LABEL_PREFIX}{name}": text for name, text in labels.items()})
    except Invalid as error:
        said: str | None = str(error)
    else:
        said = None
        assert (rule is None) == (not labels)
    assert said is None or "expected" in said


# Matching


@pytest.mark.parametrize(
    ("about", "matches"),
    [
        ({}, True),
        ({"container_name": "we?"}, True),
        ({"container_name": "WEB"}, False),
        ({"container_name": "db*"}, False),
        ({"image": "registry:5000/team/*"}, True),
        ({"image": "busybox*"}, False),
        ({"labels": {"tier": "front"}}, True),
        ({"labels": {"tier": "*"}}, True),
        ({"labels": {"tier": "back"}}, False),
        ({"labels": {"tier": "front", "other": "*"}}, False),
        ({"project_id": "project-a"}, True),
        ({"project_id": "project-b"}, False),
        ({"container_name": "web", "project_id": "project-b"}, False),
    ],
    ids=str,
)
def test_a_rule_is_for_the_containers_it_describes(about: dict[str, Any], *, matches: bool) -> None:
    assert Rule("r", **about).matches(WEB) is matches


def test_what_is_not_known_of_a_container_matches_no_wish() -> None:
    unknown = dict.fromkeys(WEB)
    assert Rule("r").matches(unknown)
    wishes: list[dict[str, Any]] = [
        {"container_name": "w*"},
        {"image": "w*"},
        {"labels": {"a": "*"}},
    ]
    for about in wishes:
        assert not Rule("r", **about).matches(unknown)
    assert not Rule("r", project_id="project-a").matches(unknown)


# Templates


def image_for(name: str, tag: str = "t", **about: Any) -> tuple[str, str]:
    rule = Rule("r", image_name=name, tag=tag)
    return rule.image_for({**WEB, **about}, "before-delete", MOMENT)


def test_every_field_of_a_template_is_filled() -> None:
    every = ".".join(f"{{{name}}}" for name in templates.FIELDS)
    assert image_for(every) == (
        "web.0123456789ab.host-1.project-a.before-delete.20261124.20261124t221500",
        "t",
    )


def test_the_default_names_container_and_moment() -> None:
    assert Rule("r").image_for(WEB, "stop", MOMENT) == ("web", "stop-20261124t221500")


def test_the_moment_is_utc() -> None:
    local = MOMENT.astimezone(timezone(timedelta(hours=9)))
    assert Rule("r", tag="{time}").image_for(WEB, "stop", local)[1] == "20261124t221500"


@pytest.mark.parametrize(
    ("value", "name", "tag"),
    [
        ("web", "web", "web"),
        ("My_Web.1", "my_web.1", "My_Web.1"),
        ("_-web-_", "web", "web"),
        ("a___b", "a-b", "a___b"),
        ("a._b", "a-b", "a._b"),
        ("a--b", "a--b", "a--b"),
        ("caf\u00e9 au lait", "caf-au-lait", "caf-au-lait"),
        ("a/b:c", "a-b-c", "a-b-c"),
        ("", "none", "none"),
        ("\u0661", "none", "none"),
        (ENGINE_ID, "0123456789ab", "0123456789ab"),
    ],
)
def test_a_value_is_made_fit(value: str, name: str, tag: str) -> None:
    assert image_for("{host}", "{host}", host=value) == (name, tag)


def test_a_container_without_a_name_goes_by_its_uuid() -> None:
    assert image_for("{container_name}", container_name=None)[0] == "0123456789ab"
    assert image_for("{project_id}", project_id=None)[0] == "none"


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_good_template_is_good_for_every_container(one: str, two: str) -> None:
    for template in ("{host}", "{host}/{container_name}", "a.{host}_{container_name}-b"):
        name, tag = image_for(template, template.replace("/", "-"), host=one, container_name=two)
        request = {"container": "x", "image_name": name, "tag": tag}
        assert validate(COMMIT_REQUEST, request) == []


def test_the_patterns_are_those_of_the_request() -> None:
    fields = SCHEMAS[COMMIT_REQUEST]["properties"]
    ours = {"image_name": templates.NAME, "tag": templates.TAG}
    for field, pattern in ours.items():
        assert fields[field]["pattern"] == f"^{pattern.pattern}$(?!\\n)"


# Cron


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        ("0 3 * * *", "2026-11-25T03:00:00"),
        ("15 22 * * *", "2026-11-25T22:15:00"),
        ("16 22 * * *", "2026-11-24T22:16:00"),
        ("0,30 3 * * 1,3", "2026-11-25T03:00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00"),
        ("0 0 L * *", "2026-11-30T00:00:00"),
        ("0 0 * * SUN", "2026-11-29T00:00:00"),
        (" @Daily ", "2026-11-25T00:00:00"),
    ],
)
def test_the_next_time_is_found(expression: str, due: str) -> None:
    assert next_after(expression, MOMENT).isoformat() == f"{due}+00:00"


def test_the_next_time_is_later_and_utc() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    assert next_after("16 22 * * *", MOMENT.astimezone(zone)) == MOMENT + timedelta(minutes=1)
    assert next_after("* * * * *", MOMENT + timedelta(microseconds=1)) == MOMENT + timedelta(
        minutes=1
    )


def test_every_alias_is_an_expression() -> None:
    for alias in ALIASES:
        assert next_after(alias, MOMENT) > MOMENT


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "x",
        "60 * * * *",
        "* * * *",
        "* * * * * *",
        "0 0 31 4 *",
        "0 0 30 2 *",
        "0 0 * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 1-7 2 MON#9",
        "@reboot",
        f"{'0,' * 200}0 * * * *",
    ],
)
def test_what_is_no_expression_or_never_comes_is_refused(expression: str) -> None:
    with pytest.raises(Invalid, match="expected a cron expression"):
        next_after(expression, MOMENT)


def test_what_would_be_looked_for_through_fifty_years_is_refused() -> None:
    with pytest.raises(Invalid, match="never comes"):
        next_after("0 0 */31 2 MON#5", MOMENT)


CRON_WORDS = st.text("0123456789*/-,#LWMONSU ", max_size=12)


@given(st.lists(CRON_WORDS, min_size=5, max_size=5).map(" ".join))
def test_any_expression_is_read_or_refused(expression: str) -> None:
    try:
        due = next_after(expression, MOMENT)
    except Invalid:
        return
    assert due > MOMENT


# The operator's file


def rules_of(path: Path, documents: Any) -> tuple[Rule, ...]:
    path.write_text(documents if isinstance(documents, str) else json.dumps(documents))
    return read_rules(path, validate, next_after)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rules.json"


def test_a_rule_of_the_file_has_all_its_fields(path: Path) -> None:
    document: dict[str, Any] = {
        "name": "nightly",
        "container_name": "db-*",
        "image": "postgres*",
        "labels": {"tier": "db"},
        "project_id": "project-a",
        "on": ["die", "before-delete"],
        "schedule": "0 3 * * *",
        "image_name": "backup/{container_name}",
        "tag": "{time}",
        "keep_last": 7,
        "keep_days": 30,
        "stores": ["glance"],
        "pause": False,
    }
    assert document.keys() == SCHEMAS["trigger.rule"]["properties"].keys()
    assert rules_of(path, [document, {"name": "other", "on": ["stop"]}]) == (
        Rule(
            **{
                **document,
                "on": frozenset({STOP, BEFORE_DELETE}),
                "stores": ("glance",),
            }
        ),
        Rule("other", on=frozenset({STOP})),
    )


def test_the_defaults_in_the_schema_are_those_of_a_rule() -> None:
    fields = SCHEMAS["trigger.rule"]["properties"]
    assert fields["image_name"]["default"] == Rule("r").image_name
    assert fields["tag"]["default"] == Rule("r").tag


GOOD = {"name": "good", "on": ["stop"]}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"on": ["stop"]}, "/name: expected a value, got nothing"),
        ({**GOOD, "name": "two words"}, "/name: expected up to 64 letters"),
        ({**GOOD, "name": "label"}, "/name: expected a name that containers' labels do not"),
        ({**GOOD, "name": "first"}, "/name: expected a name that no other rule has, got 'first'"),
        ({"name": "idle"}, "/on: expected `on` or `schedule`"),
        ({**GOOD, "on": ["stpo"]}, "/on/0: expected one of ['stop', 'die', 'before-delete']"),
        ({**GOOD, "onn": ["stop"]}, "/onn: expected one of the known fields"),
        (
            {**GOOD, "schedule": "0 3 * *"},
            (
                "/schedule: expected a cron expression (minute hour day month weekday, or @daily"
                " and the like), got '0 3 * *': five fields are needed"
            ),
        ),
        ({**GOOD, "schedule": "0 0 30 2 *"}, "/schedule: expected a cron expression"),
        ({**GOOD, "image_name": "{x}"}, "/image_name: expected only the fields"),
        ({**GOOD, "tag": "{date}!"}, "/tag: expected a tag"),
        ({**GOOD, "keep_last": 0}, "/keep_last: expected"),
        ({**GOOD, "keep_days": "7"}, "/keep_days: expected integer, got '7'"),
        ({**GOOD, "stores": []}, "/stores: expected"),
        ({**GOOD, "labels": {"a": 1}}, "/labels/a: expected string"),
        ("stop", "(document): expected object, got 'stop'"),
    ],
    ids=str,
)
def test_a_bad_rule_is_told_with_file_number_and_place(
    path: Path, document: Any, fault: str
) -> None:
    with pytest.raises(RulesError, match=re.escape(f"{path}: rule 1: {fault}")):
        rules_of(path, [{"name": "first", "on": ["stop"]}, document])


def test_a_rule_that_names_a_store_not_configured_is_refused(path: Path) -> None:
    path.write_text(json.dumps([GOOD, {**GOOD, "name": "r", "stores": ["glance", "glans"]}]))
    fault = "rule 1: /stores/1: expected a store configured here (directory, glance), got 'glans'"
    with pytest.raises(RulesError, match=re.escape(f"{path}: {fault}")):
        read_rules(path, validate, next_after, ["glance", "directory"])
    with pytest.raises(RulesError, match=re.escape("rule 1: /stores/0")):
        read_rules(path, validate, next_after, [])
    assert len(read_rules(path, validate, next_after, ["glance", "glans"])) == 2
    assert len(read_rules(path, validate, next_after)) == 2


def test_all_bad_rules_are_told_at_once(path: Path) -> None:
    with pytest.raises(RulesError) as caught:
        rules_of(path, [{"name": 1}, GOOD, {**GOOD, "x": 1}])
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["rule 0", "rule 2"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "expected JSON"),
        ('{"name": "x"}', "an array of rules, got dict"),
        ("", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_array_of_rules_is_refused(path: Path, text: str, fault: str) -> None:
    with pytest.raises(RulesError, match=fault):
        rules_of(path, text)


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    with pytest.raises(RulesError, match=r"rules\.json: No such file"):
        read_rules(path, validate, next_after)
    path.write_bytes(b"\xff")
    with pytest.raises(RulesError, match=r"rules\.json: expected JSON"):
        read_rules(path, validate, next_after)

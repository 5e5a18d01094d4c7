"""Configuration: defaults, files, the environment, and errors that name the option."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from oslo_config import cfg

from tintype.agent import make_policy
from tintype.config import (
    ConfigError,
    Settings,
    find_files,
    list_options,
    load,
    load_for_oslo,
)
from tintype.core.policy import Policy


def conf(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "tintype.conf"
    path.write_text(text)
    return [str(path)]


@contextmanager
def environment(**values: str) -> Iterator[None]:
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def every_option() -> list[Any]:
    return [
        pytest.param(group, option, id=f"{group}-{option.name}")
        for group, options in list_options()
        for option in options
    ]


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.bus.exchange == "tintype"
    assert settings.bus.listen_exchanges == ["tintype", "zun", "nova"]
    assert settings.bus.notification_topic == "notifications"
    assert settings.bus.request_topic == "container-requests"
    assert settings.bus.prefetch == 5
    assert settings.agent.max_concurrent_snapshots == 5
    assert settings.api.host == "127.0.0.1"


def test_every_field_is_an_option_with_help() -> None:
    options = {group: {option.name for option in made} for group, made in list_options()}
    assert options == {
        name: {item.name for item in fields(group)}
        for name, group in get_type_hints(Settings).items()
    }
    for _, made in list_options():
        for option in made:
            assert option.help.endswith("."), option.name


def test_a_file_is_read_into_the_types_of_the_fields(tmp_path: Path) -> None:
    settings = load(
        conf(
            tmp_path,
            "[agent]\nhost = h1\nmax_concurrent_snapshots = 2\nretry_first = 0.5\n"
            "stores = glance, directory\nstate_dir = /state\n"
            "[bus]\nquorum = true\n[directory]\npath = /images\n",
        )
    )
    assert settings.agent.max_concurrent_snapshots == 2
    assert settings.agent.retry_first == 0.5
    assert settings.agent.stores == ["glance", "directory"]
    assert settings.bus.quorum is True
    assert settings.directory.path == "/images"
    assert settings.host == "h1"
    assert settings.journal_path == Path("/state/journal.sqlite")


def test_a_later_file_overrides_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "a.conf", tmp_path / "b.conf"
    first.write_text("[agent]\nhost = a\nstate_dir = /a\n")
    second.write_text("[agent]\nhost = b\n")
    settings = load([str(first), str(second)])
    assert (settings.agent.host, settings.agent.state_dir) == ("b", "/a")


def test_the_environment_overrides_a_file(tmp_path: Path) -> None:
    files = conf(tmp_path, "[agent]\nhost = from-file\n[glance]\npassword = file\n")
    with environment(OS_AGENT__HOST="from-env", OS_GLANCE__PASSWORD="secret"):
        settings = load(files)
    assert settings.agent.host == "from-env"
    assert settings.glance.password == "secret"
    assert load(files).agent.host == "from-file"


def test_the_host_is_the_machines_unless_it_is_named() -> None:
    assert load().host == socket.gethostname()


def test_settings_cannot_be_changed() -> None:
    settings: Any = load()
    with pytest.raises(FrozenInstanceError):
        settings.agent.host = "x"


def test_two_settings_share_no_list() -> None:
    one, two = load(), load()
    one.agent.stores.append("x")
    assert two.agent.stores == load().agent.stores == ["directory"]


@pytest.mark.parametrize(("group", "option"), every_option())
def test_a_value_of_the_wrong_type_or_range_names_its_option(
    tmp_path: Path, group: str, option: Any
) -> None:
    kind = type(option.type).__name__
    if kind in {"String", "List"}:
        load(conf(tmp_path, f"[{group}]\n{option.name} = anything\n"))  # there is no wrong text
        return
    wrong = ["", "abc"]
    if getattr(option.type, "min", None) is not None:
        wrong.append(str(option.type.min - 1))
    for value in wrong:
        with pytest.raises(ConfigError, match=option.name):
            load(conf(tmp_path, f"[{group}]\n{option.name} = {value}\n"))


def test_a_wrong_value_in_the_environment_is_an_error() -> None:
    with environment(OS_API__PORT="high"), pytest.raises(ConfigError, match=r"(?i)port|high"):
        load()


def test_a_file_that_is_not_there_or_no_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.conf"):
        load([str(tmp_path / "missing.conf")])
    with pytest.raises(ConfigError, match=r"tintype\.conf"):
        load(conf(tmp_path, "no section\n[agent"))


def test_secrets_are_marked() -> None:
    secret = {
        f"{group}.{option.name}"
        for group, options in list_options()
        for option in options
        if option.secret
    }
    assert secret == {"bus.url", "glance.password", "registry.password", "router.index_url"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[router]\ngrace = x\n", "[router] grace: expected a number not below 1, got 'x'"),
        ("[router]\ngrace = 0\n", "[router] grace: expected a number not below 1, got '0'"),
        ("[router]\ngrace =\n", "[router] grace: expected a number not below 1, got nothing"),
        ("[api]\nport = 99999\n", "[api] port: expected a whole number from 0 to 65535"),
        (
            "[agent]\ndefault_deadline = 31536001\n",
            "[agent] default_deadline: expected a number from 1 to 31536000, got '31536001'",
        ),
        ("[bus]\nquorum = maybe\n", "[bus] quorum: expected true or false, got 'maybe'"),
    ],
    ids=lambda text: text.splitlines()[1] if "\n" in text else "",
)
def test_a_wrong_value_is_told_with_what_was_expected_and_where_it_stands(
    tmp_path: Path, text: str, words: str
) -> None:
    files = conf(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(files)
    assert str(raised.value).startswith(words)
    assert str(raised.value).endswith(f"({files[0]})")
    assert "LocationInfo" not in str(raised.value)


def test_the_value_that_counts_is_told(tmp_path: Path) -> None:
    first, second = tmp_path / "a.conf", tmp_path / "b.conf"
    first.write_text("[router]\ngrace = one\n[Router]\ngrace = two\n")
    second.write_text("[router]\nunknown_timeout = 1\n")
    with pytest.raises(ConfigError, match=rf"got 'two' \({first}\)"):
        load([str(first), str(second)])
    with pytest.raises(ConfigError, match=rf"got 'two' \({first}\)"):
        load([str(second), str(first)])
    with (
        environment(OS_ROUTER__GRACE="three"),
        pytest.raises(ConfigError, match=r"got 'three' \(OS_ROUTER__GRACE\)"),
    ):
        load([str(first)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[router]\nhost_timout = 1\n", "[router] host_timout: no such option; [router] host_tim"),
        ("[router]\nstate_dir = /x\n", "[router] state_dir: no such option; [agent] state_dir"),
        ("[ROUTER]\nhost-timeout = 1\n", "[router] host-timeout: no such option; [router] host_"),
        ("[routr]\ngrace = 5\n", "[routr]: no such group; [router]"),
        ("[routr]\n", "[routr]: no such group; [router]"),
        ("[default]\ndebug = true\n", "[default]: no such group"),
    ],
)
def test_what_nobody_reads_is_refused_with_the_nearest_known_name(
    tmp_path: Path, text: str, words: str
) -> None:
    (file,) = conf(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load([file])
    assert str(raised.value).startswith(f"{file}: {words}")


def test_all_that_nobody_reads_is_named_at_once(tmp_path: Path) -> None:
    files = conf(tmp_path, "[bus]\nurll = secret-text\n[trigger]\nrules = x\n[more]\n")
    with pytest.raises(ConfigError) as raised:
        load(files)
    assert str(raised.value).count("perhaps?") == 3
    assert "[trigger] rules: no such option; [trigger] rules_file" in str(raised.value)
    assert "secret-text" not in str(raised.value)


@pytest.mark.parametrize(
    "group",
    [
        "DEFAULT",
        "oslo_messaging_rabbit",
        "oslo_policy",
        "oslo_middleware",
        "keystone_authtoken",
        "Keystone_AuthToken",
        "cors",
        "healthcheck",
    ],
)
def test_groups_that_libraries_read_may_stand_there(tmp_path: Path, group: str) -> None:
    text = f"[{group}]\nany_option = of theirs\n[AGENT]\nhost = h\n"
    assert load(conf(tmp_path, text)).host == "h"


@pytest.mark.parametrize("group", ["oslo", "healthchecks", "keystone", "corsx", "policy"])
def test_groups_that_look_like_theirs_may_not(tmp_path: Path, group: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[{group}\]: no such group"):
        load(conf(tmp_path, f"[{group}]\n"))


def test_every_option_is_known(tmp_path: Path) -> None:
    lines = []
    for group, options in list_options():
        lines.append(f"[{group}]")
        lines += [f"{option.name} = {getattr(option.type, 'min', None) or 1}" for option in options]
    assert load(conf(tmp_path, "\n".join(lines))).router.grace == 1


def test_a_directory_of_files_is_read_and_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".tintype" / "tintype.conf.d"
    folder.mkdir(parents=True)
    (folder / "a.conf").write_text("[agent]\nhost = from-there\n")
    files = conf(tmp_path, "[agent]\nhost = from-file\n")
    assert load(files).host == "from-there"
    (folder / "b.conf").write_text("[agent]\nhots = x\n")
    with pytest.raises(ConfigError, match=r"b\.conf: \[agent\] hots"):
        load(files)


def test_a_dollar_sign_without_an_option_is_told_without_the_secret_around_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"\[bus\] url: expected \$\$") as raised:
        load(conf(tmp_path, "[bus]\nurl = rabbit://a:pass$word@b/\n"))
    assert "word" not in str(raised.value)
    assert load(conf(tmp_path, "[bus]\nurl = rabbit://a:p$$w@b/\n")).bus.url == "rabbit://a:p$w@b/"


# The files, and what libraries read of them


@pytest.mark.parametrize(
    ("names", "files"),
    [
        ("/a.conf", ["/a.conf"]),
        ("/a.conf;/b c.conf", ["/a.conf", "/b c.conf"]),
        (";/a.conf;;", ["/a.conf"]),
        ("", []),
        (";", []),
    ],
)
def test_files_are_named_with_semicolons_between(names: str, files: list[str]) -> None:
    assert find_files(names) == files


def test_where_none_is_named_the_usual_places_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = find_files(None)
    (tmp_path / ".tintype").mkdir()
    usual = tmp_path / ".tintype" / "tintype.conf"
    usual.write_text("[agent]\nhost = usual\n")
    assert str(usual) not in before
    assert find_files(None) == [str(usual)]
    assert load(find_files(None)).host == "usual"


def test_libraries_read_their_own_groups_of_the_same_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.conf", tmp_path / "b.conf"
    first.write_text("[oslo_policy]\npolicy_file = a.yaml\nenforce_scope = false\n")
    second.write_text("[oslo_policy]\npolicy_file = b.yaml\n[agent]\nhost = h\n")
    read = load_for_oslo([str(first), str(second)])
    read.register_opts(
        [cfg.StrOpt("policy_file"), cfg.BoolOpt("enforce_scope", default=True)], "oslo_policy"
    )
    assert (read.oslo_policy.policy_file, read.oslo_policy.enforce_scope) == ("b.yaml", False)
    with environment(OS_OSLO_POLICY__POLICY_FILE="c.yaml"):
        assert load_for_oslo([str(first)]).find_file("none") is None


def test_libraries_find_the_files_that_stand_beside(tmp_path: Path) -> None:
    files = conf(tmp_path, "[oslo_policy]\npolicy_file = policy.yaml\n")
    (tmp_path / "policy.yaml").write_text("")
    assert load_for_oslo(files).find_file("policy.yaml") == str(tmp_path / "policy.yaml")


def test_each_has_a_configuration_of_its_own() -> None:
    one, two = load_for_oslo(), load_for_oslo()
    one.register_opt(cfg.StrOpt("a", default="b"), "cors")
    assert "cors" not in two


def test_a_wrong_file_is_told_to_libraries_users_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.conf"):
        load_for_oslo([str(tmp_path / "missing.conf")])
    with pytest.raises(ConfigError, match=r"tintype\.conf"):
        load_for_oslo(conf(tmp_path, "no section\n[agent"))


def policy_of(tmp_path: Path, secret_env: str) -> Policy:
    """Return the policy of a configuration file with this option."""
    return make_policy(load(conf(tmp_path, f"[commit]\nsecret_env = {secret_env}\n")))


@pytest.mark.parametrize("text", ["PW_.{1,3}", "PW_.{2,}", "(PW,TOKEN)", "[a,b]_PW", "PW[^]", "a}"])
def test_half_an_expression_is_no_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[commit\] secret_env: .* without commas"):
        policy_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (".*_PW, TOKEN", "token"),
        ("PW_.{3}", "PW_abc"),
        (r"A\{B", "A{B"),
        ("A[]{]B", "A]B"),
        ("A[^{]B", "AxB"),
        (r"A[\]{]B", "A{B"),
        ("(?:PW|KEY)_.+", "KEY_x"),
    ],
)
def test_whole_expressions_are_secrets(tmp_path: Path, text: str, name: str) -> None:
    assert policy_of(tmp_path, text).is_secret(name)

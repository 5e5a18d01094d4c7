"""Configuration: oslo.config options, read once into frozen settings.

Each group is one dataclass, and its fields are the options: name, type, default and help stand in
one place. Nobody else sees oslo.config. Options come from `--config-file`, or from the environment
as `OS_<GROUP>__<OPTION>` (oslo.config's own rule).
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from oslo_config import cfg, types

from tintype.core.events import Requester


class ConfigError(Exception):
    """The configuration cannot work; the message names the option."""


def _option(
    default: Any,
    help_text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
) -> Any:
    metadata = {"help": help_text, "min": minimum, "max": maximum, "secret": secret}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Group `[agent]`: the work on this host."""

    host: str = _option("", "Name of this host in events and topics; the machine's where empty.")
    state_dir: str = _option("/var/lib/tintype", "Directory of the journal.")
    max_concurrent_snapshots: int = _option(
        5, "Snapshots worked on at once (Nova's max_concurrent_snapshots).", minimum=1
    )
    graceful_timeout: float = _option(
        30.0, "Seconds that running steps get to end when the service is stopped.", minimum=0
    )
    default_deadline: float = _option(
        86400.0,
        "Seconds after which a request without a deadline is given up; a year at most.",
        minimum=1,
        maximum=31_536_000,
    )
    retry_first: float = _option(
        1.0, "Seconds before a failed step is tried again; doubled each time.", minimum=0.01
    )
    retry_longest: float = _option(60.0, "Longest such wait, seconds.", minimum=0.01)
    poll_interval: float = _option(
        5.0, "Seconds between looks whether the image of a running upload was deleted.", minimum=0.1
    )
    retention_days: int = _option(
        30, "Days for which ended requests (against repeats) and dead letters are kept.", minimum=1
    )
    default_project_id: str = _option("", "Project of requests that name none.")
    default_user_id: str = _option("", "User of requests that name none.")
    stores: list[str] = _option(
        ["directory"],
        "Stores set up here: `glance`, `registry`, `directory`. Requests choose among them; the"
        " first takes the images of those that do not.",
    )


@dataclass(frozen=True, slots=True)
class CommitSettings:
    """Group `[commit]`: what snapshots may take, and what never gets into an image."""

    soft_limit_mib: int = _option(
        0, "Size in MiB above which a snapshot is warned of; 0: none.", minimum=0
    )
    hard_limit_mib: int = _option(
        0, "Size in MiB above which a snapshot is refused (413); 0: none.", minimum=0
    )
    max_layers: int = _option(
        120,
        "An image that would have more layers is made one layer; engines stop at 125.",
        minimum=1,
        maximum=125,
    )
    max_pause_ms: int = _option(
        0,
        "Milliseconds for which a container may be frozen whose request does not say; 0: as long"
        " as the engine takes.",
        minimum=0,
    )
    pause_exceeded: str = _option(
        "fail",
        "What becomes of a snapshot whose container ran again in the middle: `fail`, or `keep` and"
        " a warning.",
    )
    secret_env: list[str] = _option(
        [],
        "Regular expressions, parted by commas and so without commas of their own: environment"
        " variables whose whole name one of them matches, in any case, are taken out of every"
        " image.",
    )
    hooks: bool = _option(
        False, "Run the commands that containers' labels name before and after a commit."
    )
    hook_timeout: float = _option(30.0, "Seconds for one of these commands.", minimum=0.1)


@dataclass(frozen=True, slots=True)
class RestoreSettings:
    """Group `[restore]`: what a restored container may be given."""

    bind_folders: list[str] = _option(
        [],
        "Folders of this host that restored containers may be given as volumes; administrators may"
        " give what is below them, too. None where empty.",
    )


@dataclass(frozen=True, slots=True)
class JanitorSettings:
    """Group `[janitor]`: the removal of images that nobody wants any more."""

    enabled: bool = _option(
        True,
        "Remove images that have expired or were left behind. Without it requests with `expires_at`"
        " are refused.",
    )
    interval: float = _option(3600.0, "Seconds between two looks.", minimum=1)
    orphan_age: float = _option(
        86400.0,
        "Seconds after which an image that is queued or saving, of a request that has ended, counts"
        " as left behind.",
        minimum=60,
    )
    keep_last: int = _option(
        0,
        "How many finished snapshots of each container are kept in each store for each project, the"
        " newest; 0: all. An image that has expired goes in any case. Those that name a"
        " `backup_type` neither count nor go: they are left to `rotation` and `keep_days`.",
        minimum=0,
    )


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Group `[listener]`: what the command `tintype-listener` runs."""

    roles: list[str] = _option(
        ["agent", "router"],
        "`agent` (on every Docker host), `router` (anywhere, any number of them), or both.",
    )


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Group `[watch]`: what the agent tells of the containers on its host."""

    project_label: str = _option(
        "tintype.project_id", "Container label that names the owning project."
    )
    user_label: str = _option("tintype.user_id", "Container label that names the owning user.")
    default_project_id: str = _option(
        "", "Project of containers without the label; nobody's in particular where empty."
    )
    default_user_id: str = _option("", "User of containers without the label.")
    exists_interval: float = _option(
        3600.0, "Seconds between two passes over all containers (`container.exists`).", minimum=1
    )


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Group `[router]`: finding the host of a request."""

    index_url: str = _option(
        "",
        "Database of the index, as SQLAlchemy writes it (sqlite, postgresql, mysql); the file"
        " index.sqlite in the state_dir where empty. Routers of one database share the work.",
        secret=True,
    )
    pool: str = _option(
        "",
        "Queue by which the index gets all events. Routers of one database must have the same,"
        " those of different ones must not; where empty, `tintype-router` for a shared database"
        " and `tintype-router.<host>` for SQLite.",
    )
    stores: list[str] = _option(
        [],
        "Stores from which a router deletes images whose host is silent: `glance`, `registry`, or"
        " none; where empty, those that are set up ([glance] auth_url, [registry] repository).",
    )
    host_timeout: float = _option(
        300.0,
        "Seconds that a host has to take a request. A silent one is asked once more, and the"
        " answer is 504 after host_timeout + 2 x grace (6 minutes by default).",
        minimum=1,
    )
    unknown_timeout: float = _option(
        5.0,
        "Seconds for which a request waits for its container to be told of, before 404 (or 409).",
        minimum=0,
    )
    grace: float = _option(
        30.0,
        "Seconds beyond a host's time in which its word may still arrive. Clocks of hosts and"
        " routers must not differ by more.",
        minimum=1,
    )
    forget_days: int = _option(
        30,
        "Days after which containers not heard of, ended snapshots and dead letters are forgotten.",
        minimum=1,
    )


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Group `[bus]`: RabbitMQ through oslo.messaging."""

    url: str = _option("rabbit://guest:guest@127.0.0.1:5672/", "Transport URL.", secret=True)
    exchange: str = _option("tintype", "Exchange that events are published to.")
    listen_exchanges: list[str] = _option(
        ["tintype", "zun", "nova"],
        "Exchanges that requests are taken from: a publisher that uses"
        " oslo.messaging sends to its own control_exchange. Only `exchange` is ever"
        " created here, the others are awaited.",
    )
    notification_topic: str = _option("notifications", "Topic of emitted events.")
    request_topic: str = _option(
        "container-requests", "Topic of requests; `<topic>.<host>` is this host's own."
    )
    prefetch: int = _option(5, "Messages taken from a queue before they are journaled.", minimum=1)
    max_message_bytes: int = _option(
        1024 * 1024, "Longer messages become dead letters unread.", minimum=1024
    )
    quorum: bool = _option(False, "Use quorum queues; all publishers and consumers must agree.")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Group `[engine]`: the Docker Engine of this host."""

    url: str = _option("", "Engine's address; DOCKER_HOST or the usual socket where empty.")
    call_timeout: int = _option(60, "Seconds for an ordinary call.", minimum=1)
    commit_timeout: int = _option(3600, "Seconds for a commit.", minimum=1)
    stream_timeout: int = _option(
        600,
        "Seconds without a byte after which reading an image has failed; the engine stages"
        " the whole image before it sends the first.",
        minimum=1,
    )


@dataclass(frozen=True, slots=True)
class GlanceSettings:
    """Group `[glance]`: the image service, reached with a service user (docs/credentials.md)."""

    auth_url: str = _option("", "Keystone's address, for example https://keystone:5000/v3.")
    username: str = _option("tintype", "Service user.")
    password: str = _option("", "Its password.", secret=True)
    project_name: str = _option("service", "Its project.")
    user_domain_name: str = _option("Default", "Domain of the user.")
    project_domain_name: str = _option("Default", "Domain of the project.")
    region_name: str = _option("", "Region, where there are several.")
    interface: str = _option("internal", "Endpoint interface in the catalogue.")
    endpoint_override: str = _option("", "Glance's address instead of the catalogue's.")
    cafile: str = _option("", "Certificate authorities to believe.")
    connect_timeout: float = _option(10.0, "Seconds to connect.", minimum=1)
    read_timeout: float = _option(300.0, "Seconds without an answer.", minimum=1)


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """Group `[directory]`: images as files on this host."""

    path: str = _option("/var/lib/tintype/images", "Directory of the images.")


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Group `[registry]`: a container registry as image store (docs/registry.md)."""

    repository: str = _option(
        "",
        "Registry, and what names of repositories begin with, for example"
        " registry.example.org/snapshots: an image `web` goes to .../snapshots/web.",
    )
    allowed: list[str] = _option(
        [],
        "Registries that a request's `repository` may lie in: HOST[:PORT] or HOST[:PORT]/PATH; the"
        " one of `repository` where empty, which has to be among them.",
    )
    username: str = _option(
        "", "User at the registry of `repository`; Docker's configuration is asked where empty."
    )
    password: str = _option("", "Password or token of that user.", secret=True)
    docker_config: str = _option(
        "",
        "Docker's config.json, or its directory: credentials, credential helpers; DOCKER_CONFIG or"
        " ~/.docker where empty.",
    )
    cafile: str = _option("", "Certificate authorities to believe, instead of the system's.")
    insecure: list[str] = _option(
        [],
        "Registries, HOST[:PORT], whose certificate is not checked, and that may speak plain HTTP."
        " Those on loopback addresses may so without being named.",
    )
    connect_timeout: float = _option(10.0, "Seconds to connect.", minimum=1)
    read_timeout: float = _option(300.0, "Seconds without an answer.", minimum=1)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Group `[api]`: the REST service. Where it listens, its WSGI server is told."""

    stores: list[str] = _option(
        [],
        "Where images go whose request over REST names no store; where empty, `glance` if [glance]"
        " auth_url is set, else what each host has as its first.",
    )
    max_body_bytes: int = _option(65536, "Longest body of a request.", minimum=1024)
    host: str = _option("127.0.0.1", "Loopback address that `tintype serve` listens on.")
    port: int = _option(
        9519, "Port that `tintype serve` listens on; 0 takes a free one.", minimum=0, maximum=65535
    )


@dataclass(frozen=True, slots=True)
class TriggerSettings:
    """Group `[trigger]`: snapshots that nobody asks for each time."""

    rules_file: str = _option(
        "", "JSON file of rules beside those in containers' labels (docs/triggers.md); none: ''."
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be configured."""

    agent: AgentSettings = field(default_factory=AgentSettings)
    listener: ListenerSettings = field(default_factory=ListenerSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    bus: BusSettings = field(default_factory=BusSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    glance: GlanceSettings = field(default_factory=GlanceSettings)
    directory: DirectorySettings = field(default_factory=DirectorySettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    trigger: TriggerSettings = field(default_factory=TriggerSettings)
    commit: CommitSettings = field(default_factory=CommitSettings)
    restore: RestoreSettings = field(default_factory=RestoreSettings)
    janitor: JanitorSettings = field(default_factory=JanitorSettings)

    @property
    def host(self) -> str:
        """Name of this host."""
        return self.agent.host or socket.gethostname()

    @property
    def default_requester(self) -> Requester:
        """On whose behalf a message is that does not say."""
        return Requester(self.agent.default_project_id or None, self.agent.default_user_id or None)

    @property
    def index_url(self) -> str:
        """Database of the index."""
        file = Path(self.agent.state_dir) / "index.sqlite"
        return self.router.index_url or f"sqlite:///{file.absolute()}"

    @property
    def index_pool(self) -> str:
        """Queue by which the index gets all events."""
        shared = not self.index_url.startswith("sqlite")
        return self.router.pool or ("tintype-router" if shared else f"tintype-router.{self.host}")

    @property
    def journal_path(self) -> Path:
        """File of the journal."""
        return Path(self.agent.state_dir) / "journal.sqlite"


_OPTION_TYPES: dict[Any, Any] = {
    str: cfg.StrOpt,
    int: cfg.IntOpt,
    float: cfg.FloatOpt,
    bool: cfg.BoolOpt,
    list[str]: cfg.ListOpt,
}


def list_options() -> list[tuple[str, list[Any]]]:
    """Return all options by group, for oslo.config's sample generator."""
    groups = get_type_hints(Settings)
    return [(name, _options_of(group)) for name, group in groups.items()]


def _options_of(group: Any) -> list[Any]:
    hints = get_type_hints(group)
    defaults = group()
    options = []
    for item in fields(group):
        given = {side: item.metadata[side] for side in ("min", "max")}
        bounds = {side: bound for side, bound in given.items() if bound is not None}
        options.append(
            _OPTION_TYPES[hints[item.name]](
                item.name,
                default=getattr(defaults, item.name),
                help=item.metadata["help"],
                secret=item.metadata["secret"],
                **bounds,
            )
        )
    return options


_Given = Mapping[str, Mapping[str, Sequence[str]]]
"""What a file says: group -> option -> its values, of which the last counts."""

FOREIGN_GROUPS = frozenset({"DEFAULT", "keystone_authtoken", "cors", "healthcheck"})
"""Groups that libraries read by themselves, as they do those that begin with `oslo_`."""


def find_files(names: str | None) -> list[str]:
    """Return the configuration files named, parted by semicolons; None: those of this machine."""
    if names is None:
        return list(cfg.find_config_files("tintype"))
    return [name for name in names.split(";") if name]


def load_for_oslo(config_files: Sequence[str] = ()) -> cfg.ConfigOpts:
    """Read the same files for libraries of oslo and Keystone, which know their groups themselves.

    Raises ConfigError.
    """
    conf = cfg.ConfigOpts()
    _parse(conf, config_files)
    return conf


def load(config_files: Sequence[str] = ()) -> Settings:
    """Read the settings. Raises ConfigError, naming the option."""
    conf = cfg.ConfigOpts()
    for group, options in list_options():
        conf.register_opts(options, group=group)
    given = _parse(conf, config_files)
    unknown = [f"{path}: {words}" for path, groups in given for words in _unknown(groups)]
    if unknown:
        raise ConfigError("; ".join(unknown))
    groups = get_type_hints(Settings)
    return Settings(
        **{
            name: groups[name](
                **{option.name: _value(conf, name, option, given) for option in options}
            )
            for name, options in list_options()
        }
    )


def _parse(conf: cfg.ConfigOpts, config_files: Sequence[str]) -> Sequence[tuple[Path, _Given]]:
    """Have oslo.config read the files, and return what each says. Raises ConfigError."""
    directories = cfg.find_config_dirs("tintype")
    try:
        conf(
            [],
            project="tintype",
            default_config_files=list(config_files),
            default_config_dirs=directories,
        )
        found = [Path(directory).glob("*.conf") for directory in directories]
        files = [*map(Path, config_files), *(path for paths in found for path in sorted(paths))]
        return [(path, _given(path)) for path in files]
    except (cfg.Error, ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def _given(path: Path) -> _Given:
    """Return what a file says that oslo.config has read without an error."""
    sections: dict[str, dict[str, list[str]]] = {}
    cfg.ConfigParser(str(path.expanduser()), sections).parse()
    groups: dict[str, dict[str, list[str]]] = {}
    for section, options in sections.items():
        # The case of a group's name makes no difference to oslo.config, but for DEFAULT.
        group = groups.setdefault(section if section == "DEFAULT" else section.lower(), {})
        for name, values in options.items():
            group.setdefault(name, []).extend(values)
    return groups


def _unknown(groups: _Given) -> Iterator[str]:
    """Name the groups and options that nobody reads: most likely they are misspelt."""
    known = {group: [option.name for option in options] for group, options in list_options()}
    everything = [f"[{group}] {name}" for group, names in known.items() for name in names]
    for group, options in groups.items():
        if group in FOREIGN_GROUPS or group.startswith("oslo_"):
            continue
        if group not in known:
            yield f"[{group}]: no such group; [{_nearest(group, list(known))}] perhaps?"
            continue
        for name in options:
            if name not in known[group]:
                nearest = _nearest(f"[{group}] {name}", everything)
                yield f"[{group}] {name}: no such option; {nearest} perhaps?"


def _nearest(name: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(name, known, 1, cutoff=0.0)[0]


def _value(conf: Any, group: str, option: Any, given: Sequence[tuple[Path, _Given]]) -> Any:
    """Return the value of an option. Raises ConfigError with what was expected and what came."""
    try:
        value = conf[group][option.name]
    except ValueError:
        value = None
    except cfg.Error:  # its text may be a part of a password
        raise ConfigError(
            f"[{group}] {option.name}: expected $$ for each dollar sign, unless the name of an"
            " option follows"
        ) from None
    if value is None:  # wrong, or oslo.config's reading of an empty number
        text, source = _came(group, option.name, given)
        got = repr(text) if text else "nothing"
        raise ConfigError(
            f"[{group}] {option.name}: expected {_expected(option.type)}, got {got} ({source})"
        )
    return value


def _came(group: str, name: str, given: Sequence[tuple[Path, _Given]]) -> tuple[str, str]:
    """Return the text of a value, and where it stands."""
    variable = f"OS_{group}__{name}".upper()
    if variable in os.environ:
        return os.environ[variable], variable
    # A later file counts more than an earlier one.
    return next(
        (groups[group][name][-1], str(path))
        for path, groups in reversed(given)
        if name in groups.get(group, {})
    )


def _expected(kind: Any) -> str:
    """Say what a value of an option's type looks like."""
    if isinstance(kind, types.Boolean):
        return "true or false"
    words = "a whole number" if isinstance(kind, types.Integer) else "a number"
    if kind.max is not None:
        return f"{words} from {kind.min:g} to {kind.max:.0f}"
    return words if kind.min is None else f"{words} not below {kind.min:g}"

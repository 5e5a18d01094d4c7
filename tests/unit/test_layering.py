"""The rules of the house, kept by reading the source with `ast`: who imports whom, and does what.

Each rule is a function from source text to what breaks it, and is shown to be able to fail.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapters", "commands", "core", "handlers", "rest", "schemas")

ADAPTERS: Mapping[str, frozenset[str]] = {
    "tintype.adapters": frozenset({"oslo_service"}),  # chosen to be without eventlet, for all
    "tintype.adapters.bindings": frozenset({"amqp", "kombu"}),
    "tintype.adapters.bus": frozenset({"oslo_messaging"}),
    "tintype.adapters.callers_token": frozenset({"keystoneauth1"}),
    "tintype.adapters.clock": frozenset(),
    "tintype.adapters.courier": frozenset(),
    "tintype.adapters.cron": frozenset({"cronsim"}),
    "tintype.adapters.directory": frozenset(),
    "tintype.adapters.directory_files": frozenset(),
    "tintype.adapters.docker_capture": frozenset({"docker"}),
    "tintype.adapters.docker_changes": frozenset({"docker"}),
    "tintype.adapters.docker_client": frozenset({"docker", "requests"}),
    "tintype.adapters.docker_container": frozenset(),
    "tintype.adapters.docker_create": frozenset(),
    "tintype.adapters.docker_engine": frozenset({"docker"}),
    "tintype.adapters.docker_errors": frozenset({"docker", "requests", "urllib3"}),
    "tintype.adapters.docker_events": frozenset({"requests"}),
    "tintype.adapters.docker_exec": frozenset({"requests"}),
    "tintype.adapters.docker_freezer": frozenset({"docker"}),
    "tintype.adapters.docker_load": frozenset(),
    "tintype.adapters.docker_restore": frozenset({"docker"}),
    "tintype.adapters.docker_squash": frozenset(),
    "tintype.adapters.docker_usage": frozenset({"docker"}),
    "tintype.adapters.envelope": frozenset(),
    "tintype.adapters.frames": frozenset({"amqp"}),
    "tintype.adapters.glance": frozenset({"openstack", "requests"}),
    "tintype.adapters.glance_api": frozenset({"keystoneauth1", "openstack", "requests"}),
    "tintype.adapters.glance_documents": frozenset(),
    "tintype.adapters.glance_quota": frozenset({"keystoneauth1", "requests"}),
    "tintype.adapters.hardening": frozenset({"amqp", "kombu", "oslo_messaging"}),
    "tintype.adapters.journal_reader": frozenset(),
    "tintype.adapters.memory_archive": frozenset(),
    "tintype.adapters.memory_bus": frozenset(),
    "tintype.adapters.memory_container": frozenset(),
    "tintype.adapters.memory_courier": frozenset(),
    "tintype.adapters.memory_engine": frozenset(),
    "tintype.adapters.memory_events": frozenset(),
    "tintype.adapters.memory_layouts": frozenset(),
    "tintype.adapters.memory_restore": frozenset(),
    "tintype.adapters.memory_store": frozenset(),
    "tintype.adapters.migrations": frozenset(),
    "tintype.adapters.migrations.env": frozenset({"alembic"}),
    "tintype.adapters.migrations.versions": frozenset(),
    "tintype.adapters.migrations.versions.0001_index": frozenset({"alembic", "sqlalchemy"}),
    "tintype.adapters.migrations.versions.0002_rest": frozenset({"alembic", "sqlalchemy"}),
    "tintype.adapters.migrations.versions.0003_restores": frozenset({"alembic", "sqlalchemy"}),
    "tintype.adapters.openstack_access": frozenset({"openstack", "keystoneauth1"}),
    "tintype.adapters.openstack_errors": frozenset(
        {"openstack", "keystoneauth1", "requests", "urllib3"}
    ),
    # oslo.config: TransportURL.parse wants a configuration, and is given an empty one of its own.
    "tintype.adapters.publisher": frozenset({"amqp", "kombu", "oslo_config", "oslo_messaging"}),
    "tintype.adapters.registry": frozenset(),
    "tintype.adapters.registry_access": frozenset(),
    "tintype.adapters.registry_api": frozenset({"requests", "urllib3"}),
    "tintype.adapters.registry_auth": frozenset({"requests"}),
    "tintype.adapters.registry_blobs": frozenset({"requests"}),
    "tintype.adapters.registry_catalog": frozenset(),
    "tintype.adapters.registry_credentials": frozenset({"docker"}),
    "tintype.adapters.registry_errors": frozenset({"requests", "urllib3"}),
    "tintype.adapters.registry_images": frozenset(),
    "tintype.adapters.registry_known": frozenset(),
    "tintype.adapters.registry_manifest": frozenset(),
    "tintype.adapters.registry_outline": frozenset(),
    "tintype.adapters.registry_packing": frozenset({"isal"}),
    "tintype.adapters.registry_pull": frozenset(),
    "tintype.adapters.registry_push": frozenset(),
    "tintype.adapters.registry_record": frozenset(),
    "tintype.adapters.registry_repository": frozenset(),
    "tintype.adapters.registry_uploads": frozenset(),
    "tintype.adapters.rules_file": frozenset(),
    "tintype.adapters.send_once": frozenset(),
    "tintype.adapters.sql_database": frozenset({"alembic", "sqlalchemy"}),
    "tintype.adapters.sql_dispatches": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_engine": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_errors": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_index": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_jobs": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_pages": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_records": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_reservations": frozenset({"sqlalchemy"}),
    "tintype.adapters.sql_tables": frozenset({"sqlalchemy"}),
    "tintype.adapters.sqlite_journal": frozenset(),
    "tintype.adapters.sqlite_watch_log": frozenset(),
    "tintype.adapters.store_rules": frozenset(),
}
"""An adapter's one SDK: the package, and those beneath it whose exceptions and types it shows."""

OTHERS: Mapping[str, frozenset[str]] = {
    "tintype.commands.restore": frozenset({"cliff"}),
    "tintype.commands.restores": frozenset({"cliff"}),
    "tintype.commands.waiting": frozenset({"rich"}),
    "tintype.janitor_command": frozenset({"cliff"}),
    "tintype.rest.restores": frozenset({"falcon"}),
    "tintype.schemas": frozenset({"jsonschema", "referencing"}),
    "tintype.api": frozenset({"oslo_config", "oslo_middleware"}),
    "tintype.cli": frozenset({"cliff"}),
    "tintype.commands.client": frozenset({"keystoneauth1"}),
    "tintype.commands.commit": frozenset({"cliff"}),
    "tintype.commands.container": frozenset({"cliff"}),
    "tintype.commands.credentials": frozenset({"cliff", "keystoneauth1", "openstack"}),
    "tintype.commands.live": frozenset({"rich"}),
    "tintype.commands.snapshot": frozenset({"cliff"}),
    "tintype.commands.watching": frozenset({"rich"}),
    "tintype.config": frozenset({"oslo_config"}),
    "tintype.dead_letter_commands": frozenset({"cliff"}),
    "tintype.embedded": frozenset({"oslo_middleware", "waitress"}),
    "tintype.local": frozenset({"cliff"}),
    "tintype.rest.answers": frozenset({"falcon"}),
    "tintype.rest.app": frozenset({"falcon"}),
    "tintype.rest.containers": frozenset({"falcon"}),
    "tintype.rest.discovery": frozenset({"falcon"}),
    "tintype.rest.health": frozenset({"oslo_config", "oslo_middleware"}),
    "tintype.rest.identity": frozenset({"falcon"}),
    "tintype.rest.keystone": frozenset({"keystonemiddleware", "oslo_config", "webob"}),
    "tintype.rest.metrics": frozenset({"falcon", "prometheus_client"}),
    "tintype.rest.lists": frozenset({"falcon"}),
    "tintype.rest.policy": frozenset({"oslo_config", "oslo_policy"}),
    "tintype.rest.reading": frozenset({"falcon"}),
    "tintype.rest.snapshots": frozenset({"falcon"}),
    "tintype.rest.zun": frozenset({"falcon"}),
}
"""The other modules that import something that is neither ours nor Python's."""

COMPOSERS = frozenset(
    {
        "stores",
        "agent",
        "router",
        "listener",
        "api",
        "wsgi",
        "cli",
        "local",
        "embedded",
        "dead_letters",
        "dead_letter_commands",
        "janitor_command",
    }
)
"""The modules that put the parts together, and so know them."""

INNER: Mapping[str, frozenset[str]] = {
    "core": frozenset({"core"}),
    "schemas": frozenset({"core", "schemas"}),
    "handlers": frozenset({"core", "handlers"}),
    "adapters": frozenset({"core", "adapters"}),
    "rest": frozenset({"__init__", "core", "schemas", "rest"}),
    "commands": frozenset({"__init__", "core", "schemas", "commands"}),
    "config": frozenset({"core"}),
    "__init__": frozenset(),
    "__main__": frozenset({"cli"}),
}
"""Part of the package -> the parts that it may import."""

READS_AT_IMPORT = frozenset({"tintype.schemas", "tintype.wsgi"})
"""Modules that read files when imported: a service with a broken schema does not start, and WSGI
servers take what the module has made."""


@dataclass(frozen=True)
class Module:
    """One module of the package: its name and its text."""

    name: str
    source: str

    @property
    def part(self) -> str:
        """The folder at the root, or the root module, that it belongs to."""
        return [*self.name.split("."), "__init__"][1]


def load_modules() -> dict[str, Module]:
    modules = {}
    for path in (
        *ROOT.glob("*.py"),
        *(p for name in PACKAGES for p in ROOT.glob(f"{name}/**/*.py")),
    ):
        parts = ("tintype", *path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        modules[name] = Module(name, path.read_text())
    return modules


MODULES = load_modules()


def imports(module: Module, known: Iterable[str] = MODULES) -> Iterator[str]:
    """Yield the full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(module.source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(level=0, module=str(base), names=names):
                for alias in names:
                    full = f"{base}.{alias.name}"
                    yield full if full in known else base
            case ast.ImportFrom(level=level, module=base):
                yield "." * level + (base or "")
            case ast.Call(
                func=ast.Attribute(attr="import_module")
                | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def top(name: str) -> str:
    return name.partition(".")[0]


def foreign(module: Module) -> set[str]:
    """Return the packages it imports that are neither ours nor Python's."""
    names = {top(name) for name in imports(module)}
    return {name for name in names if name not in sys.stdlib_module_names and name != "tintype"}


def layer_faults(module: Module) -> list[str]:
    """Rule: inner parts know no outer ones; only the composers know all."""
    if module.part in COMPOSERS:
        return []
    allowed = INNER.get(module.part, frozenset())
    ours = (Module(name, "").part for name in imports(module) if top(name) == "tintype")
    return sorted({f"{module.name} imports {part}" for part in ours if part not in allowed})


def foreign_faults(module: Module, table: Mapping[str, frozenset[str]]) -> list[str]:
    """Rule: a module imports the foreign packages that the table gives it, and no other."""
    allowed, found = table.get(module.name, frozenset()), foreign(module)
    return [
        *(f"{module.name} imports {name}" for name in sorted(found - allowed)),
        *(f"{module.name} does not import {name}" for name in sorted(allowed - found)),
    ]


def relative_faults(module: Module) -> list[str]:
    """Rule: imports are absolute."""
    return [f"{module.name} imports {name}" for name in imports(module) if name.startswith(".")]


def circle(modules: Mapping[str, Module]) -> list[str]:
    """Rule: there is no circle of imports. Return one that is, or nothing."""
    graph = {name: set(imports(module, modules)) & set(modules) for name, module in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


CALLS = """
    open print input exec eval breakpoint
    os.environ.get os.getenv os.open os.makedirs os.mkdir os.remove os.stat os.listdir os.scandir
    os.getcwd os.system os.popen os.fork os.kill Path.cwd Path.home
    time.sleep signal.signal atexit.register logging.basicConfig logging.config.dictConfig
    socket.socket socket.create_server socket.create_connection socket.gethostname
    socket.getaddrinfo subprocess.run subprocess.Popen subprocess.check_output subprocess.call
    docker.from_env DockerClient docker.DockerClient docker.APIClient
    requests.get requests.post requests.request urlopen urllib.request.urlopen
    tempfile.mkdtemp tempfile.mkstemp shutil.rmtree entry_points
"""
METHODS = """
    read_text read_bytes write_text write_bytes mkdir unlink iterdir glob rglob touch exists
    is_file is_dir stat connect recv send sendall
"""
"""What is called on a path, a socket, a connection, whatever that is named."""

NOT_AT_IMPORT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def import_time_io(module: Module) -> list[str]:
    """Rule: importing does no I/O, nor do functions that it calls. Return the calls that do."""
    tree = ast.parse(module.source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    waiting, looked, faults = list(_runs_at_import(tree)), set[str](), []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            faults.append(f"{module.name}: os.environ, line {node.lineno}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called in CALLS.split() or method in METHODS.split():
            faults.append(f"{module.name}: {called}, line {node.lineno}")
        if called in functions and called not in looked:
            looked.add(called)
            waiting += [inner for line in functions[called].body for inner in _running(line)]
    return sorted(faults)


def _runs_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            yield from _running(node)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all in it but the bodies of functions; what surrounds a body does run."""
    yield node
    if isinstance(node, ast.Lambda):
        return
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, NOT_AT_IMPORT):
        defaults = (default for default in node.args.kw_defaults if default is not None)
        children = (*node.decorator_list, *node.args.defaults, *defaults)
    for child in children:
        yield from _running(child)


@pytest.fixture(params=sorted(MODULES))
def module(request: pytest.FixtureRequest) -> Module:
    return MODULES[request.param]


def test_inner_parts_know_no_outer_ones(module: Module) -> None:
    assert not layer_faults(module)


def test_each_module_imports_its_own_sdk_and_no_other(module: Module) -> None:
    assert not foreign_faults(module, {**ADAPTERS, **OTHERS})


def test_imports_are_absolute(module: Module) -> None:
    assert not relative_faults(module)


def test_importing_does_no_io(module: Module) -> None:
    assert bool(import_time_io(module)) == (module.name in READS_AT_IMPORT), import_time_io(module)


def test_there_is_no_circle() -> None:
    assert not circle(MODULES)


def test_the_tables_name_modules_that_exist() -> None:
    listed = {name for name in MODULES if name.startswith("tintype.adapters")}
    assert listed == set(ADAPTERS), "an adapter file and its SDK stand in the table ADAPTERS"
    assert set(OTHERS) | READS_AT_IMPORT <= set(MODULES)
    assert {module.part for module in MODULES.values()} == {*INNER, *COMPOSERS}


def test_only_config_knows_the_options() -> None:
    knowing = {module.name for module in MODULES.values() if "oslo_config" in foreign(module)}
    # An adapter needs an empty configuration of its own; these hand oslo's libraries theirs.
    handing = {f"tintype.{name}" for name in ("api", "rest.health", "rest.keystone", "rest.policy")}
    assert knowing == {"tintype.config", "tintype.adapters.publisher", *handing}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tintype.core.runner", "from tintype.handlers import commit"),
        ("tintype.core.runner", "from tintype.schemas import validate"),
        ("tintype.core.runner", "import tintype.adapters.clock"),
        ("tintype.core.runner", "from tintype.config import Settings"),
        ("tintype.core.runner", "from tintype import adapters"),
        ("tintype.core.runner", "def run():\n    from tintype.adapters import clock"),
        ("tintype.handlers.commit", "from tintype.adapters.clock import SystemClock"),
        (
            "tintype.handlers.commit",
            "import importlib\nimportlib.import_module('tintype.listener')",
        ),
        ("tintype.schemas", "from tintype.handlers import table"),
        ("tintype.adapters.glance", "from tintype.handlers import table"),
        ("tintype.adapters.glance", "from tintype.config import GlanceSettings"),
        ("tintype.adapters.glance", "if TYPE_CHECKING:\n    from tintype.listener import Agent"),
        ("tintype.config", "from tintype.adapters import glance"),
        ("tintype.__main__", "from tintype.listener import main"),
        ("tintype", "from tintype.cli import main"),
        ("tintype.another", "from tintype.core import errors"),
    ],
)
def test_a_wrong_layer_is_seen(name: str, source: str) -> None:
    assert layer_faults(Module(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tintype.core.runner", "import requests"),
        ("tintype.core.runner", "from core import errors"),  # a root name as if it were installed
        ("tintype.handlers.commit", "import docker.errors"),
        ("tintype.schemas", "import jsonschema, referencing, yaml"),
        ("tintype.adapters.clock", "def now():\n    import dateutil"),
        ("tintype.adapters.bus", "import oslo_messaging\nfrom oslo_config import cfg"),
        ("tintype.adapters.bus", "import json"),  # does not need what the table gives it
        ("tintype.listener", "from oslo_config import cfg"),
    ],
)
def test_a_foreign_import_is_seen(name: str, source: str) -> None:
    assert foreign_faults(Module(name, source), {**ADAPTERS, **OTHERS})


@pytest.mark.parametrize(
    "source", ["from . import errors", "from .errors import Invalid", "from ..core import errors"]
)
def test_a_relative_import_is_seen(source: str) -> None:
    assert relative_faults(Module("tintype.core.runner", source))


@pytest.mark.parametrize(
    "sources",
    [
        {"tintype.a": "import tintype.b", "tintype.b": "from tintype import a"},
        {"tintype.a": "from tintype.b import x", "tintype.b": "def f():\n    import tintype.a"},
        {
            "tintype.a": "from tintype.b import x",
            "tintype.b": "from tintype.c import x",
            "tintype.c": "from importlib import import_module\nimport_module('tintype.a')",
        },
        {"tintype.p": "from tintype.p import m", "tintype.p.m": "from tintype.p import name"},
    ],
)
def test_a_circle_is_seen(sources: Mapping[str, str]) -> None:
    assert circle({name: Module(name, source) for name, source in sources.items()})


def test_a_package_may_import_its_modules_which_import_each_other() -> None:
    sources = {"tintype.p": "from tintype.p import m, n", "tintype.p.m": "from tintype.p import n"}
    sources["tintype.p.n"] = ""
    assert not circle({name: Module(name, source) for name, source in sources.items()})


@pytest.mark.parametrize(
    "source",
    [
        "text = open('x').read()",
        "text = Path('x').read_text()",
        "home = os.environ['HOME']",
        "home = os.environ.get('HOME')",
        "class Settings:\n    host = socket.gethostname()",
        "def load(path=Path.cwd()):\n    pass",
        "def load(*, path=Path.cwd()):\n    pass",
        "@register(open('x'))\ndef load():\n    pass",
        "def load():\n    return inner()\ndef inner():\n    return open('x')\nTEXT = load()",
        "if sys.platform == 'linux':\n    signal.signal(1, f)",
        "for line in [1]:\n    print(line)",
        "CLIENT = docker.from_env()",
    ],
)
def test_io_at_import_is_seen(source: str) -> None:
    assert import_time_io(Module("tintype.x", source))


@pytest.mark.parametrize(
    "source",
    [
        "def load():\n    return open('x')",
        "class A:\n    def load(self):\n        return open('x')",
        "load = lambda: open('x')",
        "if __name__ == '__main__':\n    print(1)",
        "import os\nLOG = logging.getLogger(__name__)\nPATTERN = re.compile('x')",
    ],
)
def test_io_in_a_call_is_fine(source: str) -> None:
    assert not import_time_io(Module("tintype.x", source))

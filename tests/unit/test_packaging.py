"""What is shipped is what is in git: no more, no less, and nothing of it under a name of others.

The root is the package (docs/adr/0001), so that one wrong line in setup.cfg ships too much or too
little. The sdist is built from a copy of what git holds, and the wheel from that sdist.
"""

from __future__ import annotations

import configparser
import csv
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import tintype

ROOT = Path(__file__).parents[2]
AT_HOME = frozenset({".ci", "benchmarks", "deploy", "docs", "tests", "tools"})
"""Root folders that do not ship."""
OLDEST_SETUPTOOLS = 77  # as in pyproject.toml


def in_git() -> list[PurePosixPath]:
    """Return the files that git holds, or would after `git add`."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    files = [PurePosixPath(name) for name in listed.split("\0") if name]
    return [path for path in files if (ROOT / path).is_file()]


def run(*words: str | Path, cwd: Path, path: Path | None = None) -> str:
    env = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def shipped(path: PurePosixPath) -> bool:
    """Tell whether a file is a part of the package."""
    folder = str(path.parent)
    if folder == ".":
        return path.suffix == ".py" or path.name == "py.typed"
    return folder in packages() and (path.suffix == ".py" or path.parts[0] == "schemas")


def packages() -> set[str]:
    """Return the root folders that setup.cfg lists as packages."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = config["options"]["packages"].split()
    return {name.removeprefix("tintype.").replace(".", "/") for name in names if name != "tintype"}


@pytest.fixture(scope="module")
def setuptools_path(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Where a setuptools is that can build this project; None for the environment's own."""
    try:
        if int(importlib.metadata.version("setuptools").partition(".")[0]) >= OLDEST_SETUPTOOLS:
            return None
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = tmp_path_factory.mktemp("setuptools")
    wanted = f"setuptools>={OLDEST_SETUPTOOLS}"
    run(sys.executable, "-m", "pip", "-q", "install", "--target", folder, wanted, cwd=folder)
    return folder


def build(what: str, source: Path, setuptools_path: Path | None) -> Path:
    """Build an sdist or a wheel as pip does, but with the setuptools at hand."""
    target = source.parent / what
    target.mkdir()
    code = f"from setuptools import build_meta as b; b.build_{what}({str(target)!r})"
    run(sys.executable, "-c", code, cwd=source, path=setuptools_path)
    return next(target.iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, setuptools_path: Path | None) -> Path:
    source = tmp_path_factory.mktemp("sdist") / "source"
    for path in in_git():
        copy = source / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy)
    return build("sdist", source, setuptools_path)


@pytest.fixture(scope="module")
def wheel(
    sdist: Path, tmp_path_factory: pytest.TempPathFactory, setuptools_path: Path | None
) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    return build("wheel", next(folder.iterdir()), setuptools_path)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--no-index")
    run(*pip, "--target", folder, wheel, cwd=folder)
    return folder


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def text_in(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"tintype-{tintype.__version__}.dist-info/{name}").decode()


def test_every_root_folder_ships_or_is_known_to_stay_at_home() -> None:
    folders = {path.parts[0] for path in in_git() if len(path.parts) > 1}
    assert folders <= packages() | AT_HOME
    assert {name.partition("/")[0] for name in packages()} <= folders


def test_packages_are_all_the_root_folders_with_an_init() -> None:
    found = {str(path.parent) for path in in_git() if path.name == "__init__.py"}
    at_home = {folder for folder in found if folder.split("/")[0] in AT_HOME}
    assert packages() == found - at_home - {"."}


def test_no_root_name_hides_a_dependency_or_a_module_of_python() -> None:
    ours = {path.parts[0].removesuffix(".py") for path in in_git()} - {"__init__", "__main__"}
    foreign = {
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if set(owners) != {"tintype"}
    }
    assert not ours & (foreign | sys.stdlib_module_names)


def test_the_wheel_holds_every_module_and_schema_and_no_other_file(wheel: Path) -> None:
    files = {name for name in names_in(wheel) if ".dist-info/" not in name}
    assert files == {f"tintype/{path}" for path in in_git() if shipped(path)}
    assert {"tintype/py.typed", "tintype/schemas/container.commit.request.json"} <= files


def test_only_tintype_lands_in_site_packages(wheel: Path, installed: Path) -> None:
    info = f"tintype-{tintype.__version__}.dist-info"
    assert {entry.name for entry in installed.iterdir()} == {"tintype", info, "bin"}
    assert text_in(wheel, "top_level.txt").split() == ["tintype"]


def test_the_record_lists_every_file(wheel: Path) -> None:
    record = {row[0] for row in csv.reader(io.StringIO(text_in(wheel, "RECORD")))}
    assert record == names_in(wheel)


def test_the_licence_is_in_the_wheel(wheel: Path) -> None:
    assert text_in(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert "License: Apache-2.0" in text_in(wheel, "METADATA").splitlines()


@pytest.mark.parametrize("command", ["tintype", "tintype-listener"])
def test_the_commands_run_from_the_installed_wheel(installed: Path, command: str) -> None:
    said = run(installed / "bin" / command, "--help", cwd=installed, path=installed)
    assert said.startswith(f"usage: {command}")


def test_the_module_runs_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import tintype.schemas; print(tintype.__file__, len(tintype.schemas.SCHEMAS))"
    file, count = run(sys.executable, "-c", code, cwd=tmp_path, path=installed).split()
    assert Path(file) == installed / "tintype" / "__init__.py"
    assert int(count) == len(list((ROOT / "schemas").glob("*.json")))
    assert run(sys.executable, "-m", "tintype", "--version", cwd=tmp_path, path=installed)


def test_the_sdist_holds_what_git_holds(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        files = {
            name.partition("/")[2] for name in tar.getnames() if not tar.getmember(name).isdir()
        }
    made = {name for name in files if name == "PKG-INFO" or name.startswith("tintype.egg-info/")}
    assert files - made == {str(path) for path in in_git()}


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="outside tox the checkout is tested")
def test_what_is_tested_is_what_is_shipped() -> None:
    assert "site-packages" in Path(tintype.__file__).parts
    assert str(ROOT) not in sys.path
    installed = importlib.metadata.files("tintype") or []
    files = {
        str(file) for file in installed if file.parts[0] == "tintype" and file.suffix != ".pyc"
    }
    assert files == {f"tintype/{path}" for path in in_git() if shipped(path)}, "remove build/"

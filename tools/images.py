#!/usr/bin/env python3
"""Test images and containers without a registry to pull from, over the engine's API alone."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from devstack import dockerapi
from devstack.engine import Engine
from devstack.layout import Layout, StackError

BUSYBOX = "tintype-test/busybox:latest"
APPLETS = (
    "[ adduser ash awk base64 basename cat chgrp chmod chown chroot clear cmp cp cut date dd df "
    "diff dirname dmesg du echo env expr false find free grep gunzip gzip head hostname id install "
    "kill less ln ls md5sum mkdir mkfifo mknod mktemp more mount mv nc nice nohup od pidof ping "
    "printenv printf ps pwd readlink realpath rm rmdir sed seq sh sha256sum sha512sum sleep sort "
    "stat strings stty su sync tail tar tee test time timeout top touch tr true truncate tty "
    "umount uname uniq uptime usleep vi wc wget which whoami xargs yes"
)
#: Folder -> mode.
FOLDERS = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700,
           "sys": 0o555, "tmp": 0o1777, "var": 0o755}  # fmt: skip
FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}


def ensure_busybox(docker_host: str, image: str = BUSYBOX) -> str:
    """Make the busybox image unless the engine has it; return its name."""
    try:
        dockerapi.call(docker_host, "GET", f"/images/{quote(image)}/json")
    except dockerapi.EngineError as error:
        if error.status != 404:
            raise
        import_image(docker_host, image, busybox_tar(), ['CMD ["/bin/sh"]'])
    return image


def import_image(docker_host: str, image: str, root: bytes, changes: Sequence[str] = ()) -> None:
    """Make an image of one layer from the tar of a root folder (`docker import`)."""
    repository, _, tag = image.rpartition(":")
    query = [("fromSrc", "-"), ("repo", repository), ("tag", tag)]
    query += [("changes", change) for change in changes]
    answer = dockerapi.call(docker_host, "POST", f"/images/create?{urlencode(query)}", raw=root)
    for line in answer.splitlines():  # a failure comes with status 200
        if "error" in (report := json.loads(line)):
            raise StackError(f"engine {docker_host}: import of {image}: {report['error']}")


def run_container(
    docker_host: str,
    image: str,
    command: Sequence[str],
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    volumes: Mapping[str, str] | None = None,
) -> str:
    """Start a container without a network and return its id; volumes are source -> target."""
    body = {
        "Image": image,
        "Cmd": list(command),
        "Labels": dict(labels or {}),
        "StopTimeout": 1,  # seconds; a shell as pid 1 ignores SIGTERM
        "HostConfig": {
            "NetworkMode": "none",
            "Binds": [f"{source}:{target}" for source, target in (volumes or {}).items()],
        },
    }
    query = f"?{urlencode({'name': name})}" if name else ""
    created = dockerapi.call_json(docker_host, "POST", f"/containers/create{query}", body)
    dockerapi.call(docker_host, "POST", f"/containers/{created['Id']}/start")
    return str(created["Id"])


def remove_container(docker_host: str, container: str) -> None:
    """Remove a container, running or not, with its anonymous volumes."""
    dockerapi.call(docker_host, "DELETE", f"/containers/{quote(container)}?force=1&v=1")


def busybox_tar() -> bytes:
    """Return the tar of a root folder with busybox; the same bytes every time."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for folder, mode in FOLDERS.items():
            tar.addfile(_entry(folder, tarfile.DIRTYPE, mode))
        for path, content in {"bin/busybox": _busybox(), **FILES}.items():
            entry = _entry(path, tarfile.REGTYPE, 0o755 if path.startswith("bin/") else 0o644)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for applet in APPLETS.split():
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return output.getvalue()


def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = kind, mode
    return entry


def _busybox() -> bytes:
    program = next((p for p in map(Path, ("/bin/busybox", "/usr/bin/busybox")) if p.exists()), None)
    content = program.read_bytes() if program else b""
    if not content or b"/ld-linux" in content:  # the second: linked dynamically
        raise StackError("no static busybox: apt-get install busybox-static")
    return content


def main(arguments: list[str] | None = None) -> int:
    """Make the image on DOCKER_HOST, or on the stack's engine, and print its name."""
    parser = argparse.ArgumentParser(prog="tools/images.py", description=__doc__)
    parser.add_argument("image", nargs="?", default=BUSYBOX, metavar="IMAGE", help=BUSYBOX)
    image = parser.parse_args(arguments).image
    try:
        host = os.environ.get("DOCKER_HOST") or Engine(Layout.find()).host()
        print(ensure_busybox(host, image if ":" in image else f"{image}:latest"))
    except StackError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

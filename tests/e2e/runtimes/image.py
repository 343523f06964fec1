"""The one image of these tests, made of the host's own busybox: nothing is fetched from anywhere."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

#: The image's name, as every runtime knows it.
IMAGE = "localhost/box:1"
_APPLETS = ("sh", "sleep", "httpd", "wget", "ip", "cat", "nc", "nslookup", "hostname", "timeout")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def image_archive() -> bytes:
    """Return the image as an archive that `podman load` and `ctr image import` take (Docker's image format, v1.2)."""
    layer = _root_files()
    configuration = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, "config.json", json.dumps(configuration).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return content.getvalue()


def _root_files() -> bytes:
    busybox = shutil.which("busybox")
    assert busybox is not None, "no busybox on PATH; ./bootstrap test installs it"
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for directory in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "www"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add(Path(busybox).resolve(), "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return content.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, BytesIO(content))

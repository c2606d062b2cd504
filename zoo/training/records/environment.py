"""What a run was made with, so that its figures can be traced."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

import zoo
from keras_renorm import ops
from keras_renorm.version import __version__

_PACKAGES = ("keras", "tensorflow", "numpy", "tensorflow-datasets")


def environment() -> dict[str, Any]:
    """Returns versions, kernels, the machine, and the state of the package's git checkout."""
    return {
        "versions": {
            "python": platform.python_version(),
            "keras_renorm": __version__,
            **_versions(),
        },
        "kernels": dict(ops.lowering()._asdict()),
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "gpus": [_name(gpu) for gpu in tf.config.list_physical_devices("GPU")],
        },
        "git": git_state(Path(zoo.__file__).parent),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Returns the commit and whether files differ from it; None if git tracks none of them."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not _git(folder, "ls-files", "."):
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "-uno"))}


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns what git prints; None where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


def _versions() -> dict[str, str | None]:
    """Returns the versions of the packages that a run's numbers depend on."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def processor() -> str:
    """Returns the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _name(gpu: Any) -> str:
    """Returns the name of a GPU."""
    return str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))

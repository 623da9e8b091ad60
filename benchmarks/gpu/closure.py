"""Check that the wheels in a folder and the packages of the GPU machine have all that those wheels need.

    python benchmarks/gpu/closure.py FOLDER [--python 3.12]

What the machine has is in machine.txt: `name` or `name==version` where the version is known.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

MACHINE = Path(__file__).with_name("machine.txt")


def machine(path: Path = MACHINE) -> dict[str, Version | None]:
    """The packages that are there already, with their version where it is known."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("==") for line in lines if line]
    return {canonicalize_name(name): Version(version) if version else None for name, _, version in pairs}


def requirements(wheel: Path) -> list[Requirement]:
    """What the metadata of a wheel asks for."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]


def environment(python: str) -> dict[str, str]:
    """Of markers: Linux on x86-64 under that Python."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.3",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.3",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_release": "",
        "platform_version": "",
        "extra": "",
    }


def problems(wheels: Mapping[str, tuple[Version, list[Requirement]]], python: str) -> Iterator[str]:
    """What is missing, or of a version that is not asked for; a line each."""
    there = machine()
    for name in sorted(there.keys() & wheels.keys()):
        yield f"{name}: in the bundle, and on the machine already"
    versions = {**there, **{name: version for name, (version, _) in wheels.items()}}
    for name, (_, wanted) in sorted(wheels.items()):
        for need in wanted:
            other = canonicalize_name(need.name)
            if need.marker is not None and not need.marker.evaluate(environment(python)):
                continue
            if other not in versions:
                yield f"{name} needs {need}, and nothing has it"
            elif (version := versions[other]) is not None and not need.specifier.contains(version, prereleases=True):
                yield f"{name} needs {need}, and {other} is {version}"


def read(folder: Path) -> dict[str, tuple[Version, list[Requirement]]]:
    """Version and needs by name; raises ValueError for two versions of one package."""
    wheels: dict[str, tuple[Version, list[Requirement]]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version, *_ = parse_wheel_filename(path.name)
        if name in wheels:
            raise ValueError(f"{name} must be there once, got {wheels[name][0]} and {version}")
        wheels[str(name)] = version, requirements(path)
    return wheels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    arguments = parser.parse_args()
    wheels = read(arguments.folder)
    lines = list(problems(wheels, arguments.python))
    for line in lines:
        print(line, file=sys.stderr)
    print(f"{len(wheels)} wheels, {len(lines)} problems")
    return 1 if lines or not wheels else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes `import torch` work without the CUDA libraries that PyTorch's wheel is linked with.

usage: cuda_stubs.py            (with the Python that torch is installed in; needs cc, nm and readelf)

The loader refuses a library if one that it names is absent, or lacks a version or a symbol that it names. So for every
library that nothing on this machine provides, an empty one is built that has the same name and defines those symbols
under those versions, and is laid beside PyTorch's own, where they are looked for first. Each function answers 100,
"no CUDA device", which is how PyTorch learns that there is none.
"""

import collections
import ctypes
import importlib.util
import pathlib
import re
import subprocess
import tempfile


def printed(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def is_loadable(soname):
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def main():
    folder = pathlib.Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
    libraries = sorted(folder.glob("*.so*"))
    here = {path.name for path in libraries}
    defined, undefined, missing, provider = set(), set(), set(), {}
    for path in libraries:
        dynamic = printed("readelf", "--wide", "--dynamic", "--version-info", path)
        missing.update(name for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) if name not in here)
        # "File: libx.so.1  Cnt: 2" is followed by a line "Name: VERSION ..." for each version that is needed of it
        for file, versions in re.findall(r"File: (\S+)  Cnt: .*\n((?:.*Name: .*\n)+)", dynamic):
            provider.update((version, file) for version in re.findall(r"Name: (\S+)", versions))
        for line in printed("nm", "--dynamic", "--with-symbol-versions", path).splitlines():
            kind, symbol = line.split()[-2:]
            if kind == "U":
                undefined.add(symbol)
            else:
                defined.add(symbol.split("@")[0])
    missing = sorted(name for name in missing if not is_loadable(name))
    if not missing:
        return
    # symbols of each missing library by version; a symbol without a version is looked for everywhere, so any will do
    wanted = collections.defaultdict(lambda: collections.defaultdict(list))
    for symbol in sorted(undefined):
        name, _, version = symbol.partition("@")
        if version and provider[version] in missing:
            wanted[provider[version]][version].append(name)
        elif not version and name not in defined and re.match(r"_*(cu|nccl|pnccl|nvrtc|nvshmem)", name):
            wanted[missing[0]][""].append(name)
    with tempfile.TemporaryDirectory() as scratch:
        source, script = pathlib.Path(scratch, "stub.c"), pathlib.Path(scratch, "stub.map")
        for soname in missing:
            versions = wanted[soname]
            source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for names in versions.values() for name in names))
            script.write_text("".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items() if version))
            command = ["cc", "-w", "-fno-builtin", "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-o", folder / soname, source]
            subprocess.run(command + ([f"-Wl,--version-script={script}"] if script.read_text() else []), check=True)
    print(f"stubs of {len(missing)} libraries in {folder}: {', '.join(missing)}")


main()

#!/usr/bin/env python3
"""binding.py GOTCH SOURCES DEST: the part of gotch's binding that ldalign uses.

GOTCH is the folder of the module github.com/sugarme/gotch, which is written for libtorch 2.1. Its libtch wraps every operator of
libtorch. Some of them have changed since, and compiling all of them takes minutes. This script copies to DEST the module with the
operators that the Go files in the folder SOURCES call, and nothing else: the text of each function stays gotch's. cgo's flags are
written anew, for C++20 and without the CUDA libraries. DEST changes only when its contents would.
"""

import filecmp
import pathlib
import re
import shutil
import sys

LIB = """\
package libtch

// Written by ops/native/binding.py.

// #cgo LDFLAGS: -lc10 -ltorch_cpu
// #cgo CFLAGS: -I${SRCDIR} -O2
// #cgo CXXFLAGS: -std=c++20 -I${SRCDIR} -O2 -w
import "C"
"""

# What is copied as it is. The rest of libtch is the operators' three files, cgo's flags, and patch.go, which needs operators.
WHOLE = ["device.go", "pointer-store.go", "scalar.go", "tensor.go", "torch_api.cpp", "torch_api.h",
         "stb_image.h", "stb_image_resize.h", "stb_image_write.h"]


def main(gotch: pathlib.Path, sources: pathlib.Path, dest: pathlib.Path) -> None:
    libtch = gotch / "libtch"
    calls = set()
    for path in sources.glob("*.go"):
        calls |= set(re.findall(r"\blib\.(Atg\w+)", path.read_text()))
    generated = (libtch / "c-generated.go").read_text()
    head, *functions = re.split(r"(?m)^(?=func )", generated)
    chosen = choose(libtch / "c-generated.go", {re.match(r"func (\w+)", f)[1]: f for f in functions}, calls)
    wanted = set(re.findall(r"\bC\.(atg_\w+)", "".join(chosen)))
    header, source = libtch / "torch_api_generated.h", libtch / "torch_api_generated.cpp.h"
    declared = {name: text for text, name in re.findall(r"(?m)^(\S.*?\b(atg_\w+)\(.*\);\n)", header.read_text())}
    defined = {name: text for text, name in re.findall(r"(?ms)^(\S[^\n]*?\b(atg_\w+)\([^\n]*\{\n.*?^\}\n)", source.read_text())}

    partial = dest.with_name(dest.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "libtch").mkdir(parents=True)
    for name in "go.mod", "LICENSE":
        shutil.copyfile(gotch / name, partial / name)
    for name in WHOLE:
        shutil.copyfile(libtch / name, partial / "libtch" / name)
    write = {
        "lib.go": LIB,
        "c-generated.go": head + "".join(chosen),
        header.name: "".join(choose(header, declared, wanted)),
        source.name: "\n".join(choose(source, defined, wanted)),
    }
    for name, text in write.items():
        (partial / "libtch" / name).write_text(text)
    if same(partial, dest):
        shutil.rmtree(partial)
        return
    shutil.rmtree(dest, ignore_errors=True)
    partial.rename(dest)


def choose(path: pathlib.Path, texts: dict, names: set) -> list:
    """Returns the texts of the functions with these names, in the order of the file at path, which has to have them all."""
    if missing := names - texts.keys():
        sys.exit(f"binding.py: {path} has no {', '.join(sorted(missing))}")
    return [text for name, text in texts.items() if name in names]


def same(a: pathlib.Path, b: pathlib.Path) -> bool:
    """Reports whether two folders have the same files with the same contents."""
    names = [{str(p.relative_to(d)) for p in d.rglob("*") if p.is_file()} for d in (a, b)]
    return names[0] == names[1] and not any(filecmp.cmpfiles(a, b, names[0], shallow=False)[1:])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(pathlib.Path, sys.argv[1:]))

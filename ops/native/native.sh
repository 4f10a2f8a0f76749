#!/usr/bin/env bash
# Fetches and builds what ldalign needs below Go: libtorch, the part of gotch's binding that it uses, and the tokenizer library.
#
#   ops/native/native.sh          libtorch for the CPU
#   ops/native/native.sh --cuda   and its libraries for NVIDIA's GPUs
#   ops/native/native.sh --check  say what is missing on this machine, change nothing
#
# Settings (environment):
#   LDALIGN_NATIVE  folder for everything fetched and built (default: .native in the checkout)
#   LIBTORCH        the folder of an existing libtorch, with lib/ and include/
#   LIBTORCH_FROM   a Python that has torch, such as python3 or VENV/bin/python: its libtorch is used
#
# Every step is pinned, verified by sha256 where something is downloaded, written to a temporary name and renamed when
# complete, and skipped when its result exists: a run that was interrupted continues where it stopped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
native=${LDALIGN_NATIVE:-$root/.native}
cuda=0
check=0
for arg in "$@"; do
	case $arg in
	--cuda) cuda=1 ;;
	--check) check=1 ;;
	*) echo "native: unknown argument $arg (see the head of $0)" >&2; exit 2 ;;
	esac
done

pinned=2.15.0
oldest=2.7

say() { printf 'native: %s\n' "$*" >&2; }
die() { printf 'native: %s\n' "$*" >&2; exit 1; }

# --- prerequisites --------------------------------------------------------------------------------------------------
system=$(uname -s)-$(uname -m)
case $system in
Darwin-*) cxx=${CXX:-clang++} library=dylib ;;
*) cxx=${CXX:-g++} library=so ;;
esac
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$1: $2"); }
need go "Go 1.26 or newer (https://go.dev/dl, or Debian's golang)"
need "$cxx" "a C++20 compiler (Debian: apt-get install g++; macOS: xcode-select --install)"
need python3 "Python 3.8 or newer with pip (Debian: apt-get install python3 python3-pip)"
need cargo "Rust's cargo 1.85 or newer (https://rustup.rs, or Debian 13's cargo)"
if command -v python3 >/dev/null 2>&1 && ! python3 -m pip --version >/dev/null 2>&1; then
	missing+=("pip: Python's package installer (Debian: apt-get install python3-pip)")
fi
if [ ${#missing[@]} -gt 0 ]; then
	say "these programs are missing; install them and run the same command again:"
	for m in "${missing[@]}"; do say "  $m"; done
	exit 1
fi
if ! printf '#include <concepts>\nstatic_assert(std::integral<int>);\n' | "$cxx" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; then
	die "$cxx does not compile C++20 ($("$cxx" --version | head -n 1)); install a newer compiler, such as g++ 11"
fi
[ "$check" = 1 ] && { say "everything needed to build is here"; exit 0; }

mkdir -p "$native"
if command -v flock >/dev/null 2>&1; then # macOS has none
	exec 9>"$native/lock"
	flock 9 # two builds in one checkout take turns
fi

sum() { python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }
write() { # write FILE: from standard input, only when it changes
	cat >"$1.tmp"
	if cmp -s "$1.tmp" "$1"; then rm "$1.tmp"; else mv "$1.tmp" "$1"; fi
}

# --- libtorch -------------------------------------------------------------------------------------------------------
if [ -z "${LIBTORCH:-}" ] && [ -n "${LIBTORCH_FROM:-}" ]; then
	LIBTORCH=$("$LIBTORCH_FROM" -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("torch").origin))' 2>/dev/null) ||
		die "LIBTORCH_FROM=$LIBTORCH_FROM is not a Python with torch: install torch there, or unset LIBTORCH_FROM to use the pinned one"
fi
if [ -n "${LIBTORCH:-}" ]; then
	libtorch=$(cd "$LIBTORCH" 2>/dev/null && pwd) || die "LIBTORCH=$LIBTORCH is not a folder"
	# The first header is that of newer versions, the second that of older ones.
	version=$(cat "$libtorch/include/torch/headeronly/version.h" "$libtorch/include/torch/csrc/api/include/torch/version.h" 2>/dev/null |
		awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]/ {printf "%s%s", s, $3; s="."}' || true)
	if [ -z "$version" ] || [ ! -f "$libtorch/lib/libtorch_cpu.$library" ]; then
		die "$libtorch is not a libtorch: it lacks include/torch/csrc/api/include/torch/version.h or lib/libtorch_cpu.$library"
	fi
	in_order() { python3 -c 'import sys; v = [[int(n) for n in a.split(".")] for a in sys.argv[1:]]; sys.exit(v != sorted(v))' "$@"; }
	in_order $oldest "$version" || die "$libtorch is libtorch $version; ldalign needs $oldest or newer"
	in_order "$version" $pinned || say "warning: libtorch $version at $libtorch is newer than $pinned, the newest that ldalign is tested with"
	say "using libtorch $version at $libtorch"
	if [ "$cuda" = 1 ] && [ ! -f "$libtorch/lib/libtorch_cuda.so" ]; then
		die "$libtorch has no lib/libtorch_cuda.so: it is a CPU build; name one with CUDA by LIBTORCH or LIBTORCH_FROM"
	fi
else
	# Wheels are unpacked as pip does: libtorch looks for CUDA's libraries in ../../nvidia. Even without a GPU it needs two of them.
	site=$native/torch-$pinned
	libtorch=$site/torch
	take() { python3 "$here/wheel.py" "$site" "$@"; } # take WHEEL SUM PATTERN
	torch=torch-$pinned-cp312-cp312
	runtime=nvidia_cuda_runtime-13.2.86-py3-none
	cupti=nvidia_cuda_cupti-13.2.86-py3-none
	take_torch() { # take_torch PATTERN
		case $system in
		Linux-x86_64) take $torch-manylinux_2_28_x86_64.whl 033969f1d12c1fea5e0cf35a26a10dc75a41176b5fcd0354758b0bda80f45eeb "$1" ;;
		Linux-aarch64) take $torch-manylinux_2_28_aarch64.whl 2af2fad9eb515b03af7e380c5a02f927e304bd158aeea63aaa0def4e6a8bffb7 "$1" ;;
		Darwin-arm64) take $torch-macosx_14_0_arm64.whl 05568af6b13b68b2d443da61cb67526f3617de79dbfa69393a6c93a0aba5ca50 "$1" ;;
		*) die "PyPI has no libtorch $pinned for $system: set LIBTORCH or LIBTORCH_FROM to one of your own" ;;
		esac
	}
	if [ ! -f "$site/complete-cpu" ]; then
		say "fetching libtorch $pinned (CPU): 143 MB for Linux on x86-64"
		take_torch '^torch/(include/|lib/lib(torch_cpu|c10|g?omp|gfortran|arm_compute(_graph)?|nvpl_[a-z0-9_]+)\.(so|dylib))'
		case $system in
		Linux-x86_64)
			take $runtime-manylinux2014_x86_64.manylinux_2_17_x86_64.whl \
				795d5f0a013142013ec11b688f2e840b8226ca058c05a1fcc2c8fc8c58c13eac '/libcudart\.so'
			take $cupti-manylinux_2_25_x86_64.whl cd99245acf7d27d04935a234596724b75d80ccc69c36670b8631056ddb69f449 '/libcupti\.so'
			;;
		Linux-aarch64)
			take $runtime-manylinux2014_aarch64.manylinux_2_17_aarch64.whl \
				ad4e7b8016876b8335feba19e08344d0c3fed5f291da243572666c9600ffc745 '/libcudart\.so'
			take $cupti-manylinux_2_25_aarch64.whl 96326d4b147c9a8d9db62bfc26e5851c06133dc7cd9d9932d77fb99ab7de192d '/libcupti\.so'
			;;
		esac
		touch "$site/complete-cpu"
	fi
	if [ "$cuda" = 1 ] && [ ! -f "$site/complete-cuda" ]; then
		[ "$library" = so ] || die "there is no CUDA for $system"
		say "fetching libtorch $pinned (CUDA): 380 MB"
		take_torch '^torch/lib/lib(torch_cuda|torch_cuda_linalg|torch_nvshmem|c10_cuda|caffe2_nvrtc)\.so'
		touch "$site/complete-cuda"
	fi
fi

# --- gotch's binding ------------------------------------------------------------------------------------------------
# go.work makes `go` take the adapted copy in place of the module that go.mod pins.
gotch=$(cd "$root" && GOWORK=off go mod download -json github.com/sugarme/gotch | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
python3 "$here/binding.py" "$gotch" "$root/models/tensor" "$native/gotch"
write "$root/go.work" <<WORK
// Written by ops/native/native.sh.
go $(sed -n 's/^go //p' "$root/go.mod")

use .

replace github.com/sugarme/gotch => $native/gotch
WORK

# --- tokenizer library ----------------------------------------------------------------------------------------------
# models/tokenizer/bridge, with Hugging Face's tokenizers and minijinja from crates.io as its Cargo.lock pins them. The folder
# cargo/ is kept, so that a change of the crate builds in seconds.
libraries=$native/lib
bridge=$root/models/tokenizer/bridge
sources=$(cd "$bridge" && find Cargo.toml Cargo.lock src -type f | LC_ALL=C sort | xargs cat | sum)
if [ "$(cat "$libraries/tokenizer.sources" 2>/dev/null)" != "$sources" ]; then
	if [ -d "$native/cargo" ]; then
		say "building models/tokenizer/bridge again because it has changed"
	else
		say "building models/tokenizer/bridge by cargo: about two and a half minutes, once"
	fi
	cargo build --release --locked --quiet --manifest-path "$bridge/Cargo.toml" --target-dir "$native/cargo" ||
		die "cargo could not build $bridge; the message above says why"
	mkdir -p "$libraries"
	rm -f "$libraries/tokenizer.sources"
	cp "$native/cargo/release/libldalign_tokenizer.a" "$libraries/libldalign_tokenizer.a.tmp"
	mv "$libraries/libldalign_tokenizer.a.tmp" "$libraries/libldalign_tokenizer.a"
	echo "$sources" >"$libraries/tokenizer.sources"
	# Go does not notice that a library has changed, so remove the binaries and the test results that used the old one.
	rm -f "$root/bin/ldalign-tensors"
	go clean -testcache
fi

# --- flags ----------------------------------------------------------------------------------------------------------
# These must stay the same from build to build: Go compiles all C++ again whenever they change.
as_needed=-Wl,--as-needed
[ "$library" = so ] || as_needed=
write "$native/env.sh" <<ENV
# written by ops/native/native.sh: the flags of cgo. Use: source $native/env.sh
export CGO_ENABLED=1
export CGO_CXXFLAGS="-O2 -I$libtorch/include -I$libtorch/include/torch/csrc/api/include"
export CGO_LDFLAGS="$as_needed -L$libraries -L$libtorch/lib -Wl,-rpath,$libtorch/lib"
ENV

#!/usr/bin/env bash
# Fetches and builds what ldalign needs below Go: libtorch 2.1.0, the link stubs for gotch, and the tokenizer library.
#
#   ops/native/native.sh                 CPU (the default)
#   ops/native/native.sh --cuda          also unpack libtorch's CUDA libraries and compile what needs CUDA's headers, for `make cuda`
#   ops/native/native.sh --cuda-runtime  and also install CUDA, cuDNN and NCCL (2.8 GB), which that build needs to start
#   ops/native/native.sh --check         say what is missing on this machine, change nothing
#
# Settings (environment):
#   LDALIGN_NATIVE  folder for everything fetched and built       (default: .native in the checkout)
#   LIBTORCH        an existing libtorch 2.1.0 to use instead     (folder with lib/ and include/)
#
# Every step is pinned, verified by sha256 where something is downloaded, written to a temporary name and renamed when
# complete, and skipped when its result exists: a run that was interrupted continues where it stopped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
native=${LDALIGN_NATIVE:-$root/.native}
cuda=0
cuda_runtime=0
check=0
for arg in "$@"; do
	case $arg in
	--cuda) cuda=1 ;;
	--cuda-runtime) cuda=1 cuda_runtime=1 ;;
	--check) check=1 ;;
	*) echo "native: unknown argument $arg (see the head of $0)" >&2; exit 2 ;;
	esac
done

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore # no notices
torch_version=2.1.0

say() { printf 'native: %s\n' "$*" >&2; }
die() { printf 'native: %s\n' "$*" >&2; exit 1; }

# --- prerequisites --------------------------------------------------------------------------------------------------
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$1: $2"); }
need go "Go 1.26 or newer (https://go.dev/dl, or Debian's golang)"
need g++ "a C++17 compiler (Debian: apt-get install g++)"
need ar "binutils (Debian: apt-get install binutils)"
need python3 "Python 3 with pip (Debian: apt-get install python3 python3-pip)"
need cargo "Rust's cargo 1.85 or newer (https://rustup.rs, or Debian 13's cargo)"
need sha256sum "coreutils (Debian: apt-get install coreutils)"
if command -v python3 >/dev/null 2>&1 && ! python3 -m pip --version >/dev/null 2>&1; then
	missing+=("pip: Python's package installer (Debian: apt-get install python3-pip)")
fi
if [ ${#missing[@]} -gt 0 ]; then
	say "these programs are missing; install them and run the same command again:"
	for m in "${missing[@]}"; do say "  $m"; done
	exit 1
fi
if ! printf '#if __cplusplus < 201703L\n#error old\n#endif\n' | g++ -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; then
	die "g++ does not compile C++17 ($(g++ --version | head -n 1)); install a newer one"
fi
[ "$check" = 1 ] && { say "everything needed to build is here"; exit 0; }

system="$(uname -s)-$(uname -m)"
[ "$system" = Linux-x86_64 ] || [ -n "${LIBTORCH:-}" ] ||
	die "the pinned libtorch is for Linux x86_64 and this is $system: set LIBTORCH=/path to a libtorch $torch_version of your own"

mkdir -p "$native/downloads"
exec 9>"$native/lock"
flock 9 # two builds in one checkout take turns

# --- downloads ------------------------------------------------------------------------------------------------------
# fetch PACKAGE==VERSION FILE SHA256: into downloads/, verified
fetch() {
	local spec=$1 file=$native/downloads/$2 sum=$3 try
	if [ -f "$file" ]; then return; fi
	for try in 1 2 3; do
		say "fetching $spec (try $try of 3)"
		rm -rf "$native/downloads/partial" && mkdir -p "$native/downloads/partial"
		if python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 311 --implementation cp --abi cp311 \
			--abi none --platform manylinux1_x86_64 -d "$native/downloads/partial" "$spec"; then
			local got
			got=$(sha256sum "$native/downloads/partial/$2" | cut -d' ' -f1)
			[ "$got" = "$sum" ] || die "$2 has sha256 $got, expected $sum: the package index serves another file; nothing was installed"
			mv "$native/downloads/partial/$2" "$file"
			rmdir "$native/downloads/partial"
			return
		fi
	done
	die "could not download $spec by 'python3 -m pip download'; check the network or the pip configuration and run again"
}

# unpack ZIP PREFIX PATTERN DEST: the zip's files below PREFIX whose path matches PATTERN
unpack() {
	python3 - "$@" <<'PY'
import os, re, shutil, sys, zipfile
archive, prefix, pattern, dest = sys.argv[1:]
with zipfile.ZipFile(archive) as z:
    for name in z.namelist():
        if name.endswith("/") or not name.startswith(prefix) or not re.search(pattern, name):
            continue
        path = os.path.join(dest, name[len(prefix):])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with z.open(name) as f, open(path + ".tmp", "wb") as o:
            shutil.copyfileobj(f, o, 1 << 22)
        os.replace(path + ".tmp", path)
PY
}

torch_wheel=torch-2.1.0-cp311-cp311-manylinux1_x86_64.whl
fetch_torch() { fetch torch==2.1.0 $torch_wheel 2224622407ca52611cbc5b628106fde22ed8e679031f5a99ce286629fc696128; }

# --- libtorch -------------------------------------------------------------------------------------------------------
if [ -n "${LIBTORCH:-}" ]; then
	libtorch=$(cd "$LIBTORCH" 2>/dev/null && pwd) || die "LIBTORCH=$LIBTORCH is not a folder"
	header=$libtorch/include/torch/csrc/api/include/torch/version.h
	[ -f "$header" ] || die "LIBTORCH=$LIBTORCH has no include/torch/csrc/api/include/torch/version.h: it is not a libtorch"
	found=$(sed -n 's/^#define TORCH_VERSION "\([0-9.]*\).*/\1/p' "$header")
	[ -n "$found" ] || found=$(awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH)/ {printf "%s%s", s, $3; s="."}' "$header")
	[ "$found" = "$torch_version" ] || die "LIBTORCH=$LIBTORCH is libtorch $found; ldalign's binding (gotch v0.9.1) needs $torch_version exactly"
	[ -f "$libtorch/lib/libtorch_cpu.so" ] || die "LIBTORCH=$LIBTORCH has no lib/libtorch_cpu.so"
	if [ "$cuda" = 1 ] && [ ! -f "$libtorch/lib/libtorch_cuda.so" ]; then
		die "LIBTORCH=$LIBTORCH has no lib/libtorch_cuda.so: it is a CPU build; use one with CUDA, or unset LIBTORCH"
	fi
	if ! grep -q '_GLIBCXX_USE_CXX11_ABI *0' "$libtorch/include/c10/macros/cmake_macros.h" 2>/dev/null; then
		abi=$(nm -DC "$libtorch/lib/libc10.so" 2>/dev/null | grep -c '__cxx11' || true)
	else
		abi=0
	fi
	cxx11=0
	[ "${abi:-0}" -gt 20 ] && cxx11=1
	say "using libtorch $found at $libtorch (C++11 ABI: $cxx11)"
else
	libtorch=$native/libtorch-$torch_version
	cxx11=0
	if [ ! -f "$libtorch/complete-cpu" ]; then
		fetch_torch
		fetch nvidia-cuda-runtime-cu12==12.1.105 nvidia_cuda_runtime_cu12-12.1.105-py3-none-manylinux1_x86_64.whl \
			6e258468ddf5796e25f1dc591a31029fa317d97a0a94ed93468fc86301d61e40
		fetch nvidia-cuda-cupti-cu12==12.1.105 nvidia_cuda_cupti_cu12-12.1.105-py3-none-manylinux1_x86_64.whl \
			e54fde3983165c624cb79254ae9818a456eb6e87a7fd4d56a2352c24ee542d7e
		say "unpacking libtorch $torch_version (CPU part)"
		unpack "$native/downloads/$torch_wheel" torch/ '^torch/(include/|lib/lib(torch_cpu|c10|torch|gomp[^/]*)\.so)' "$libtorch"
		# libtorch_cpu.so of this package needs these two even without a GPU
		unpack "$native/downloads/nvidia_cuda_runtime_cu12-12.1.105-py3-none-manylinux1_x86_64.whl" nvidia/cuda_runtime/ \
			'lib/libcudart\.so\.12$' "$libtorch"
		unpack "$native/downloads/nvidia_cuda_cupti_cu12-12.1.105-py3-none-manylinux1_x86_64.whl" nvidia/cuda_cupti/ \
			'lib/libcupti\.so\.12$' "$libtorch"
		touch "$libtorch/complete-cpu"
	fi
	if [ "$cuda" = 1 ] && [ ! -f "$libtorch/complete-cuda" ]; then
		fetch_torch
		say "unpacking libtorch $torch_version (CUDA part)"
		unpack "$native/downloads/$torch_wheel" torch/ '^torch/lib/lib(torch_cuda|torch_cuda_linalg|c10_cuda|caffe2_nvrtc)\.so' "$libtorch"
		touch "$libtorch/complete-cuda"
	fi
fi

if [ "$cuda_runtime" = 1 ] && [ ! -d "$native/nvidia" ]; then
	say "installing CUDA 12.1, cuDNN 8 and NCCL: 2.8 GB"
	rm -rf "$native/nvidia.partial"
	python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --target "$native/nvidia.partial" \
		-r "$here/cuda.txt" || die "could not install CUDA by pip; the message above says why. Run the same command again"
	mv "$native/nvidia.partial/nvidia" "$native/nvidia"
	rm -rf "$native/nvidia.partial"
fi

# --- what only the CUDA build compiles ------------------------------------------------------------------------------
# Only the CUDA build links models/tensor/cuda. It needs the headers of NVIDIA's packages, not their libraries.
cuda_object=$native/cuda/nccl.o
if [ "$cuda" = 1 ]; then
	headers=$native/cuda/include
	if [ ! -f "$headers/complete" ]; then
		runtime=nvidia_cuda_runtime_cu12-12.1.105-py3-none-manylinux1_x86_64.whl
		nvcc=nvidia_cuda_nvcc_cu12-12.1.105-py3-none-manylinux1_x86_64.whl
		nccl=nvidia_nccl_cu12-2.18.1-py3-none-manylinux1_x86_64.whl
		fetch nvidia-cuda-runtime-cu12==12.1.105 $runtime 6e258468ddf5796e25f1dc591a31029fa317d97a0a94ed93468fc86301d61e40
		fetch nvidia-cuda-nvcc-cu12==12.1.105 $nvcc a0712a05ffd57d9f017580ffcc808b207f7f4ef7a5ca8ac1312318b153739a18
		say "NCCL's header comes with its library: downloading 210 MB, keeping the header"
		fetch nvidia-nccl-cu12==2.18.1 $nccl 1a6c4acefcbebfa6de320f412bf7866de856e786e0462326ba1bac40de0b5e71
		unpack "$native/downloads/$runtime" nvidia/cuda_runtime/include/ '\.h(pp)?$' "$headers"
		unpack "$native/downloads/$nvcc" nvidia/cuda_nvcc/include/ '\.h(pp)?$' "$headers"
		unpack "$native/downloads/$nccl" nvidia/nccl/include/ '\.h$' "$headers"
		# models/tensor/cuda/include declares what is needed of these two headers, see models/tensor/cuda/nccl.cpp
		rm -f "$headers"/cuda_fp16.h "$headers"/cuda_bf16.h "$native/downloads/$nccl" "$native/downloads/$nvcc"
		touch "$headers/complete"
	fi
	sources=$(cat "$root"/models/tensor/cuda/nccl.cpp "$root"/models/tensor/cuda/include/*.h "$root/models/tensor/collectives.h" |
		sha256sum | cut -d' ' -f1)
	if [ "$(cat "$native/cuda/nccl.sources" 2>/dev/null)" != "$sources $libtorch $cxx11" ]; then
		say "compiling models/tensor/cuda/nccl.cpp"
		g++ -std=c++17 -O2 -fPIC -Wall -I"$root/models/tensor/cuda/include" -isystem "$headers" -isystem "$libtorch/include" \
			-isystem "$libtorch/include/torch/csrc/api/include" -D_GLIBCXX_USE_CXX11_ABI=$cxx11 \
			-c "$root/models/tensor/cuda/nccl.cpp" -o "$cuda_object.tmp"
		mv "$cuda_object.tmp" "$cuda_object"
		echo "$sources $libtorch $cxx11" >"$native/cuda/nccl.sources"
	fi
fi

# --- link stubs -----------------------------------------------------------------------------------------------------
# gotch's libtch always has CUDA libraries in its link flags. Empty archives satisfy the linker.
stubs=$native/stubs
if [ ! -f "$stubs/complete" ]; then
	mkdir -p "$stubs"
	for name in cuda cudart cublas cudnn caffe2_nvrtc nvrtc-builtins nvrtc nvToolsExt c10_cuda torch_cuda torch; do
		rm -f "$stubs/lib$name.a"
		ar rc "$stubs/lib$name.a"
	done
	touch "$stubs/complete"
fi

# --- tokenizer library ----------------------------------------------------------------------------------------------
# models/tokenizer/bridge, with Hugging Face's tokenizers and minijinja from crates.io as its Cargo.lock pins them. The folder
# cargo/ is kept, so that a change of the crate builds in seconds.
libraries=$native/lib
bridge=$root/models/tokenizer/bridge
sources=$(cd "$bridge" && find Cargo.toml Cargo.lock src -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1)
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
	rm -f "$root/bin/ldalign" "$root/bin/ldalign-cuda"
	go clean -testcache
fi

# --- flags ----------------------------------------------------------------------------------------------------------
# These must stay the same from build to build: Go compiles libtch (3 to 4 minutes) again whenever they change.
cxxflags="-O2 -I$libtorch/include -I$libtorch/include/torch/csrc/api/include -D_GLIBCXX_USE_CXX11_ABI=$cxx11"
ldflags="-Wl,--as-needed -L$stubs -L$libraries -L$libtorch/lib -Wl,-rpath,$libtorch/lib"
# The CUDA build differs in its last link only, which has one more object. It names the libraries by path, because the stubs would satisfy
# -ltorch_cuda. The loader finds CUDA, cuDNN and NCCL by the run path of libtorch_cuda.so.
cuda_link="$cuda_object -Wl,--allow-shlib-undefined -Wl,--no-as-needed $libtorch/lib/libtorch_cuda.so $libtorch/lib/libc10_cuda.so"
cudart=$(find "$libtorch/lib" -maxdepth 1 -name 'libcudart*.so*' | sort | head -n 1)
cuda_link="$cuda_link -Wl,--as-needed $cudart"
write() { # write FILE: from standard input, only when it changes
	cat >"$1.tmp"
	if cmp -s "$1.tmp" "$1"; then rm "$1.tmp"; else mv "$1.tmp" "$1"; fi
}
write "$native/env.sh" <<ENV
# written by ops/native/native.sh: the cgo flags of the CPU build. Use: source $native/env.sh
export CGO_ENABLED=1
export CGO_CXXFLAGS="$cxxflags"
export CGO_LDFLAGS="$ldflags"
ENV
write "$native/env-cuda.sh" <<ENV
# written by ops/native/native.sh: the flags of the CUDA build. Use: source $native/env-cuda.sh, then
# go build -ldflags "-extldflags '\$LDALIGN_EXTLDFLAGS'" ...
source $native/env.sh
export LDALIGN_EXTLDFLAGS="$cuda_link"
ENV

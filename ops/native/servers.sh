#!/usr/bin/env bash
# Builds the servers that the integration tests start as processes: nats-server and MinIO, each at a pinned version.
#
#   ops/native/servers.sh           build what is missing
#   ops/native/servers.sh --check   say what is missing, change nothing; exit 1 if something is
#
# Settings (environment):
#   LDALIGN_NATIVE  folder for everything fetched and built; the servers go to its servers/   (default: .native in the checkout)
#
# Neither is linked into ldalign. MinIO is AGPL and no longer maintained: it only ever runs here as a process of its own.
# A binary is built under a temporary name and renamed when complete. A run that was interrupted builds what is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
servers=${LDALIGN_NATIVE:-$root/.native}/servers
check=0
for arg in "$@"; do
	case $arg in
	--check) check=1 ;;
	*) echo "servers: unknown argument $arg (see the head of $0)" >&2; exit 2 ;;
	esac
done

say() { printf 'servers: %s\n' "$*" >&2; }
die() { printf 'servers: %s\n' "$*" >&2; exit 1; }

# present NAME VERSION: the binary exists and was built from this version
present() { [ -x "$servers/$1" ] && [ "$(cat "$servers/$1.version" 2>/dev/null)" = "$2" ]; }

# build NAME PACKAGE VERSION HOW-LONG
build() {
	local name=$1 package=$2 version=$3 duration=$4 started=$SECONDS
	present "$name" "$version" && return
	if [ "$check" = 1 ]; then
		say "$name $version is missing: run ops/native/servers.sh (about $duration)"
		missing=1
		return
	fi
	say "building $name $version from source: about $duration on two cores, once"
	rm -rf "$servers/partial" && mkdir -p "$servers/partial"
	# outside of any module, so that this checkout's go.mod does not affect the server's dependencies
	(cd "$servers/partial" && GOBIN=$servers/partial GOWORK=off CGO_ENABLED=0 go install -trimpath "$package@$version") ||
		die "go could not build $package@$version; the message above says why. Run the same command again: it continues from there"
	rm -f "$servers/$name.version"
	mv "$servers/partial/$name" "$servers/$name"
	printf '%s\n' "$version" >"$servers/$name.version"
	rm -rf "$servers/partial"
	say "$name is at $servers/$name ($((SECONDS - started)) s)"
}

missing=0
if [ "$check" = 0 ]; then
	command -v go >/dev/null 2>&1 || die "go is missing: install Go 1.26 or newer and run the same command again"
	mkdir -p "$servers"
	servers=$(cd "$servers" && pwd) # GOBIN must be absolute
	exec 9>"$servers/lock"
	flock 9 # two builds in one checkout take turns
fi
build nats-server github.com/nats-io/nats-server/v2 v2.15.2 "two minutes"
build minio github.com/minio/minio v0.0.0-20260212201848-7aac2a2c5b7c "five minutes"
exit "$missing"

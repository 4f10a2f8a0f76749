#!/bin/sh
# generate.sh         checks events.proto, generates events.pb.go and takes the new messages into events.binpb
# generate.sh check   checks events.proto and that both files are current; changes nothing
#
# events.binpb holds the messages as they were last accepted. A change that would break readers of old logs is refused
# against it: add a field with a new number instead. To break on purpose, as before a first release, delete the file.
set -eu
cd "$(dirname "$0")"

buf() { go run -p 1 github.com/bufbuild/buf/cmd/buf@v1.75.0 "$@"; }

buf lint
if [ -f events.binpb ]; then
  buf breaking --against events.binpb
fi

if [ "${1:-}" != check ]; then
  buf generate
  buf build --as-file-descriptor-set --exclude-source-info -o events.binpb
  exit
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
buf generate -o "$tmp"
buf build --as-file-descriptor-set --exclude-source-info -o "$tmp/events.binpb"
for file in events.pb.go events.binpb; do
  if ! cmp -s "$file" "$tmp/$file"; then
    echo "schemas/events/$file is not current: run make proto" >&2
    exit 1
  fi
done

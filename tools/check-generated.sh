#!/bin/bash
# Fails, and shows the difference, if `make generate` would change anything.
#
# It works on copies, with every generated file deleted in the one that is generated anew. So it touches nothing
# here, it does not mind files that are not committed yet, and it finds an output whose source is gone.
set -euo pipefail
cd "$(dirname "$0")/.."

copies=$(mktemp -d)
trap 'rm -rf "$copies"' EXIT
mkdir "$copies/now" "$copies/generated"
# Both copies come from one reading: an edit made meanwhile must not look like a change by a generator.
tar -c --exclude=./.git --exclude=./bin . | tar -x -C "$copies/now"
cp -a "$copies/now/." "$copies/generated"

find "$copies/generated" -type f \( -name '*.pb.go' -o -name '*.connect.go' -o -name '*_bpfe[lb].*' \) -delete
make -C "$copies/generated" --no-print-directory generate

if ! diff -rN -u "$copies/now" "$copies/generated"; then
	echo "Generated files differ from their sources: run 'make generate' and commit what it changes." >&2
	exit 1
fi
echo "Generated files are up to date."

#!/bin/bash
# Installs by apt the Debian packages named as arguments, those that are missing only, and says which.
# A Makefile target calls it with what that target needs, so that nobody installs a compiler to run a demo.
set -euo pipefail

missing=()
for package in "$@"; do
	status=
	if command -v dpkg-query >/dev/null; then
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || true
	fi
	[[ $status == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

fail() {
	echo "This needs the Debian packages ${missing[*]}, and $1" >&2
	exit 1
}
command -v apt-get >/dev/null || fail "this computer has no apt-get: install what they hold by hand."
((EUID == 0)) || fail "installing them needs root: run 'sudo make deps' once."

echo "Installing by apt: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Two targets of one make -j may come here together: the second waits for the first one's lock.
apt-get -q -o DPkg::Lock::Timeout=300 update ||
	fail "'apt-get update' failed: see its message above."
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" ||
	fail "'apt-get install' failed: see its message above."

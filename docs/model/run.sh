#!/bin/bash
# Checks the model: every way in which the steps, faults and late transactions of a run can follow each other, within
# the bounds of each line below. Then breaks it: each mutation leaves out one thing that the design rests on, and spin has to
# find what goes wrong then. Needs spin and gcc.
set -euo pipefail
model=$(realpath "$(dirname "$0")/move.pml")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# check NAME [-D...]: one exhaustive search; prints how many states it went through, and the assertion that failed, if one
# did. Status 1: one did. What is no verdict (out of memory, out of depth) ends the script.
check() {
	local name=$1
	shift
	spin -a "$@" "$model" >spin.log || { cat spin.log >&2; exit 2; }
	gcc -O1 -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM=6000 -o pan pan.c
	./pan -m200000 -w24 >pan.log || { cat pan.log >&2; exit 2; }
	if grep -q 'max search depth too small\|out of memory\|aborted' pan.log; then
		cat pan.log >&2
		exit 2
	fi
	local states
	states=$(awk '/states, stored/ { print $1 }' pan.log)
	if grep -q 'errors: 0$' pan.log; then
		printf '%-28s %9s states\n' "$name" "$states"
		return 0
	fi
	printf '%-28s %9s states, then: %s\n' "$name" "$states" "$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' pan.log | cut -c1-80)"
	return 1
}

# bounds of RUN: how often each thing may happen.
bounds() {
	case $1 in
	moves) echo -DBEGINS=2 -DABORTS=1 -DCRASHES=1 -DLOSSES=1 ;;
	news) echo -DBEGINS=2 -DABORTS=0 -DCRASHES=0 -DLOSSES=1 -DNEWS=1 ;;
	destroys) echo -DBEGINS=1 -DABORTS=1 -DCRASHES=1 -DLOSSES=1 -DDESTROYS=2 ;;
	deaths) echo -DBEGINS=1 -DABORTS=0 -DCRASHES=1 -DLOSSES=1 -DDEATHS=1 -DCLAIMS=1 ;;
	esac
}

echo "What must hold, with:"
for run in moves news destroys deaths; do
	read -ra bounds < <(bounds "$run")
	check "$run" "${bounds[@]}" || { echo "the model does not hold: $run" >&2; exit 1; }
done

echo "Broken on purpose:"
broken=0
while read -r run mutation; do
	read -ra bounds < <(bounds "$run")
	if check "$mutation" "${bounds[@]}" "-DMUTATE_$mutation"; then
		echo "$mutation breaks nothing: the model does not see what it is about" >&2
		exit 1
	fi
	broken=$((broken + 1))
done <<-END
	moves NO_REVISION_CHECK
	news NO_EPOCH_CHECK
	moves READY_UNCHECKED
	moves CHECK_UNLOCKED
	moves DELIVER_EARLY
	moves GUESS
	destroys DESTROY_UNRECORDED
	destroys FREE_EARLY
	deaths CLAIM_FROM_THE_LIVING
	deaths REVIVE_UNFENCED
END
echo "held: one owner per epoch, one deliverer, no delivery before the switchover, no flip undone after a commit, no machine lost, no belief left stale, no id issued twice; $broken of $broken mutations found"

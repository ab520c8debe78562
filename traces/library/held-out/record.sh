#!/bin/bash
# Records the held-out programs again: none of them was looked at when a constant of the fits was chosen.
#
#   record.sh [-m MIGBED] [-o DIRECTORY]
#
# Packages: python3 coreutils xz-utils. two minutes each, one after another; nothing is left but the recordings.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
migbed=migbed
out=$here
while getopts m:o: option; do
	case $option in
	m) migbed=$(realpath "$OPTARG") ;;
	o) out=$(realpath "$OPTARG") ;;
	*) exit 2 ;;
	esac
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/orders.py" "$work"
cd "$work"

# record NAME TITLE COMMAND…
record() {
	local name=$1 title=$2
	shift 2
	# Commands stand in the recording as they are given here, so they name nothing of this computer.
	"$migbed" trace record -o "$out/$name.mbpw" --title "$title" --duration 120s -- "$@" >"$work/$name.log" 2>&1 ||
		{ tail "$work/$name.log"; exit 1; }
	echo "== $name"
	tail -n 4 "$work/$name.log"
}

record orders "python3: an order book in memory, 60,000 orders, changes and replacements" python3 orders.py

# Lines of 3 to 60 characters, the same ones each time.
python3 - "$work/text" <<'PROGRAM'
import random, sys
draw = random.Random(7)
with open(sys.argv[1], "w") as text:
    for _ in range(400_000):
        text.write("".join(draw.choices("abcdefghij klmnop", k=draw.randint(3, 60))) + "\n")
PROGRAM
export LC_ALL=C
record sort "sort (coreutils): 400,000 lines, over and over, 1 s apart" \
	sh -c "while :; do sort -S 48M --parallel=1 -T . text >/dev/null; sleep 1; done"
record xz "xz -4: 13 MB of text, over and over" sh -c "while :; do xz -4 -T1 -c text >/dev/null; done"

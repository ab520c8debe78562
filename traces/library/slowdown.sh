#!/bin/bash
# What recording costs redis: redis-benchmark against a redis-server alone and one being recorded, in turn.
#
#   slowdown.sh MIGBED [PAIRS [COMMAND…]]     (default 9 pairs; the commands of redis-benchmark -t)
#
# Prints requests/s of each run and the median of each pair's ratio. Package: redis-server.
set -eu
migbed=$(realpath "$1")
pairs=${2:-9}
tests=${3:-set,get}
work=$(mktemp -d)
server=
clean() {
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap clean EXIT

# run KIND: one benchmark; appends "TEST REQUESTS/S" lines to $work/KIND.
run() {
	local redis=(redis-server --port 7721 --bind 127.0.0.1 --save '' --appendonly no --dir "$work")
	if [ "$1" = alone ]; then
		"${redis[@]}" >/dev/null 2>&1 &
	else
		"$migbed" trace record -o "$work/r.mbpw" -- "${redis[@]}" >"$work/recorder" 2>&1 &
	fi
	server=$!
	until redis-cli -p 7721 ping 2>/dev/null | grep -q PONG; do sleep 0.1; done
	# The keys are there before anything is timed.
	redis-benchmark -p 7721 -t set -r 100000 -n 150000 -d 512 -c 8 -q >/dev/null 2>&1
	redis-benchmark -p 7721 -t "$tests" -r 100000 -n 150000 -d 512 -c 8 --csv 2>/dev/null |
		tr -d '"' | awk -F, 'NR > 1 { print $1, $2 }' >>"$work/$1"
	kill -TERM "$server"
	wait "$server" || true
	server=
}

for pair in $(seq "$pairs"); do
	# Who goes first alternates.
	if [ $((pair % 2)) = 0 ]; then run alone; run recorded; else run recorded; run alone; fi
done
tail -n 2 "$work/recorder" | head -n 1
paste -d ' ' "$work/alone" "$work/recorded" | sort -k1,1 -s | awk '
	{ ratio = $4 / $2; print $1, $2, $4, ratio; list[$1] = list[$1] " " ratio }
	END {
		for (test in list) {
			n = split(list[test], r, " ")
			for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (r[j] < r[i]) { t = r[i]; r[i] = r[j]; r[j] = t }
			m = n % 2 ? r[(n + 1) / 2] : (r[n / 2] + r[n / 2 + 1]) / 2
			printf "%s: %.1f %% of the requests/s (median of %d pairs; %.1f to %.1f %%)\n", test, m * 100, n, r[1] * 100, r[n] * 100
		}
	}'

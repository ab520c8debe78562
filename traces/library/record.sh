#!/bin/bash
# Records the library again: real programs of Debian 12 under real load, 100 ms ticks, three minutes of load, one file each.
#
#   record.sh [-m MIGBED] [-o DIRECTORY] [PROGRAM…]
#
# Packages: redis-server memcached postgresql nginx wrk sqlite3 openjdk-17-jdk-headless gcc-12 python3 bash.
# Traffic stays on the loopback device. Nothing is left running, nothing is kept but the recordings.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
load=load
seconds=180
migbed=migbed
out=$here
while getopts m:o: option; do
	case $option in
	m) migbed=$(realpath "$OPTARG") ;;
	o) out=$(realpath "$OPTARG") ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))

work=$(mktemp -d)
chmod 755 "$work"
cp -r "$here/load" "$work"
# Commands stand in the recording as they are given here, so they name nothing of this computer.
cd "$work"
recorder=
clean() {
	[ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true
	wait
	cd /
	rm -rf "$work"
}
trap clean EXIT

# record NAME PACKAGE LOAD COMMAND…: starts a recording in the background.
record() {
	local name=$1 title
	title="$2 $(dpkg-query -W -f '${Version}' "$2"): $3"
	shift 3
	"$migbed" trace record -o "$out/$name.mbpw" --title "$title" --duration 300s -- "$@" >"$work/$name.log" 2>&1 &
	recorder=$!
}
# ends it in good order and says what came out.
finish() {
	kill -TERM "$recorder" 2>/dev/null || true
	wait "$recorder" || { tail "$work/$1.log"; exit 1; }
	recorder=
	echo "== $1"
	tail -n 4 "$work/$1.log"
}
# Waits until somebody listens on a port.
listening() {
	local tries=0
	until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || { echo "nobody listens on port $1"; exit 1; }
		sleep 0.1
	done
}

record_redis() {
	record redis redis-server "60,000 records, 3,000 requests/s, half SET, Zipf 0.99" \
		redis-server --port 7711 --bind 127.0.0.1 --save '' --appendonly no --dir .
	listening 7711
	python3 $load/kv.py redis 7711 60000 $seconds 3000 0.5
	finish redis
}

record_memcached() {
	record memcached memcached "30,000 records, 3,000 requests/s, 10 % set, Zipf 0.99" \
		memcached -u nobody -l 127.0.0.1 -p 7712 -m 64 -t 2 -U 0
	listening 7712
	python3 $load/kv.py memcached 7712 30000 $seconds 3000 0.1
	finish memcached
}

record_postgresql() {
	local bin as=
	bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
	mkdir pg
	if [ "$(id -u)" = 0 ]; then
		chown postgres pg
		as="runuser -u postgres --"
	fi
	$as "$bin/initdb" -D pg/data -A trust -U bench >/dev/null
	# The data are made before the recording starts: the database is as warm as after a restart.
	$as "$bin/pg_ctl" -D pg/data -o "-p 7713 -k ''" -w start >/dev/null
	$as "$bin/createdb" -h 127.0.0.1 -p 7713 -U bench bench
	"$bin/pgbench" -h 127.0.0.1 -p 7713 -U bench -i -s 10 -q bench >/dev/null 2>&1
	$as "$bin/pg_ctl" -D pg/data -w stop >/dev/null
	# shellcheck disable=SC2086
	record postgresql "$(basename "$(ls -d /usr/lib/postgresql/* | tail -n 1)" | sed s/^/postgresql-/)" "pgbench TPC-B, scale 10, 4 clients, 60 transactions/s" \
		$as "$bin/postgres" -D pg/data -p 7713 -k '' -h 127.0.0.1
	listening 7713
	sleep 5
	"$bin/pgbench" -h 127.0.0.1 -p 7713 -U bench -c 4 -R 60 -T $seconds bench 2>&1 | grep -E 'tps|latency average' || true
	sleep 5
	finish postgresql
}

record_sqlite() {
	mkfifo sql
	record sqlite sqlite3 "100,000 rows made, then 150 statements/s (inserts, updates, deletes, sums)" \
		sh -c "exec sqlite3 orders.db <sql >/dev/null"
	python3 $load/sql.py $seconds 150 >sql
	wait "$recorder" || true
	finish sqlite
}

record_nginx() {
	mkdir www
	for number in $(seq 200); do
		seq "$number" $((number * 40)) >"www/$number.txt"
	done
	cat >nginx.conf <<-CONF
		daemon off;
		worker_processes 2;
		pid $work/nginx.pid;
		error_log $work/nginx.err;
		events { worker_connections 256; }
		http {
		  access_log $work/access.log;
		  gzip on; gzip_types text/plain; gzip_comp_level 5;
		  server { listen 127.0.0.1:7714; root $work/www; }
		}
	CONF
	cat $load/paced.lua - >nginx.lua <<-'LUA'
		wrk.headers["Accept-Encoding"] = "gzip"
		function request()
		  return wrk.format(nil, "/" .. math.random(1, 200) .. ".txt")
		end
	LUA
	record nginx nginx "200 text files, gzip, wrk with 16 connections and pauses" nginx -p . -c nginx.conf
	listening 7714
	sleep 3
	wrk -t 1 -c 16 -d ${seconds}s -s nginx.lua http://127.0.0.1:7714/ | grep Requests/sec
	sleep 3
	finish nginx
}

record_compiler() {
	local files=300
	mkdir src
	# A program of some size made on the spot from what every C compiler has: functions over all
	# of the system's headers, as a project of 300 files would have them.
	for number in $(seq $files); do
		{
			for header in stdio stdlib string math time errno signal unistd fcntl pthread netdb poll \
				sys/socket sys/stat sys/mman netinet/in arpa/inet wchar locale regex glob dirent; do
				echo "#include <$header.h>"
			done
			for function in $(seq $((20 + number * 7 % 60))); do
				cat <<-C
					static double f${function}(double *a, int n, const char *s) {
					  double sum = strlen(s); struct stat st; char b[256];
					  for (int i = 0; i < n; i++) for (int j = i; j < n; j += ${function})
					    sum += a[i] * sin(a[j] + $number) / (1 + fabs(a[(i * j) % n]));
					  if (!stat(s, &st)) sum += snprintf(b, sizeof b, "%s %ld", s, (long)st.st_size);
					  switch (n % 7) { case 0: return sum; case 1: sum *= 2; case 2: return sqrt(sum); default: break; }
					  qsort(a, n, sizeof *a, (int (*)(const void *, const void *))memcmp); return sum + b[0]; }
				C
			done
			echo "double all_$number(double *a, int n, const char *s) { return 0"
			for function in $(seq $((20 + number * 7 % 60))); do echo "+ f$function(a, n, s)"; done
			echo "; }"
		} >"src/file$number.c"
	done
	record compiler gcc-12 "-O2, $files files, one after the other" \
		sh -c 'cd src && for file in *.c; do gcc-12 -O2 -g -w -c "$file"; done'
	wait "$recorder" || true
	finish compiler
}

record_java() {
	javac -d java $load/Service.java
	record java openjdk-17-jdk-headless "JSON service, 20,000 sessions, G1 with 96 MiB, wrk with 8 connections and pauses" \
		java -Xmx96m -XX:+UseG1GC -cp java Service 7715
	listening 7715
	sleep 3
	wrk -t 1 -c 8 -d ${seconds}s -s $load/paced.lua http://127.0.0.1:7715/ | grep Requests/sec
	sleep 3
	finish java
}

record_stencil() {
	gcc-12 -O2 -o stencil $load/stencil.c
	record stencil gcc-12 "compiled five-point stencil, two grids of 18 MiB" ./stencil $seconds
	wait "$recorder" || true
	finish stencil
}

record_shell() {
	record shell bash "interactive, a command every 12 s" sh -c "sh load/shell.sh | bash --norc -i"
	wait "$recorder" || true
	finish shell
}

[ $# -gt 0 ] || set -- redis memcached postgresql sqlite nginx compiler java stencil shell
for program; do
	"record_$program"
done

#!/bin/sh
# What somebody types who is mostly away: a command now and then.
for round in 1 2 3; do
	for command in date 'ls -l /' uptime 'df -h' 'ps ax | tail -3' 'head -c 300000 /dev/zero | md5sum'; do
		sleep 12
		echo "$command"
	done
done
sleep 15

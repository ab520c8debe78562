#!/usr/bin/env python3
"""Load for redis and memcached over their own protocols, at a steady rate.

kv.py {redis|memcached} PORT KEYS LOAD_S RATE SET_SHARE: stores KEYS values, then for LOAD_S seconds does RATE
requests a second, SET_SHARE of them stores, keys by Zipf 0.99. Values are records as services keep them: field
names, words and numbers, 200 to 2,000 bytes. Seeded: the same requests each time.
"""
import bisect, json, random, socket, sys, time

kind, port, keys, load_s, rate, set_share = sys.argv[1], *map(float, sys.argv[2:7])
keys, rng = int(keys), random.Random(1)
WORDS = ("order user session item price stock region cart payment status created updated shipped address "
         "customer product quantity discount invoice token active pending closed warehouse").split()


def value():
    record = {"id": rng.getrandbits(64), "created": 1.7e9 + rng.random() * 1e7, "hash": f"{rng.getrandbits(128):032x}"}
    for _ in range(int(rng.paretovariate(1.5) * 4) % 40 + 2):
        record[rng.choice(WORDS)] = [rng.choice(WORDS), rng.randrange(100000), round(rng.random(), 4)]
    return json.dumps(record).encode()


def store(key, data):
    if kind == "redis":
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(data), data)
    return b"set %s 0 0 %d\r\n%s\r\n" % (key, len(data), data)


def fetch(key):
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key) if kind == "redis" else b"get %s\r\n" % key


def answer(stream, stored):
    line = stream.readline()
    if stored:
        assert line in (b"+OK\r\n", b"STORED\r\n"), line
    elif kind == "redis":
        assert line.startswith(b"$"), line
        if line != b"$-1\r\n":
            stream.read(int(line[1:]) + 2)
    elif line.startswith(b"VALUE"):
        stream.read(int(line.split()[3]) + 2)
        assert stream.readline() == b"END\r\n"


connection = socket.create_connection(("127.0.0.1", int(port)))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
stream = connection.makefile("rb")
name = lambda number: b"key:%08d" % number
for first in range(0, keys, 50):
    numbers = range(first, min(first + 50, keys))
    connection.sendall(b"".join(store(name(number), value()) for number in numbers))
    for _ in numbers:
        answer(stream, True)
shares, total = [], 0.0
for rank in range(1, keys + 1):
    total += rank ** -0.99
    shares.append(total)
order = list(range(keys))
rng.shuffle(order)
time.sleep(5)
start, done = time.monotonic(), 0
while (now := time.monotonic() - start) < load_s:
    due = min(int(now * rate) - done, 20)
    if due <= 0:
        time.sleep(0.002)
        continue
    batch = [(name(order[bisect.bisect(shares, rng.random() * total) % keys]), rng.random() < set_share) for _ in range(due)]
    connection.sendall(b"".join(store(key, value()) if stored else fetch(key) for key, stored in batch))
    for _, stored in batch:
        answer(stream, stored)
    done += due
print(f"{done / load_s:.0f} requests/s")
time.sleep(5)

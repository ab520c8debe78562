#!/usr/bin/env python3
"""SQL for the sqlite3 shell at a steady rate: orders inserted, updated, deleted and summed. sql.py SECONDS RATE"""
import random, sys, time

seconds, rate, rng = float(sys.argv[1]), float(sys.argv[2]), random.Random(1)
out = sys.stdout
out.write("PRAGMA journal_mode=WAL; PRAGMA cache_size=-32000; PRAGMA synchronous=OFF;"
          "CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INT, total REAL, note TEXT);"
          "CREATE INDEX by_customer ON orders(customer); BEGIN;\n")
for number in range(100000):
    out.write(f"INSERT INTO orders VALUES({number},{rng.randrange(5000)},{rng.random():.4f},'order {rng.getrandbits(96):x}');\n")
out.write("COMMIT;\n")
out.flush()
time.sleep(8)
start, done, number = time.monotonic(), 0, 100000
while (now := time.monotonic() - start) < seconds:
    if done >= now * rate:
        time.sleep(0.005)
        continue
    done += 1
    kind, row = rng.random(), int(rng.paretovariate(0.3)) % number
    if kind < 0.3:
        out.write(f"INSERT INTO orders VALUES({number},{rng.randrange(5000)},{rng.random():.4f},'order {rng.getrandbits(96):x}');\n")
        number += 1
    elif kind < 0.7:
        out.write(f"UPDATE orders SET total=total+1 WHERE id={row};\n")
    elif kind < 0.75:
        out.write(f"DELETE FROM orders WHERE id={row};\n")
    else:
        out.write(f"SELECT sum(total) FROM orders WHERE customer={rng.randrange(5000)};\n")
    out.flush()

"""An order book in memory: most changes go to few orders, now and then one is replaced by a new one."""

import random
import time

draw = random.Random(11)
book = {number: {"price": draw.random(), "left": 100, "log": []} for number in range(60_000)}
numbers = list(book)
last = len(numbers)
while True:
    started = time.monotonic()
    for _ in range(2_000):
        place = int(len(numbers) * draw.random() ** 4)
        order = book[numbers[place]]
        order["price"] += draw.gauss(0, 0.01)
        order["left"] -= 1
        if order["left"] == 0:
            order["left"] = 100
            order["log"].append((order["price"], last))
        if draw.random() < 0.05:
            del book[numbers[place]]
            book[last] = {"price": draw.random(), "left": 100, "log": []}
            numbers[place] = last
            last += 1
    time.sleep(max(0.0, started + 0.05 - time.monotonic()))

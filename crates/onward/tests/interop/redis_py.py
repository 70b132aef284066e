"""redis-py's own Lock, as a peer: `count`, `try`, `hold` or, for the benchmark, `cycle` on one key. Needs the package redis."""

import sys
import time

import redis


def count(client, key, rounds):
    """Adds one to a counter, in two steps, under the lock; ends with 1 if somebody else was inside."""
    for _ in range(rounds):
        with client.lock(key, timeout=10, sleep=0.002, blocking_timeout=60):
            if not client.set(key + ":inside", "redis-py", nx=True):
                sys.exit("redis-py was let in beside another holder")
            before = int(client.get(key + ":count") or 0)
            time.sleep(0.001)
            client.set(key + ":count", before + 1)
            client.delete(key + ":inside")
    print("counted", rounds, flush=True)


def attempt(client, key):
    """Says whether one attempt gets the lock."""
    lock = client.lock(key, timeout=10)
    if lock.acquire(blocking=False):
        lock.release()
        print("free", flush=True)
    else:
        print("held", flush=True)


def hold(client, key):
    """Holds the lock until a line comes in, and says whether it was still there."""
    lock = client.lock(key, timeout=60)
    if not lock.acquire(blocking=False):
        sys.exit("the key is held")
    print("holding", flush=True)
    sys.stdin.readline()
    try:
        lock.release()
        print("released", flush=True)
    except redis.exceptions.LockNotOwnedError:
        print("lost", flush=True)


def cycle(client, key, rounds):
    """Takes and gives back the lock, alone; says the median in nanoseconds."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter_ns()
        lock = client.lock(key, timeout=10)
        if not lock.acquire(blocking=False):
            sys.exit("the key is held")
        lock.release()
        times.append(time.perf_counter_ns() - begun)
    print(sorted(times)[len(times) // 2], flush=True)


def main():
    mode, url, key = sys.argv[1:4]
    client = redis.Redis.from_url(url, decode_responses=True)
    if mode == "count":
        count(client, key, int(sys.argv[4]))
    elif mode == "cycle":
        cycle(client, key, int(sys.argv[4]))
    elif mode == "try":
        attempt(client, key)
    else:
        hold(client, key)


main()

"""Threads that free each other's blocks, threads that come and go, children started by threads."""

import json
import queue
import random
import subprocess
import threading
import zlib


def pipeline():
    """Blocks of all sizes are made in four threads and dropped in four others."""
    channels = [queue.Queue(maxsize=64) for _ in range(4)]
    sums = [0] * 4

    def produce(number):
        random_source = random.Random(number)
        for _ in range(3000):
            size = random_source.choice((16, 100, 700, 5000, 40000, 300000 if random_source.random() < 0.02 else 64))
            channels[number].put(bytes([size % 251]) * size)
        channels[number].put(None)

    def consume(number):
        kept = []
        while (block := channels[number].get()) is not None:
            sums[number] += zlib.crc32(block)
            kept.append(block)
            if len(kept) > 100:
                kept = kept[50:]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4) for work in (produce, consume)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("pipeline", sums)


def short_lives():
    """Many threads, each of which leaves blocks behind for the main thread."""
    left = {}

    def work(number):
        left[number] = [str(number) * (n % 50) for n in range(200)]

    for start in range(0, 400, 20):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(start, start + 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("short lives", len(left), sum(len(text) for texts in left.values() for text in texts))


def documents():
    """Nested containers, encoded and decoded in several threads."""
    results = [None] * 6

    def work(number):
        document = {f"key {n}": [n, n / 7, None, {"deep": list(range(n % 40))}] for n in range(2000)}
        for _ in range(3):
            document = json.loads(json.dumps(document, indent=1))
        results[number] = zlib.crc32(json.dumps(document).encode())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("documents", sorted(set(results)))


def children():
    """Other programs, started while all threads allocate."""
    outputs = [None] * 4

    def work(number):
        noise = [bytes(n) for n in range(2000)]
        outputs[number] = [
            subprocess.run(["sh", "-c", f"echo {number} {n}"], capture_output=True, text=True, check=True).stdout.strip()
            for n in range(5)
        ]
        del noise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("children", outputs)


pipeline()
short_lives()
documents()
children()

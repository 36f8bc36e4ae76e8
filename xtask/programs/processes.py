"""Worker processes, started while threads of the parent allocate: `processes.py fork|spawn`."""

import multiprocessing
import sys
import threading
import time


def crunch(number):
    """Builds and drops containers; the result depends on the number alone."""
    table = {n: str(n * number) * (n % 20) for n in range(3000)}
    blocks = [bytearray(n * 37 % 9000) for n in range(500)]
    return number, sum(map(len, table.values())), sum(map(len, blocks))


def echo(receiving, sending):
    """Sends back what it receives, reversed, until it receives nothing."""
    while (block := receiving.get()) is not None:
        sending.put(block[::-1])


def main(method):
    context = multiprocessing.get_context(method)
    stop = threading.Event()
    sys.setswitchinterval(0.0002)

    def noise():
        while not stop.is_set():
            blocks = [bytes(n % 3000) for n in range(300)]
            del blocks[::2]
            time.sleep(0.0005)

    threads = [threading.Thread(target=noise) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with context.Pool(3) as pool:
                print(pool.map(crunch, range(24), chunksize=2))
        sending, receiving = context.Queue(), context.Queue()
        child = context.Process(target=echo, args=(sending, receiving))
        child.start()
        total = 0
        for n in range(300):
            sending.put(bytes([n % 256, 1]) * (n * 11))
            total += len(receiving.get())
        sending.put(None)
        child.join()
        print("echoed", total, "exit code", child.exitcode)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1])

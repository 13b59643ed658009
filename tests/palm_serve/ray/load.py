"""Calls at a steady rate until a line arrives on standard input. Prints `begun` after the first answer, then how the calls ended as JSON.

python load.py TARGET
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from palm_serve.client import Client
from palm_serve.errors import PalmServeError

RATE = 25


def main() -> None:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    failures: list[str] = []
    calls = 0
    with Client(sys.argv[1], timeout_s=60) as client, ThreadPoolExecutor(64) as pool:

        def call() -> None:
            try:
                assert client.parse("play a song").intent.name == "music"
            except (PalmServeError, AssertionError) as error:
                failures.append(repr(error))

        call()
        print("begun", flush=True)
        began = time.monotonic()
        while not ended.is_set():
            pool.submit(call)
            calls += 1
            time.sleep(max(0.0, began + calls / RATE - time.monotonic()))
    print(json.dumps({"calls": calls + 1, "failures": failures}), flush=True)


if __name__ == "__main__":
    main()

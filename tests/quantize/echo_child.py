"""A child for `test_child`: does what it is asked."""

from __future__ import annotations

import os
import signal
import sys
import time

from foreshore import errors
from foreshore.quantize.channel import Json, Tell, serve


def work(job: Json, tell: Tell) -> Json:
    match job["do"]:
        case "echo":
            print("not an event")
            os.write(1, b"nor this\n")
            for number in range(job.get("steps", 0)):
                tell(number + 1, job["steps"])
            return {"text": job["text"], "size": len(job["text"]), "environment": os.environ.get("GREETING")}
        case "raise":
            raise getattr(errors, job["kind"])("it went wrong", hint="mend it")
        case "full":
            raise OSError(28, "No space left on device")
        case "greedy":
            bytearray(1 << 60)
        case "kill":
            print("the last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), job["signal"])
        case "stop":
            os._exit(job["code"])
        case "hang":
            tell(os.getpid(), 0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
    raise ValueError(f"nobody knows how to {job['do']}")


if __name__ == "__main__":
    serve(work)

"""More threads than processors, as GNU OpenMP counts them: then its threads soon sleep where they would spin.

At each wait the library compares the threads in its pools with the processors it was started with. With more threads it
spins a shorter time. A pool belongs to the thread that asked for it: one of ours asks for a pool that does nothing and
sleeps beside it, and what all others do at their barriers has changed. The pool ends with that thread.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

__all__ = ["Crowd"]

_LIBRARY = "libgomp"  # part of its file's name, wherever it was installed
_MAPS = Path("/proc/self/maps")


class Crowd:
    """`library` is GNU OpenMP or linked with it. One thread owns this.

    Raises `OSError` where it is not: there is nothing that could be changed.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        if not _MAPS.is_file() or _LIBRARY not in _MAPS.read_text():
            raise OSError("GNU OpenMP is not loaded")
        try:
            self._parallel, self._processors = library.GOMP_parallel, library.omp_get_num_procs
        except AttributeError as error:
            raise OSError(f"the engine is not linked with GNU OpenMP: {error}") from error
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        self._nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of a null pointer
        self._keeper: threading.Thread | None = None
        self._leave = threading.Event()
        self._size = 0  # of the pool that is there

    def gather(self, threads: int) -> None:
        """Make the waits of `threads` that compute short. Blocks until they are; at once if they are already."""
        # A pool of n counts n - 1 threads beside the one that asked for it, and the process's first thread counts.
        size = max(2, int(self._processors()) + 2 - threads)
        if size == self._size:
            return
        self.disperse()
        ready = threading.Event()
        self._keeper = threading.Thread(target=self._keep, args=(size, ready, self._leave), name="crowd", daemon=True)
        self._keeper.start()
        ready.wait()
        self._size = size

    def disperse(self) -> None:
        """Make them long again: the pool ends soon."""
        if self._keeper is None:
            return
        self._leave.set()
        self._keeper.join()
        self._keeper, self._size, self._leave = None, 0, threading.Event()

    def _keep(self, size: int, ready: threading.Event, leave: threading.Event) -> None:
        self._parallel(self._nothing, None, size, 0)
        ready.set()
        leave.wait()

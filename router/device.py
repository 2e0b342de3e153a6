"""This machine's state, sampled in the background: battery, heat, load, memory, and whether clouds can be reached."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import psutil

from foreshore.config import Config
from foreshore.router.facts import DeviceFacts
from foreshore.telemetry import logger

__all__ = ["DeviceSampler", "Host", "cloud_hosts", "connected"]

Host = tuple[str, int]
T = TypeVar("T")

TURNS = 2  # samples in a row that must agree before a yes becomes a no
KEPT = 3  # samples whose median counts, of what jumps
AGAIN_S = 1.0  # a sample that differs from what is said is checked so soon
CONNECT_S = 2.0
STOP_S = 3.0
ROUTES = Path("/proc/net/route")


class DeviceSampler:
    """`now` is what the last samples said. No method raises, and a machine that tells nothing has the defaults.

    `hosts` are tried by TCP, until one answers, to find out whether the machine is online; without any it is if an
    interface is up and there is a route out. One sample that says otherwise changes nothing: the next one comes sooner,
    and must say the same.
    """

    def __init__(
        self,
        every_s: float = 5.0,
        hosts: Iterable[Host] = (),
        *,
        sample: Callable[[], DeviceFacts] | None = None,
        reachable: Callable[[], bool] | None = None,
    ) -> None:
        """`sample` reads everything but `online`, which `reachable` does; both by default from this machine."""
        self.now = DeviceFacts()
        self._every_s = every_s
        self._sample = sample or _this_machine
        self._reachable = reachable or partial(connected, tuple(hosts))
        self._online, self._on_battery = _Steady(True), _Steady(False)
        self._celsius, self._cpu = _Middle(), _Middle()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._complained = False

    def start(self) -> None:
        """Twice is harmless."""
        if self._thread is None:
            self._stopping = threading.Event()
            self._thread = threading.Thread(target=self._run, name="foreshore-device", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread; waits for it, but not for a name server that does not answer."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(STOP_S)

    def turn(self) -> bool:
        """One sample. False if it is to be checked soon."""
        found = self._tried(self._sample, self.now)
        online = self._tried(self._reachable, self.now.online)
        self.now = DeviceFacts(
            battery_percent=found.battery_percent,
            on_battery=self._on_battery.see(found.on_battery),
            celsius=self._celsius.see(found.celsius),
            cpu_percent=self._cpu.see(found.cpu_percent),
            memory_percent=found.memory_percent,
            memory_free_bytes=found.memory_free_bytes,
            online=self._online.see(online),
        )
        return self._online.sure and self._on_battery.sure

    def _run(self) -> None:
        stopping = self._stopping
        while not stopping.is_set():
            sure = self.turn()
            stopping.wait(self._every_s if sure else min(AGAIN_S, self._every_s))

    def _tried(self, read: Callable[[], T], last: T) -> T:
        """A driver that answers nonsense must not end the sampling."""
        try:
            return read()
        except Exception as error:
            if not self._complained:
                self._complained = True
                logger.warning("a part of this machine's state cannot be read, the last one stays: %r", error)
            return last


class _Steady(Generic[T]):
    """A value that changes when it was seen changed `TURNS` times in a row; the first sample counts at once."""

    def __init__(self, value: T) -> None:
        self._value, self._turns = value, TURNS - 1

    @property
    def sure(self) -> bool:
        return self._turns == 0

    def see(self, value: T) -> T:
        self._turns = 0 if value == self._value else self._turns + 1
        if self._turns >= TURNS:
            self._value, self._turns = value, 0
        return self._value


class _Middle:
    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=KEPT)

    def see(self, value: float) -> float:
        self._values.append(value)
        return median(self._values)


def _this_machine() -> DeviceFacts:
    """Imports the runtime's own parts where they are used, in the sampler's thread: a gateway to clouds alone needs
    them for nothing else."""
    from foreshore.edge import machine
    from foreshore.edge.sensors import Sensors

    reading = Sensors()()
    free, total = machine.available(), machine.limit()
    return DeviceFacts(
        battery_percent=100.0 if reading.battery_percent is None else reading.battery_percent,
        on_battery=not reading.plugged,
        celsius=reading.celsius or 0.0,
        cpu_percent=psutil.cpu_percent(),
        memory_percent=100.0 * (1.0 - min(1.0, free / total)) if total > 0 else 0.0,
        memory_free_bytes=free,
    )


def cloud_hosts(config: Config) -> tuple[Host, ...]:
    """Host and port of each cloud target, each once; none where `device.probe` is off."""
    found: dict[Host, None] = {}
    for spec in config.targets.values() if config.device.probe else ():
        if not spec.local:
            parts = urlsplit(spec.url)
            found[(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))] = None
    return tuple(found)


def connected(hosts: Iterable[Host] = ()) -> bool:
    """Whether one of `hosts` takes a TCP connection, or, without any, whether this machine has a way out."""
    hosts = tuple(hosts)
    return any(map(_connects, hosts)) if hosts else _has_route()


def _connects(host: Host) -> bool:
    try:
        socket.create_connection(host, timeout=CONNECT_S).close()
    except (OSError, UnicodeError):  # UnicodeError: a name that IDNA refuses
        return False
    return True


def _has_route() -> bool:
    """An interface other than loopback is up and, where the system lists routes, one of them leads out."""
    up = any(s.isup and not name.startswith("lo") for name, s in psutil.net_if_stats().items())
    return up and _leads_out()


def _leads_out() -> bool:
    try:
        rows = [line.split() for line in ROUTES.read_text().splitlines()[1:]]
    except OSError:  # not Linux: an interface must do
        return True
    return any(len(row) > 1 and row[1] == "00000000" for row in rows) or _leads_out_by_ipv6()


def _leads_out_by_ipv6() -> bool:
    try:
        rows = [line.split() for line in ROUTES.with_name("ipv6_route").read_text().splitlines()]
    except OSError:
        return False
    return any(row and row[0] == "0" * 32 and row[1] == "00" and row[-1] != "lo" for row in rows)

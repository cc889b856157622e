"""Starting, watching, ending and stopping replicas from the engine's side.

A :class:`Replicas` owns one connection to the preload server. A replica that ends, for whatever reason, is noticed by
its closed socket at once; the server's word then tells the exit code or signal.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa_energy.owner import owner_pid, started_at
from ipa_energy.serving import preload
from ipa_energy.serving.replica import MAX_MESSAGE, describe_input
from ipa_energy.serving.shared import SharedArray


class ServingError(RuntimeError):
    """The engine can't go on; the text names the replica and what happened to it."""


class ServerError(RuntimeError):
    """The preload server can't be used: a fault of the installation or the host, not of a configuration."""


@dataclass(frozen=True)
class ReplicaPlan:
    """What one replica will be: its name (``detect/0``), cores, how to build its runner, and its arrays.

    ``kill_while_loading``: whether it may be killed when it is ended before its model is loaded. Otherwise it leaves
    once it has loaded, as a client of CUDA's MPS should, which would take others with it.
    """

    name: str
    cpus: tuple[int, ...]
    factory: str
    setup: Mapping[str, Any]
    inputs: Path | SharedArray
    outputs: SharedArray
    environment: Mapping[str, str] = field(default_factory=dict)
    kill_while_loading: bool = True


@dataclass(eq=False)
class Replica:
    """A started replica: its name, process id, control socket, cores, and what it said of itself once loaded.

    ``started_s`` to ``gone_s`` are monotonic seconds: when it was forked, could serve, and was seen to have ended.
    ``exit_code`` is that of a process (negative: minus the signal), ``cpu_s`` the core seconds that it used in its
    life; both None while it lives.
    """

    name: str
    pid: int
    control: socket.socket
    facts: dict[str, Any] | None = None
    cpus: tuple[int, ...] = ()
    kill_while_loading: bool = True
    started_s: float = 0.0
    ready_s: float | None = None
    gone_s: float | None = None
    exit_code: int | None = None
    cpu_s: float | None = None

    def loaded(self, message: bytes) -> None:
        """Take in its word, the ``R`` message, that its model is loaded."""
        self.facts = json.loads(message[1:])
        self.ready_s = time.monotonic()


def server_address(owner: int, tag: str) -> str:
    """Name of the preload server's socket: one per user, owner (also after its pid is reused), interpreter and code."""
    return f"ipa-energy/{os.getuid()}/{owner}.{started_at(owner)}/{sys.prefix[-40:]}/{tag}"[:100]


def _connect(address: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect("\0" + address)
    except OSError:
        connection.close()
        return None
    if preload.peer_uid(connection) != os.getuid():
        connection.close()
        raise ServerError(f"the socket of the preload server, {address}, belongs to another user")
    return connection


def connect_to_server(modules: Sequence[str], tag: str, timeout_s: float = 180.0) -> socket.socket:
    """Connect to the preload server of this workflow run, starting it where there is none.

    ``modules`` are imported before it serves; ``tag`` keeps servers of different code apart. Raises ServerError when
    it does not come up in ``timeout_s``.
    """
    owner = owner_pid()
    address = server_address(owner, tag)
    connection = _connect(address)
    if connection is not None:
        return connection
    command = [sys.executable, "-m", "ipa_energy.serving.preload", "--address", address, "--owner", str(owner)]
    command += [f"--import={module}" for module in modules]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        connection = _connect(address)
        if connection is not None:
            return connection
        if server.poll() is not None:
            raise ServerError(f"the preload server ended with code {server.returncode}; see the log of this job")
        time.sleep(0.02)
    server.kill()
    raise ServerError(f"the preload server did not come up in {timeout_s:g} s (imports: {', '.join(modules)})")


class Replicas:
    """The replicas of one measurement. Use as a context manager: leaving it stops them all."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._living: dict[int, Replica] = {}
        self.replicas: list[Replica] = []

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def server(self) -> socket.socket:
        """The connection to the preload server; when it can be read, :meth:`read_exits` has something to read."""
        return self._server

    @property
    def living(self) -> list[Replica]:
        """The replicas that need their cores: those that load, and those with a last batch in hand, included."""
        return [
            replica
            for replica in self._living.values()
            if replica.control.fileno() >= 0 or (replica.ready_s is None and not replica.kill_while_loading)
        ]

    @property
    def cpu_s_of_gone(self) -> dict[int, float]:
        """Core seconds that each replica used in its life, by process id, of those that have ended until now."""
        self.read_exits()
        used_s: dict[int, float] = {}
        for replica in self.replicas:
            if replica.cpu_s is not None:  # two may have had the same process id, one after the other
                used_s[replica.pid] = used_s.get(replica.pid, 0.0) + replica.cpu_s
        return used_s

    def start(self, plan: ReplicaPlan) -> Replica:
        """Fork one replica; it loads its model in the background (:meth:`wait_ready` waits for all).

        Returns as soon as the process is there. Raises ServingError when the preload server can't start it.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = {
            "cpus": plan.cpus,
            "factory": plan.factory,
            "setup": plan.setup,
            "environment": dict(plan.environment),
            "inputs": describe_input(plan.inputs),
            "outputs": describe_input(plan.outputs),
        }
        descriptors = [1, 2, theirs.fileno()]
        descriptors += [a.descriptor for a in (plan.inputs, plan.outputs) if isinstance(a, SharedArray)]
        message = {"target": "ipa_energy.serving.replica:run", "arguments": arguments}
        started_s = time.monotonic()
        try:
            self._server.settimeout(30.0)
            socket.send_fds(self._server, [json.dumps(message).encode()], descriptors)
        except OSError as error:
            raise ServingError(f"the preload server died before replica {plan.name} was started") from error
        theirs.close()
        answer = self._read_until(lambda m: "status" not in m, 30.0)
        if answer is None:
            raise ServingError(f"the preload server did not start replica {plan.name}")
        replica = Replica(
            plan.name,
            answer["pid"],
            ours,
            cpus=plan.cpus,
            kill_while_loading=plan.kill_while_loading,
            started_s=started_s,
        )
        self.replicas.append(replica)
        self._living[replica.pid] = replica
        return replica

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every replica has loaded its model. Raises ServingError naming the one that failed or is late."""
        deadline_s = time.monotonic() + timeout_s
        for replica in self.replicas:
            replica.control.settimeout(max(0.01, deadline_s - time.monotonic()))
            try:
                message = replica.control.recv(MAX_MESSAGE)
            except TimeoutError as error:
                raise ServingError(f"replica {replica.name} did not load its model in {timeout_s:g} s") from error
            except OSError:
                message = b""
            if message[:1] != b"R":
                raise self.failure(replica, message)
            replica.loaded(message)
            replica.control.settimeout(None)

    def end(self, replica: Replica) -> None:
        """Let one idle or loading replica go; its exit is then no failure. It is gone when ``exit_code`` is known."""
        replica.control.close()
        if replica.ready_s is not None or not replica.kill_while_loading:
            return
        # While its parent, the server, is there and has not told of its end, its pid is no one else's.
        if self.read_exits() and replica.exit_code is None:
            # It would look at its socket only once its model is loaded, and take time from those that serve until then.
            with suppress(ProcessLookupError):
                os.kill(replica.pid, signal.SIGKILL)

    def read_exits(self) -> bool:
        """Take in which replicas have ended, without waiting; False when the preload server is gone."""
        while (message := self._read(0.0)) is not None:
            if not message:
                return False
        return True

    def failure(self, replica: Replica, message: bytes) -> ServingError:
        """The error that explains a replica's ``E`` message, or its closed socket (empty message)."""
        if message[:1] == b"E":
            report = json.loads(message[1:])
            return ServingError(f"replica {replica.name} (pid {replica.pid}): {report['error']}: {report['text']}")
        if replica.exit_code is None:
            self._read_until(lambda m: m["pid"] == replica.pid and "status" in m, 2.0)
        match replica.exit_code:
            case None:
                how = "went away"
            case code if code < 0:
                name = signal.Signals(-code).name
                hint = " (the kernel does that when memory runs out)" if code == -signal.SIGKILL else ""
                how = f"was killed by {name}{hint}"
            case code:
                how = f"ended with code {code}; see the log of this job"
        return ServingError(f"replica {replica.name} (pid {replica.pid}) {how}")

    def stop(self, grace_s: float = 3.0) -> None:
        """Let the replicas end; what is left after ``grace_s`` is killed with the connection.

        Once they are stopped, another call does nothing.
        """
        if self._server.fileno() < 0:
            return
        for replica in self.replicas:
            self.end(replica)
        deadline_s = time.monotonic() + grace_s
        while self._living and self._read_until(lambda m: "status" in m, deadline_s - time.monotonic()):
            pass
        self._server.close()

    def _read_until(self, wanted: Any, timeout_s: float) -> dict[str, Any] | None:
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self._read(left_s)
            if not message:
                return None
            if wanted(message):
                return message
        return None

    def _read(self, timeout_s: float) -> dict[str, Any] | None:
        """The server's next message; None when none comes in ``timeout_s``, empty when the server is gone or let go."""
        try:
            self._server.settimeout(timeout_s)
            text = self._server.recv(preload.MAX_MESSAGE)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError:
            return {}
        if not text:
            return {}
        message: dict[str, Any] = json.loads(text)
        if "status" in message and (replica := self._living.pop(message["pid"], None)) is not None:
            replica.exit_code, replica.gone_s = message["status"], time.monotonic()
            replica.cpu_s = message["cpu_s"]
        return message

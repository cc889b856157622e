"""The preload server: holds the imported framework, and forks a replica from it in milliseconds.

Importing torch and torchvision takes seconds, the measurement of a small model about as long; paying it for every job
of a large grid would spend more time on start-up than on windows. So the first measurement of a workflow run starts
this server, which imports once and then only forks: every replica is a fresh process that loads its own model, and the
server itself never touches a tensor (a framework that has started threads or opened a GPU can't be forked).

Lifetime, by the kernel's means and therefore also under ``kill -9``: the server watches its *owner* (the workflow) by a
pidfd and ends with it; the replicas of a client are killed when the client's connection closes; a replica whose server
dies gets SIGKILL (PR_SET_PDEATHSIG). It listens on an abstract unix socket, answers only its own user, and no network.

Protocol, one JSON text per message (SOCK_SEQPACKET), descriptors attached. Client: ``{"target": "module:function",
"arguments": {...}}`` with stdout, stderr and any further descriptors. Server: ``{"pid": n}`` at once, and
``{"pid": n, "status": code, "cpu_s": seconds}`` when that process ends (a negative code: minus the signal), with the
core seconds that it used, user and system.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

MAX_MESSAGE = 1 << 16
MAX_DESCRIPTORS = 32
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ``parent_pid`` does (Linux; elsewhere nothing happens)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)


def peer_uid(connection: socket.socket) -> int:
    """User id of the process at the other end of a unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


@contextmanager
def _ends_with(owner_pidfd: int) -> Iterator[None]:
    """End this process as soon as the owner does, also while it imports; no thread is left after the block."""
    wake_read, wake_write = os.pipe()

    def watch() -> None:
        ready, _, _ = select.select([owner_pidfd, wake_read], [], [])
        if owner_pidfd in ready:
            os._exit(0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        os.close(wake_write)
        thread.join()
        os.close(wake_read)


class _Server:
    def __init__(self, address: str, owner_pidfd: int) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind("\0" + address)
        self.listener.listen(8)
        self.clients: dict[socket.socket, set[int]] = {}
        self.selector = selectors.DefaultSelector()
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        self.wake = wake_read
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(wake_read, selectors.EVENT_READ, self.reap)
        self.selector.register(owner_pidfd, selectors.EVENT_READ, self.leave)

    def run(self) -> NoReturn:
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def leave(self, _: Any) -> NoReturn:
        os._exit(0)  # the kernel kills the replicas

    def accept(self, _: Any) -> None:
        connection, _address = self.listener.accept()
        if peer_uid(connection) != os.getuid():
            connection.close()
            return
        self.clients[connection] = set()
        self.selector.register(connection, selectors.EVENT_READ, self.serve)

    def serve(self, connection: Any) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, MAX_DESCRIPTORS)
        except OSError:
            message, descriptors = b"", []
        if not message:
            self.selector.unregister(connection)
            for pid in self.clients.pop(connection):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            connection.close()
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self.become_replica(parent, json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self.clients[connection].add(pid)
        self.tell(connection, {"pid": pid})

    def tell(self, connection: socket.socket, message: dict[str, int | float]) -> None:
        with suppress(OSError):  # the client may be gone; its end is handled when its connection reads as closed
            connection.send(json.dumps(message).encode())

    def reap(self, _: Any) -> None:
        with suppress(BlockingIOError):
            os.read(self.wake, 4096)
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for connection, pids in self.clients.items():
                if pid in pids:
                    pids.discard(pid)
                    cpu_s = used.ru_utime + used.ru_stime
                    self.tell(connection, {"pid": pid, "status": os.waitstatus_to_exitcode(status), "cpu_s": cpu_s})

    def become_replica(self, parent: int, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.selector.close()
            self.listener.close()
            os.close(self.wake)
            for connection in self.clients:
                connection.close()
            os.dup2(descriptors[0], 1)
            os.dup2(descriptors[1], 2)
            module, function = request["target"].split(":")
            getattr(importlib.import_module(module), function)(request["arguments"], descriptors[2:])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # no clean-up that belongs to the server, and no wait for framework threads


def main() -> None:
    """Import what was asked for, then serve until the owner ends."""
    parser = argparse.ArgumentParser(description="Holds an imported framework and forks replicas from it.")
    parser.add_argument("--address", required=True, help="name of the abstract unix socket")
    parser.add_argument("--owner", required=True, type=int, help="process id to end with")
    parser.add_argument("--import", dest="modules", action="append", default=[], help="module to import before serving")
    arguments = parser.parse_args()
    owner = os.pidfd_open(arguments.owner)
    with _ends_with(owner):
        for module in arguments.modules:
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # pages of imported objects stay shared with the replicas
    _Server(arguments.address, owner).run()


if __name__ == "__main__":
    main()

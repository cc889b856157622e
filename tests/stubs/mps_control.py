"""Behaves like nvidia-cuda-mps-control without a GPU; installed under that name by test_platforms_mps.

``-d`` starts a daemon for the folder CUDA_MPS_PIPE_DIRECTORY, which leaves its process id there and listens on a
socket; without it, commands from standard input go to that daemon. ``start_server`` leaves a process of the same name,
like NVIDIA's server. The variable MPS_STUB names faults: ``refuses`` to start, ``dies`` at once, is ``deaf``, is
``stubborn`` (neither ``quit`` nor SIGTERM ends it), is ``full`` (the thread percentage stays at 100), is ``slow`` to
answer.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

PIPE = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
LOG = Path(os.environ.get("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps"))
FAULTS = os.environ.get("MPS_STUB", "").split()


def log(text):
    with (LOG / "control.log").open("a") as file:
        file.write(f"[Control {os.getpid()}] {text}\n")


def become_daemon():
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


def start_server(servers):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.closerange(3, 64)  # the sockets: who asked waits for the end of the answer
        while True:
            signal.pause()
    servers.append(pid)


def answer(command, servers):
    words = command.split()
    if words[:1] == ["get_server_list"]:
        return "".join(f"{pid}\n" for pid in servers)
    if words[:1] == ["start_server"]:
        start_server(servers)
        return ""
    if words[:1] == ["get_default_active_thread_percentage"]:
        asked = os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100")
        return f"{100.0 if 'full' in FAULTS else float(asked)}\n"
    return f"Unknown command: {command}\n"


def serve():
    if "stubborn" in FAULTS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "slow" in FAULTS:
        time.sleep(0.4)
    pid_file = PIPE / "nvidia-cuda-mps-control.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    log("Starting control daemon")
    if "dies" in FAULTS:
        log("Failed to start")
        os._exit(1)
    listener = socket.socket(socket.AF_UNIX)
    if "deaf" not in FAULTS:
        listener.bind(str(PIPE / "control"))
        listener.listen()
    servers = []
    while True:
        if "deaf" in FAULTS:
            signal.pause()
        connection, _ = listener.accept()
        with connection:
            command = connection.makefile().readline().strip()
            if command == "quit" and "stubborn" not in FAULTS:
                for pid in servers:
                    os.kill(pid, signal.SIGTERM)
                    os.waitpid(pid, 0)
                pid_file.unlink()
                os._exit(0)
            connection.sendall(answer(command, servers).encode())


def main():
    if sys.argv[1:] == ["-d"]:
        if "refuses" in FAULTS:
            log("No GPU for this user")
            sys.exit(1)
        become_daemon()
        serve()
    for command in sys.stdin:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(PIPE / "control"))
        except OSError:
            print("Cannot find MPS control daemon process")
            sys.exit(1)
        connection.sendall(command.encode())
        connection.shutdown(socket.SHUT_WR)
        print(connection.makefile().read(), end="")


if __name__ == "__main__":
    main()

"""A TCP proxy on loopback that keeps every byte it passes on, and can cut its connections."""

from __future__ import annotations

import contextlib
import socket
import threading


class RecordingProxy:
    """Listens on a free port and passes everything on to ``port``; ``passed`` counts, ``seen`` keeps."""

    def __init__(self, port: int, *, keep: bool = True) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen = bytearray()
        self.passed = 0
        self._keep = keep
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection; new ones are still accepted."""
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._sockets.clear()

    def __enter__(self) -> RecordingProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                left, _ = self._listener.accept()
                right = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._sockets += [left, right]
            for source, target in ((left, right), (right, left)):
                thread = threading.Thread(target=self._pass_on, args=(source, target), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.passed += len(data)
                    if self._keep:
                        self.seen += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

"""A server that only streams events by the clock: what a load client can take is measured with it.

Started as `python -m harness.load.null_server FD CPU` by `selfcheck`; it dies with its parent. It
says its port over the socket FD, and after each word from there how it kept its schedule since.
A request's body is `{"events": n, "gap_ns": g}`: n events, the first when it was read, each next
one g later, each in a segment of its own.
"""

from __future__ import annotations

import gc
import heapq
import json
import os
import select
import signal
import socket
import sys
import time

from harness.parent import die_with_parent

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# As long as an event of vLLM.
_EVENT = (
    b'data: {"id":"cmpl-3f1f0c6b2d5e4a0f9a7c8d2e1b6f5a4c","object":"text_completion",'
    b'"created":1763859600,"model":"null","choices":[{"index":0,"text":" the","logprobs":null,'
    b'"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
)
_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_LAST = _EVENT.replace(b'"finish_reason":null', b'"finish_reason":"length"')
_LAST_CHUNK = b"%x\r\n%s\r\n" % (len(_LAST), _LAST)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
Stream = tuple[int, int, socket.socket, int, int]  # due, its number, where, events left, gap


class NullServer:
    """One thread, one poll: sends what is due, reads requests in between."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.epoll.register(channel, select.EPOLLIN)
        self.sockets: dict[int, socket.socket] = {}
        self.streams: list[Stream] = []
        self.sent = self.late_ns = self.number = 0

    def serve(self) -> None:
        """Serve until the other end of the channel is gone."""
        port = self.listener.getsockname()[1]
        self.channel.send(b"%d\n" % port)
        gc.disable()
        try:
            while True:
                wait = self._send_due()
                for fd, _ in self.epoll.poll(wait, 256):
                    self._attend(fd)
        except EOFError:
            return

    def _send_due(self) -> float:
        """Send events that are due; how long to wait for something else to do, in seconds."""
        streams = self.streams
        for _ in range(64):
            if not streams:
                return -1
            now = time.monotonic_ns()
            due, number, connection, left, gap = streams[0]
            if due > now:
                return 0 if due - now < 2_000_000 else 0.001
            self.late_ns = max(self.late_ns, now - due)
            self.sent += 1
            try:
                connection.send(_CHUNK if left > 1 else _LAST_CHUNK + _END)
            except OSError:
                left = 1
            if left > 1:
                heapq.heapreplace(streams, (due + gap, number, connection, left - 1, gap))
            else:
                heapq.heappop(streams)
        return 0

    def _attend(self, fd: int) -> None:
        if fd == self.channel.fileno():
            if not self.channel.recv(64):
                raise EOFError
            said = json.dumps({"sent": self.sent, "late_ns": self.late_ns})
            self.sent = self.late_ns = 0
            self.channel.send(said.encode() + b"\n")
        elif fd == self.listener.fileno():
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets[connection.fileno()] = connection
            self.epoll.register(connection, select.EPOLLIN)
        else:
            self._read(self.sockets[fd])

    def _read(self, connection: socket.socket) -> None:
        """A request comes in one piece, for it is small."""
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            del self.sockets[connection.fileno()]
            connection.close()
            return
        asked = json.loads(data.partition(b"\r\n\r\n")[2])
        connection.send(_HEAD)
        self.number += 1
        due = time.monotonic_ns()
        stream = (due, self.number, connection, asked["events"], asked["gap_ns"])
        heapq.heappush(self.streams, stream)


def main(arguments: list[str]) -> int:
    """Serve until the parent hangs up."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.sched_setaffinity(0, {int(arguments[1])})
    with socket.socket(fileno=int(arguments[0])) as channel:
        NullServer(channel).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

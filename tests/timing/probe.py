"""One caller's connection, and all that it can see of a reply: when each part came, how many bytes, in which frames.

Frames are read here and not by a gRPC library, whose own threads would add more noise than there is to find.
"""

import dataclasses
import select
import socket
import time

import hpack
import wire

PATH = "/inference.GRPCInferenceService/ModelInfer"
GRANT = 1 << 30
CANCEL = 8


@dataclasses.dataclass
class Seen:
    """What one reply showed."""

    latency: float  # seconds from just before the request is sent to the end of the stream
    first: float  # seconds from then to the first byte of the reply
    pieces: int  # in how many pieces it came
    frames: str  # kinds, flags and lengths of its frames, in order
    headers: str  # both header blocks, names and values
    around: str  # frames of the connection itself that came since the reply before
    status: str
    body: bytes


class Connection:
    """Calls one after another on one HTTP/2 connection."""

    def __init__(self, port, user, seconds=60.0):
        self.port, self.user, self.seconds = port, user, seconds
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.pending, self.stream = b"", -1
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + wire.frame(wire.SETTINGS, 0, 0)
            + wire.frame(wire.WINDOW_UPDATE, 0, 0, (GRANT).to_bytes(4))
        )

    def close(self):
        self.socket.close()

    def ask(self, body, timeout=None, beside=None):
        """Sends one message, short enough for the window that every server grants, and waits for its reply.

        `timeout` is a deadline as gRPC writes it, of which the server is told. With `beside`, the reply to another message, sent on that connection
        right after this one, is the second of two."""
        request = self._request(body, timeout)
        if beside is None:
            sent = time.perf_counter()
            self.socket.sendall(request)
            reply = Reply(self, sent)
            while not reply.ended:
                reply.read()
            return reply.seen
        other, other_body = beside
        other_request = other._request(other_body)
        sent = time.perf_counter()
        self.socket.sendall(request)
        other.socket.sendall(other_request)
        replies = {each.socket: Reply(each, sent) for each in (self, other)}
        while waiting := [socket for socket, reply in replies.items() if not reply.ended]:
            ready = select.select(waiting, [], [], self.seconds)[0]
            assert ready, "no reply"
            for each in ready:
                replies[each].read()
        return replies[self.socket].seen, replies[other.socket].seen

    def cancel_after(self, body, seconds):
        """Sends one message and takes it back after a while."""
        self.socket.sendall(self._request(body))
        time.sleep(seconds)
        self.socket.sendall(wire.frame(wire.RST_STREAM, 0, self.stream, CANCEL.to_bytes(4)))

    def _request(self, body, timeout=None):
        self.stream += 2
        fields = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", f"127.0.0.1:{self.port}")]
        fields += [("te", "trailers"), ("content-type", "application/grpc"), ("x-user", self.user)]
        fields += [("grpc-timeout", timeout)] if timeout else []
        data = wire.message(body)
        assert len(data) <= 16384, "one DATA frame"
        return wire.frame(wire.HEADERS, wire.END_HEADERS, self.stream, self.encoder.encode(fields)) + wire.frame(
            wire.DATA, wire.END_STREAM, self.stream, data
        )


class Reply:
    """The reply to a connection's latest request, as it comes."""

    def __init__(self, connection, sent):
        self.connection, self.sent = connection, sent
        self.ended, self.seen = False, None
        self.first, self.pieces, self.frames, self.around, self.headers, self.data = None, 0, [], [], [], b""

    def read(self):
        """Takes in what has come, and waits for it where nothing has."""
        connection = self.connection
        received = connection.socket.recv(65536)
        now = time.perf_counter()
        assert received, "the connection was closed"
        connection.pending += received
        self.pieces += 1
        while len(connection.pending) >= 9 and len(connection.pending) >= 9 + (length := int.from_bytes(connection.pending[:3])):
            kind, flags = connection.pending[3], connection.pending[4]
            stream = int.from_bytes(connection.pending[5:9]) & 0x7FFFFFFF
            payload, connection.pending = connection.pending[9 : 9 + length], connection.pending[9 + length :]
            self._take(kind, flags, stream, payload, now)

    def _take(self, kind, flags, stream, payload, now):
        connection, said = self.connection, f"{kind}/{flags}/{len(payload)}"
        # Of any stream, taken back or not: the table of names is the connection's.
        fields = connection.decoder.decode(payload) if kind == wire.HEADERS else []
        if stream == 0:
            self.around.append(said)
            if kind == wire.SETTINGS and not flags & wire.ACK:
                connection.socket.sendall(wire.frame(wire.SETTINGS, wire.ACK, 0))
            elif kind == wire.PING and not flags & wire.ACK:
                connection.socket.sendall(wire.frame(wire.PING, wire.ACK, 0, payload))
        if stream != connection.stream:
            return
        self.first = self.first or now - self.sent
        self.frames.append(said)
        self.headers += [(str(name), str(value)) for name, value in fields]
        if kind == wire.DATA:
            self.data += payload
        # A server may reset a stream after its end; what is over is over.
        if not self.ended and (flags & wire.END_STREAM and kind in (wire.DATA, wire.HEADERS) or kind == wire.RST_STREAM):
            self.ended = True
            status = dict(self.headers).get("grpc-status", "none")
            around = " ".join(self.around)
            self.seen = Seen(
                now - self.sent, self.first, self.pieces, " ".join(self.frames), repr(self.headers), around, status, self.data[5:]
            )

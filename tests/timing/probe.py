"""One caller's connection, and all that it can see of a reply: when each part came, how many bytes, in which frames.

Frames are read here and not by a gRPC library, whose own threads would add more noise than there is to find.
"""

import dataclasses
import socket
import time

import hpack
import wire

PATH = "/inference.GRPCInferenceService/ModelInfer"
GRANT = 1 << 30


@dataclasses.dataclass
class Seen:
    """What one reply showed."""

    latency: float  # seconds from just before the request is sent to the end of the stream
    first: float  # seconds from then to the first byte of the reply
    size: int  # bytes of all its frames
    frames: str  # kinds, flags and lengths of its frames, in order
    headers: str  # both header blocks, names and values
    status: str
    body: bytes


class Connection:
    """Calls one after another on one HTTP/2 connection."""

    def __init__(self, port, user, seconds=60.0):
        self.port, self.user = port, user
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

    def ask(self, body, timeout=None):
        """Sends one message, short enough for the window that every server grants, and waits for its reply.

        `timeout` is a deadline as gRPC writes it, of which the server is told."""
        request = self._request(body, timeout)
        sent = time.perf_counter()
        self.socket.sendall(request)
        return self._reply(sent)

    def cancel_after(self, body, seconds):
        """Sends one message and takes it back after a while."""
        self.socket.sendall(self._request(body))
        time.sleep(seconds)
        self.socket.sendall(wire.frame(wire.RST_STREAM, 0, self.stream, (8).to_bytes(4)))

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

    def _reply(self, sent):
        first, size, frames, headers, data = None, 0, [], [], b""
        while True:
            received = self.socket.recv(65536)
            now = time.perf_counter()
            assert received, "the connection was closed"
            self.pending += received
            while len(self.pending) >= 9 and len(self.pending) >= 9 + (length := int.from_bytes(self.pending[:3])):
                kind, flags = self.pending[3], self.pending[4]
                stream = int.from_bytes(self.pending[5:9]) & 0x7FFFFFFF
                payload, self.pending = self.pending[9 : 9 + length], self.pending[9 + length :]
                if kind == wire.SETTINGS and not flags & wire.ACK:
                    self.socket.sendall(wire.frame(wire.SETTINGS, wire.ACK, 0))
                elif kind == wire.PING and not flags & wire.ACK:
                    self.socket.sendall(wire.frame(wire.PING, wire.ACK, 0, payload))
                if kind == wire.HEADERS:
                    fields = self.decoder.decode(payload)  # of any stream: the table is the connection's
                if stream != self.stream or kind not in (wire.HEADERS, wire.DATA, wire.RST_STREAM):
                    continue
                first = first or now - sent
                size += 9 + length
                frames.append(f"{kind}/{flags}/{length}")
                if kind == wire.HEADERS:
                    headers += [(str(name), str(value)) for name, value in fields]
                elif kind == wire.DATA:
                    data += payload
                if flags & wire.END_STREAM or kind == wire.RST_STREAM:
                    status = dict(headers).get("grpc-status", "none")
                    return Seen(now - sent, first, size, " ".join(frames), repr(headers), status, data[5:])

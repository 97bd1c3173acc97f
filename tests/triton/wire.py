"""One gRPC call as HTTP/2 frames: to send what no gRPC library would send, and to see what none would show."""

import dataclasses
import socket
import struct
import time

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
WINDOW = 65535  # bytes that may be sent before the server grants more; no call here sends as much


def message(body, flag=0, length=None):
    """A gRPC message: compression flag, length (a wrong one on request), body."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


@dataclasses.dataclass
class Reply:
    """What came back, header blocks in order. `frames` names every frame of the stream as it arrived."""

    blocks: list = dataclasses.field(default_factory=list)
    data: bytes = b""
    frames: list = dataclasses.field(default_factory=list)
    reset: int | None = None
    goaway: int | None = None
    closed: bool = False
    seconds: float = 0.0

    def field(self, name):
        return next((value for block in self.blocks for key, value in block if key == name), None)

    @property
    def status(self):
        """The gRPC status code, wherever the reply carries it; None when the stream ended without one."""
        found = self.field("grpc-status")
        return None if found is None else int(found)

    @property
    def text(self):
        return self.field("grpc-message") or ""


def call(port, path, data, headers=(), end=True, seconds=10.0, method="POST", content_type="application/grpc"):
    """Sends `data` (one DATA payload or a list of them) to `path`; collects until the stream ends or time is up."""
    payloads = [data] if isinstance(data, bytes) else list(data)
    payloads = [part[at : at + 16384] for part in payloads for at in range(0, max(len(part), 1), 16384)]
    assert sum(map(len, payloads)) <= WINDOW
    request = [(":method", method), (":scheme", "http"), (":path", path), (":authority", f"127.0.0.1:{port}")]
    request += [("content-type", content_type), ("te", "trailers"), *headers]
    out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
    out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)) + frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(request))
    for index, part in enumerate(payloads):
        out += frame(DATA, END_STREAM if end and index == len(payloads) - 1 else 0, 1, part)

    reply, decoder, pending = Reply(), hpack.Decoder(), b""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as stream:
        stream.sendall(out)
        while (left := began + seconds - time.monotonic()) > 0:
            stream.settimeout(left)
            try:
                received = stream.recv(65536)
            except TimeoutError:
                break
            except ConnectionError:
                received = b""
            if not received:
                reply.closed = True
                break
            pending += received
            while len(pending) >= 9 and len(pending) >= 9 + (length := int.from_bytes(pending[:3])):
                kind, flags, number = struct.unpack(">BBI", pending[3:9])
                payload, pending = pending[9 : 9 + length], pending[9 + length :]
                if kind == SETTINGS and not flags & ACK:
                    stream.sendall(frame(SETTINGS, ACK, 0))
                elif kind == PING and not flags & ACK:
                    stream.sendall(frame(PING, ACK, 0, payload))
                elif kind == GOAWAY:
                    reply.goaway = int.from_bytes(payload[4:8])
                if number != 1 or kind not in (DATA, HEADERS, RST_STREAM):
                    continue
                ends = kind == RST_STREAM or bool(flags & END_STREAM)
                reply.frames.append({DATA: "data", HEADERS: "headers", RST_STREAM: "reset"}[kind] + ("." if ends else ""))
                if kind == HEADERS:
                    reply.blocks.append([(str(k), str(v)) for k, v in decoder.decode(payload)])
                elif kind == DATA:
                    reply.data += payload
                else:
                    reply.reset = int.from_bytes(payload)
                if ends:
                    reply.seconds = time.monotonic() - began
                    return reply
    reply.seconds = time.monotonic() - began
    return reply

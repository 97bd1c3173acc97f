"""One gRPC call as HTTP/2 frames: to send what no gRPC library would send, and to see what none would show."""

import dataclasses
import socket
import struct
import time

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE = 0x4
WINDOW = 65535  # bytes that may be sent, on a stream and in all, before the server grants more


def message(body, flag=0, length=None):
    """A gRPC message: compression flag, length (a wrong one on request), body."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


@dataclasses.dataclass
class Reply:
    """What came back, header blocks in order. `frames` names every frame of the stream as it arrived, `at` says when.

    `endings` counts how often the server ended the stream, those that came after the first included.
    """

    blocks: list = dataclasses.field(default_factory=list)
    data: bytes = b""
    frames: list = dataclasses.field(default_factory=list)
    at: list = dataclasses.field(default_factory=list)
    reset: int | None = None
    goaway: int | None = None
    closed: bool = False
    ended: bool = False
    endings: int = 0
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

    @property
    def messages(self):
        """The bodies of the messages that came whole."""
        found, at = [], 0
        while len(self.data) >= at + 5 and len(self.data) >= at + 5 + (length := int.from_bytes(self.data[at + 1 : at + 5])):
            found.append(self.data[at + 5 : at + 5 + length])
            at += 5 + length
        return found


class Call:
    """One call on a connection of its own, frame by frame: what is sent when is the test's to say.

    `window` is what the server may send on this stream before more is granted, and none ever is.
    """

    def __init__(self, port, path, headers=(), method="POST", content_type="application/grpc", te="trailers", window=None, seconds=10.0):
        self.reply, self.decoder, self.pending = Reply(), hpack.Decoder(), b""
        self.granted, self.initial = {0: WINDOW, 1: WINDOW}, WINDOW
        self.began = time.monotonic()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        settings = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        request = [(":method", method), (":scheme", "http"), (":path", path), (":authority", f"127.0.0.1:{port}")]
        request += [("content-type", content_type), *([("te", te)] if te else []), *headers]
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24))
            + frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(request))
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data=b"", end=False):
        """One DATA payload, in frames of a size that every server takes, each as soon as the server grants it."""
        parts = [data[at : at + 16384] for at in range(0, max(len(data), 1), 16384)]
        for index, part in enumerate(parts):
            self.read(lambda _, needed=len(part): min(self.granted.values()) >= needed)
            if self.reply.ended or self.reply.closed:
                return
            self.granted = {stream: granted - len(part) for stream, granted in self.granted.items()}
            try:
                self.socket.sendall(frame(DATA, END_STREAM if end and index == len(parts) - 1 else 0, 1, part))
            except ConnectionError:
                self.reply.closed = True

    def reset(self, code=8):
        self.socket.sendall(frame(RST_STREAM, 0, 1, struct.pack(">I", code)))

    def read(self, until=lambda reply: reply.ended, seconds=10.0, beyond=False):
        """Collects until the condition holds, the stream ends, or time is up; `beyond` its end only the other two count."""
        deadline = time.monotonic() + seconds
        is_over = lambda reply: reply.closed or reply.ended and not beyond or until(reply)  # noqa: E731
        while not is_over(self.reply) and (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                received = self.socket.recv(65536)
            except TimeoutError:
                break
            except ConnectionError:
                received = b""
            self.reply.closed = not received
            self._take(received)
        self.reply.seconds = time.monotonic() - self.began
        return self.reply

    def _take(self, received):
        self.pending += received
        while len(self.pending) >= 9 and len(self.pending) >= 9 + (length := int.from_bytes(self.pending[:3])):
            kind, flags, number = struct.unpack(">BBI", self.pending[3:9])
            payload, self.pending = self.pending[9 : 9 + length], self.pending[9 + length :]
            if kind == SETTINGS and not flags & ACK:
                self._settings(payload)
            elif kind == WINDOW_UPDATE and number in self.granted:
                self.granted[number] += int.from_bytes(payload)
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY:
                self.reply.goaway = int.from_bytes(payload[4:8])
            if number == 1 and kind in (DATA, HEADERS):
                self.reply.endings += flags & END_STREAM
            if number == 1 and kind in (DATA, HEADERS, RST_STREAM) and not self.reply.ended:
                self._note(kind, flags, payload)

    def _settings(self, payload):
        settings = dict(struct.iter_unpack(">HI", payload))
        initial = settings.get(INITIAL_WINDOW_SIZE, self.initial)
        self.granted[1] += initial - self.initial
        self.initial = initial
        self.socket.sendall(frame(SETTINGS, ACK, 0))

    def _note(self, kind, flags, payload):
        reply = self.reply
        reply.ended = kind == RST_STREAM or bool(flags & END_STREAM)
        reply.frames.append({DATA: "data", HEADERS: "headers", RST_STREAM: "reset"}[kind] + ("." if reply.ended else ""))
        reply.at.append(time.monotonic() - self.began)
        if kind == HEADERS:
            reply.blocks.append([(str(key), str(value)) for key, value in self.decoder.decode(payload)])
        elif kind == DATA:
            reply.data += payload
        else:
            reply.reset = int.from_bytes(payload)


def call(port, path, data, headers=(), end=True, seconds=10.0, method="POST", content_type="application/grpc", te="trailers"):
    """Sends `data` (one DATA payload or a list of them) to `path`; collects until the stream ends or time is up."""
    payloads = [data] if isinstance(data, bytes) else list(data)
    with Call(port, path, headers, method, content_type, te, seconds=seconds) as running:
        for index, part in enumerate(payloads):
            running.send(part, end=end and index == len(payloads) - 1)
        return running.read(seconds=seconds)

"""A network camera on loopback.

It speaks RTSP 1.0 (RFC 2326), with RTP in the same TCP connection and MPEG-TS inside (RFC 2250).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

from tests.recordings import marking

FPS = 50
PAYLOAD = 7 * 188  # TS packets in an RTP packet, as usual
MPEG_TS = 33  # payload type, RFC 3551
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    f"m=video 0 RTP/AVP {MPEG_TS}\r\na=control:video\r\n"
)


class RtspServer:
    """Serves pictures that are drawn as clients watch.

    Attributes:
        draw: Makes the image, (H, W, 3) uint8 RGB, of a frame number; the size is that of frame 0.
        fields: "prog", or "tff" for interlaced frames.
        stalled: While set, clients stay connected and get nothing.
        asked: Methods of the requests that came, in order.
    """

    def __init__(self, draw: Callable[[int], np.ndarray], fields: str = "prog") -> None:
        self.draw, self.fields = draw, fields
        self.stalled = threading.Event()
        self.asked: list[str] = []
        self._clients: list[socket.socket] = []
        self._listening: socket.socket | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self) -> None:
        """Serve, on the same port as before."""
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def kill(self) -> None:
        """Stop serving and cut all connections."""
        listening, self._listening = self._listening, None
        for one in [listening, *self._clients]:
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._clients.clear()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by `kill`
            while True:
                client, _ = listening.accept()
                self._clients.append(client)
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as lines:
            while True:
                request = lines.readline().decode().split()
                if not request:
                    return
                headers = dict(_header(line) for line in iter(lines.readline, b"\r\n"))
                method, url = request[:2]
                self.asked.append(method)
                extra, body = "", ""
                if method == "OPTIONS":
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    body = SDP
                    extra = f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\n"
                elif method == "SETUP":
                    extra = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{extra}"
                answer += f"Content-Length: {len(body)}\r\n\r\n{body}"
                client.sendall(answer.encode())
                if method == "PLAY":
                    threading.Thread(target=self._play, args=(client,), daemon=True).start()

    def _play(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            packets = _RtpPackets(client)
            with av.open(packets, "w", format="mpegts", options={"flush_packets": "1"}) as muxer:
                first = self.draw(0)
                stream = muxer.add_stream("mpeg2video", rate=FPS)
                stream.height, stream.width = first.shape[:2]
                stream.pix_fmt, stream.bit_rate, stream.gop_size = "yuv420p", 4_000_000, 5
                if self.fields != "prog":
                    stream.options = {"flags": "+ildct+ilme"}
                mark = marking(stream, self.fields, Fraction(1, FPS))
                index = 0
                while self._listening is not None:
                    if not self.stalled.is_set():
                        frame = av.VideoFrame.from_ndarray(self.draw(index), format="rgb24")
                        frame = frame.reformat(format="yuv420p")
                        frame.pts, frame.time_base = index, Fraction(1, FPS)
                        mark.push(frame)
                        for packet in stream.encode(mark.vpull()):
                            muxer.mux(packet)
                        index += 1
                    time.sleep(1 / FPS)


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode().partition(":")
    return name.strip().lower(), value.strip()


class _RtpPackets:
    """A file for the muxer: what it writes goes out as RTP on channel 0."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._number = 0
        self._rest = b""

    def write(self, data: bytes) -> int:
        self._rest += bytes(data)
        while len(self._rest) >= 188:
            size = min(PAYLOAD, len(self._rest) // 188 * 188)
            part, self._rest = self._rest[:size], self._rest[size:]
            clock = int(time.monotonic() * 90_000) & 0xFFFFFFFF
            head = struct.pack(">BBHII", 0x80, MPEG_TS, self._number, clock, 1)
            self._number = (self._number + 1) & 0xFFFF
            frame = struct.pack(">cBH", b"$", 0, len(head) + size)
            self._client.sendall(frame + head + part)
        return len(data)

"""A hub on this machine: the few answers of the Hugging Face hub that downloads and uploads need."""

import base64
import hashlib
import json
import os
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import sevlm

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    "One repository, owner/tiny. Big files are announced by their SHA-256, small ones as git names them."

    def log_message(self, *_):
        pass

    def files(self):
        return {p.relative_to(self.server.root).as_posix(): p for p in self.server.root.rglob("*") if p.is_file()}

    def answer(self, body: bytes, **headers):
        self.send_response(200)
        for k, v in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object):
        self.answer(json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if path.startswith("/api/models/owner/tiny/tree/"):
            sizes = {name: file.stat().st_size for name, file in self.files().items()}
            return self.answer_json([dict(type="file", path=n, size=size, oid=COMMIT) for n, size in sizes.items()])
        if path.startswith("/api/models/owner/tiny"):
            names = [{"rfilename": name} for name in self.files()]
            return self.answer_json({"id": "owner/tiny", "sha": COMMIT, "private": False, "siblings": names})
        name = path.split(f"/resolve/{COMMIT}/")[-1].split("/resolve/main/")[-1]
        if name not in self.files():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return None
        body = self.files()[name].read_bytes()
        big = name.endswith((".bin", ".tar"))
        git = hashlib.sha1(f"blob {len(body)}\0".encode() + body)
        tag = hashlib.sha256(body).hexdigest() if big else git.hexdigest()
        if self.server.spoiled and name.endswith(".tar"):
            body = body[:-1] + bytes([body[-1] ^ 1])
        linked = {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": str(len(body))} if big else {}
        return self.answer(body, ETag=f'"{tag}"', **linked)

    do_HEAD = do_GET

    def do_POST(self):
        "Uploads: every file is a regular one, sent inside the commit."
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}/owner/tiny"
        if self.path.startswith("/api/repos/create"):
            return self.answer_json({"url": address, "id": "owner/tiny"})
        if "/preupload/" in self.path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            return self.answer_json(
                {"files": [dict(path=name, uploadMode="regular", shouldIgnore=False, oid=None) for name in asked]}
            )
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    place = self.server.root / line["value"]["path"]
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(base64.b64decode(line["value"]["content"]))
            return self.answer_json({"success": True, "commitOid": COMMIT, "commitUrl": f"{address}/commit/{COMMIT}"})
        return self.answer_json({})


class Tunnel(BaseHTTPRequestHandler):
    "A proxy that leads every CONNECT, whatever its address, to one server."

    def do_CONNECT(self):
        self.server.asked.append(f"CONNECT {self.path}")
        with socket.create_connection(self.server.target) as there:
            self.send_response(200)
            self.end_headers()
            other = {self.connection: there, there: self.connection}
            while True:
                for one in select.select(list(other), [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    other[one].sendall(data)

    def log_message(self, *_):
        pass


@contextmanager
def tunnel(
    target: tuple[str, int],  # host and port of the server behind it
) -> Iterator[ThreadingHTTPServer]:
    "A proxy for HTTPS on this machine."
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tunnel)
    server.daemon_threads, server.block_on_close = True, False
    server.target, server.asked = target, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve(
    root: Path,  # the files of the repository; made if missing
    home: Path,  # where clients keep what they have fetched
    certificate: Path | None = None,  # of a server that speaks TLS; it is for hub.invalid and 127.0.0.1
) -> Iterator[tuple[ThreadingHTTPServer, partial]]:
    "A server, and `subprocess.run` in an environment that takes it for the hub."
    root.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.asked, server.spoiled = root, [], False
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(sevlm.__file__).parent.parent),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    try:
        yield server, partial(subprocess.run, env=env, capture_output=True, text=True, timeout=240)
    finally:
        server.shutdown()
        server.server_close()

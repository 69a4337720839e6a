"""A small web server on this machine with the pages of the hub that its library asks for, and with plain files."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = {"main": "a" * 40, "refs/pr/7": "b" * 40}
"""The versions of every repository."""


class Hub:
    """Serves repositories and files.

    Args:
        files: Version and path -> content of the files of all repositories, "main/config.json" say; those without a version
            are plain files of the server.
    """

    def __init__(self, files):
        self.files = dict(files)
        self.asked = []
        self.cut = {}  # path -> bytes after which the connection is closed, once
        self.lie = set()  # paths whose hash the server tells wrongly
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def sent(self, name):
        """Return how many times the content of a file was asked for."""
        return sum(method == "GET" and path.endswith(name) for method, path, _ in self.asked)

    def tree(self, version):
        for path, content in self.files.items():
            if path.startswith(f"{version}/"):
                name = path.removeprefix(f"{version}/")
                entry = {"type": "file", "path": name, "size": len(content), "oid": _git_hash(content)}
                if not name.endswith((".json", ".txt")):
                    digest = "0" * 64 if path in self.lie else hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 100}
                yield entry

    def answer(self, request):
        path = request.path.partition("?")[0].replace("%2F", "/")
        self.asked.append((request.command, path, request.headers.get("Range")))
        commits = {**COMMIT, **{commit: commit for commit in COMMIT.values()}}
        version = next((name for name, commit in COMMIT.items() if f"/{commit}" in path or f"/{name}" in path), "main")
        if path.startswith("/api/models/"):
            if "/tree/" in path:
                return self.send(request, json.dumps(list(self.tree(version))).encode())
            names = [{"rfilename": entry["path"]} for entry in self.tree(version)]
            return self.send(request, json.dumps({"id": "a/b", "sha": commits[version], "siblings": names}).encode())
        if "/resolve/" in path:
            name = path.partition("/resolve/")[2]
            for one in (*COMMIT, *COMMIT.values()):
                name = name.removeprefix(f"{one}/")
            content = self.files.get(f"{version}/{name}")
            entry = next((entry for entry in self.tree(version) if entry["path"] == name), {})
            tag = entry["lfs"]["oid"] if "lfs" in entry else entry.get("oid", "")
            return self.send(
                request, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commits[version]}, f"{version}/{name}"
            )
        return self.send(request, self.files.get(path.lstrip("/")), {}, path.lstrip("/"))

    def send(self, request, content, headers=None, name=""):
        if content is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = 0
        if request.headers.get("Range"):
            start = int(request.headers["Range"].removeprefix("bytes=").split("-")[0])
        request.send_response(206 if start else 200)
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if request.command == "GET":
            end = self.cut.pop(name, len(content))
            request.wfile.write(content[start:end])
            if end < len(content):
                request.connection.close()


def _git_hash(content):
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()

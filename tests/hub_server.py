"""A small Hugging Face hub on this machine: the part of its HTTP interface that is asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_ENDINGS = (".safetensors", ".gif", ".zip", ".pth", ".html")
TOKEN = "hf_local"


class Repository:
    """Commits of one repository, and its branches."""

    def __init__(self, private: bool = False):
        self.private, self.gated = private, False
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {})

    def commit(self, branch: str, files: dict[str, bytes], without: Sequence[str] = ()) -> str:
        """Adds files to a branch, and takes others away; its new commit."""
        before = self.branches.get(branch, "")
        whole = self.commits.get(before, {}) | files
        whole = {path: content for path, content in whole.items() if path not in without}
        told = json.dumps([before, {k: hashlib.sha1(v).hexdigest() for k, v in whole.items()}])
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = whole, commit
        return commit

    def at(self, revision: str) -> str | None:
        """The commit of a revision."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


class Hub:
    """The server; `repositories` by "user/name", and the `requests` that were made of it.

    Attributes:
      sizes: what is said of a file's size instead of the truth, by its path.
      broken: it answers 501 to everything, which is not tried again for half a minute.
      fails: part of the paths that it answers so to.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.sizes: dict[str, int | None] = {}
        self.broken = False
        self.fails: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, name: str, files: dict[str, bytes]) -> str:
        """Puts files into a repository, which is made if there is none; the commit."""
        return self.repositories.setdefault(name, Repository()).commit("main", files)


def _mode(path: str, standing: bytes | None) -> dict[str, Any]:
    """How a file is to be sent, and what is there of it, by the names that git has for it."""
    large = path.endswith(LFS_ENDINGS)
    told = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    if standing is None:
        return told
    blob = b"blob %d\0" % len(standing) + standing
    oid = hashlib.sha256(standing) if large else hashlib.sha1(blob)
    return told | {"oid": oid.hexdigest()}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, code: int, body: Any = b"", **headers: str) -> None:
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            headers.setdefault("Content_Length", str(len(text)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def refuse(self, code: int, kind: str) -> None:
            self.answer(code, {"error": kind}, X_Error_Code=kind, X_Error_Message=kind)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def signed(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def begin(self) -> tuple[str, bytes] | None:
            """The path that is asked for, and what was sent."""
            body = self.body()
            path = urllib.parse.urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            if hub.broken or (hub.fails is not None and hub.fails in path):
                self.answer(501, b"down for maintenance")
                return None
            return path, body

        def found(self, name: str, revision: str) -> tuple[Repository, str] | None:
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not self.signed()):
                self.refuse(401, "RepoNotFound")
            elif repository.gated:
                self.refuse(403, "GatedRepo")
            elif (commit := repository.at(urllib.parse.unquote(revision))) is None:
                self.refuse(404, "RevisionNotFound")
            else:
                return repository, commit
            return None

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if (begun := self.begin()) is None:
                return
            path, _ = begun
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                if there := self.found(match[1], match[2] or "main"):
                    self.answer(200, self.information(match[1], *there))
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                if there := self.found(match[1], match[2]):
                    self.give(*there, urllib.parse.unquote(match[3]))
            else:
                self.refuse(404, "Unknown")

        def information(self, name: str, repository: Repository, commit: str) -> dict[str, Any]:
            files = repository.commits[commit]
            siblings = [
                {
                    "rfilename": path,
                    "size": hub.sizes.get(path, len(content)),
                    "blobId": hashlib.sha1(content).hexdigest(),
                }
                for path, content in files.items()
            ]
            told = {"id": name, "sha": commit, "private": repository.private}
            return told | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0}

        def give(self, repository: Repository, commit: str, path: str) -> None:
            content = repository.commits[commit].get(path)
            if content is None:
                self.refuse(404, "EntryNotFound")
                return
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=commit)

        def do_PUT(self) -> None:
            if (begun := self.begin()) is not None:
                hub.stored[begun[0].rpartition("/")[2]] = begun[1]
                self.answer(200)

        def do_POST(self) -> None:
            if (begun := self.begin()) is None:
                return
            path, body = begun
            if not self.signed():
                self.answer(403, {"error": "no right"}, X_Error_Message="no right")
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", path):
                repository = hub.repositories[match[1]]
                repository.branches.setdefault(match[2], repository.branches["main"])
                self.answer(200, {})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
                repository = hub.repositories[match[1]]
                standing = repository.commits[repository.branches[match[2]]]
                modes = [
                    _mode(file["path"], standing.get(file["path"]))
                    for file in json.loads(body)["files"]
                ]
                self.answer(200, {"files": modes})
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    file | {"actions": {"upload": {"href": f"{hub.endpoint}/lfs/{file['oid']}"}}}
                    for file in json.loads(body)["objects"]
                ]
                self.answer(200, {"objects": objects, "transfer": "basic"})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
                self.commit(match[1], match[2], body)
            else:
                self.refuse(404, "Unknown")

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                self.answer(
                    409, {"error": "You already created it", "url": f"{hub.endpoint}/{name}"}
                )
                return
            private = asked.get("private") is True or asked.get("visibility") == "private"
            hub.repositories[name] = Repository(private)
            self.answer(200, {"url": f"{hub.endpoint}/{name}", "name": name})

        def commit(self, name: str, branch: str, body: bytes) -> None:
            files, without = {}, []
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
                elif line["key"] == "deletedFile":
                    without.append(value["path"])
            oid = hub.repositories[name].commit(branch, files, without)
            url = f"{hub.endpoint}/{name}/commit/{oid}"
            self.answer(200, {"commitUrl": url, "commitOid": oid})

    return Handler

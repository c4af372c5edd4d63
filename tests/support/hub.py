"""A stand-in of the hub on this machine: what `huggingface_hub` needs to write a model and to read it again."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
"""The token that may read and write all, and one that may read what is public alone."""


class Repository:
    """A model: its commits, each with its files, and its branches and tags."""

    def __init__(self, private=False, gated=False):
        self.private, self.gated, self.commits, self.refs = private, gated, {}, {}

    def commit(self, files, ref="main"):
        digest = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        before = self.commits.get(self.refs.get(ref), {})
        self.commits[digest], self.refs[ref] = before | files, digest
        return digest

    def at(self, revision):
        """The commit that a branch, a tag or a commit names; None if there is none."""
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None


class Hub(ThreadingHTTPServer):
    """The server; `repositories` by name, and `requests` as (method, path)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.requests = {}, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._resolve(body=False)

    def do_GET(self):
        self._resolve(body=True)

    def do_POST(self):
        path = self._noted()
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._token() != WRITER:
            return self._answer(403 if self._token() else 401, {"error": "no right to write"})
        if path == "/api/validate-yaml":  # of a model card
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(content)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            private = wanted.get("private") or wanted.get("visibility") == "private"
            known = name in self.server.repositories
            repository = self.server.repositories.setdefault(name, Repository(bool(private)))
            if not known:
                repository.commit({".gitattributes": b""})
            page = {"url": f"{self.server.address}/{name}", "name": name, "id": name}
            return self._answer(409 if known else 200, page)
        _, _, _, user, model, action, revision = path.split("/")
        repository = self.server.repositories[f"{user}/{model}"]
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(content)["files"]
            ]
            return self._answer(200, {"files": files})
        assert action == "commit", path
        lines = [json.loads(line) for line in content.splitlines()]
        files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        digest = repository.commit(files, unquote(revision))
        url = f"{self.server.address}/{user}/{model}/commit/{digest}"
        return self._answer(200, {"success": True, "commitOid": digest, "commitUrl": url})

    def _resolve(self, body):
        found = self._noted().lstrip("/").split("/")
        if len(found) < 5 or found[2] != "resolve":  # what the library asks for besides
            return self._answer(404, {"error": "not here"}, body=body)
        user, model, _, revision, *rest = found
        repository = self.server.repositories.get(f"{user}/{model}")
        if repository is None or (repository.private and self._token() != WRITER):
            return self._error(401 if self._token() is None else 404, "RepoNotFound", body)
        if repository.gated:
            return self._error(403, "GatedRepo", body)
        commit = repository.at(unquote(revision))
        if commit is None:
            return self._error(404, "RevisionNotFound", body)
        content = repository.commits[commit].get("/".join(rest))
        if content is None:
            return self._error(404, "EntryNotFound", body)
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self._answer(200, content, headers, body)

    def _error(self, status, code, body):
        return self._answer(status, {"error": code}, {"X-Error-Code": code}, body)

    def _answer(self, status, content, headers=None, body=True):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _noted(self):
        path = urlsplit(self.path).path
        self.server.requests.append((self.command, path))
        return path


@contextmanager
def running_hub():
    """The server, running."""
    server = Hub()
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A stand-in of W&B's server on this machine: what its client asks for to log and sync runs, and to save reports.

It answers the GraphQL queries and the file stream of wandb's clients with the fields that they read, and keeps all that
they send.
"""

import json
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

ENTITY, KEY = "us", "0123456789abcdef" * 2 + "deadbeef"
"""The owner of all projects, and a key of the form that W&B's client takes."""
OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
TELEMETRY = "/sdk/otel/"
"""Where wandb reports how it is doing itself: its version, Python's, and its own errors."""


@dataclass
class Run:
    """A run: its fields by their names in `upsertBucket`, its streams of lines, and its files by path."""

    fields: dict = field(default_factory=dict)
    streams: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)

    @property
    def config(self):
        return {key: entry["value"] for key, entry in json.loads(self.fields["config"]).items() if key != "_wandb"}

    @property
    def history(self):
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", [])]

    @property
    def summary(self):
        return json.loads(self.streams["wandb-summary.json"][-1])

    def bucket(self):
        """What a client that resumes the run asks for."""
        names = ("id", "name", "displayName", "config", "tags", "notes")
        streams = {"history": self.streams.get("wandb-history.jsonl", []), "log": [], "events": []}
        counts = {f"{name}LineCount": len(lines) for name, lines in streams.items()}
        return {name: self.fields.get(name) for name in names} | {
            **counts,
            "summaryMetrics": self.streams.get("wandb-summary.json", ["{}"])[-1],
            "historyTail": json.dumps(streams["history"][-1:]),
            "eventsTail": "[]",
            "wandbConfig": '{"t": 1}',
        }


class Server(ThreadingHTTPServer):
    """The server: `runs` by id, `artifacts` by name, `views` (reports and workspaces), and all `bodies`, each with
    its path.

    Args:
        flags: Flags of the account, such as `code_saving_enabled`.
    """

    daemon_threads = True

    def __init__(self, **flags):
        super().__init__(("127.0.0.1", 0), Handler)
        self.flags, self.lock = flags, Lock()
        self.runs, self.artifacts, self.views, self.bodies, self.unknown = {}, {}, [], [], set()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """Print an error of the stand-in, but no end of a connection: `wandb sync` leaves its own open."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)

    def sent(self):
        """The bodies of all that was sent, as one text: all but the headers, in which the key is."""
        return "\n".join(body.decode("utf-8", "replace") for _, body in self.bodies)

    def environment(self, mode="online"):
        """Variables with which wandb logs to this server."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY, "WANDB_MODE": mode}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.bodies.append((path, body))
            self._reply(self._answer(path, body))

    do_GET = do_PUT = do_POST

    def _answer(self, path, body):
        if path == "/graphql":
            asked = json.loads(body)
            operation, variables = OPERATION.search(asked["query"])[1], asked.get("variables") or {}
            answer = getattr(self, f"_{operation}", None)
            if answer is None:
                self.server.unknown.add(operation)
                return {"errors": [{"message": f"the stand-in knows no {operation}"}]}
            return {"data": answer(variables)}
        parts = path.strip("/").split("/")
        if parts[-1] == "file_stream":
            return self._stream(self.server.runs[parts[3]], json.loads(body))
        if parts[0] == "runs":
            self.server.runs[parts[1]].files["/".join(parts[2:])] = body
        elif parts[0] == "artifacts":
            self.server.artifacts[parts[1]]["/".join(parts[2:])] = body
        elif TELEMETRY not in path:
            self.server.unknown.add(path)
        return {}

    def _stream(self, run, sent):
        for name, chunk in sent.get("files", {}).items():
            run.streams.setdefault(name, [])[chunk["offset"] :] = chunk["content"]
        run.fields |= {name: sent[name] for name in ("complete", "exitcode") if name in sent}
        return {}

    def _reply(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    # ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _Viewer(self, _):
        person = {
            "id": "1",
            "entity": ENTITY,
            "username": "someone",
            "email": "",
            "flags": json.dumps(self.server.flags),
        }
        return {"viewer": person | {"teams": {"edges": []}, "admin": False, "apiKeys": {"edges": []}}}

    _GetDefaultEntity = _Viewer

    def _ServerFeaturesQuery(self, _):
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _):
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, asked):
        run = self.server.runs.get(asked["name"])
        owner = {"id": "1", "name": ENTITY}
        bucket = None if run is None else run.bucket()
        return {"model": {"id": "1", "name": asked["project"], "entity": owner, "bucket": bucket}}

    def _UpsertBucket(self, asked):
        inserted = asked["name"] not in self.server.runs
        run = self.server.runs.setdefault(asked["name"], Run({"id": f"id-{asked['name']}"}))
        run.fields |= {name: value for name, value in asked.items() if value is not None}
        project = {"id": "1", "name": asked["project"], "entity": {"id": "1", "name": ENTITY}}
        bucket = run.bucket() | {"project": project, "description": None, "sweepName": None}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, asked):
        at = f"{self.server.address}/runs/{asked['run']}"
        files = [{"name": name, "uploadUrl": f"{at}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": f"id-{asked['run']}", "uploadHeaders": [], "files": files}}

    # ── tables, which are artifacts too ─────────────────────────────────────────────────────────────────────────────

    def _ArtifactType(self, _):
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, asked):
        name = asked["input"]["artifactCollectionName"]
        self.server.artifacts[name] = {}
        made = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _manifest(self, name):
        at = {"id": name, "uploadUrl": f"{self.server.address}/artifacts/{name}/manifest", "uploadHeaders": []}
        return {"artifactManifest": {"id": name, "file": at}}

    def _CreateArtifactManifest(self, asked):
        return {"createArtifactManifest": self._manifest(asked["artifactID"])}

    def _UpdateArtifactManifest(self, asked):
        return {"updateArtifactManifest": self._manifest(asked["artifactManifestID"])}

    def _CreateArtifactFiles(self, asked):
        nodes = []
        for file in asked["input"]["artifactFiles"]:
            url = f"{self.server.address}/artifacts/{file['artifactID']}/{file['name']}"
            node = {"storagePath": file["name"], "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
            nodes.append({"node": node | {"artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, asked):
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "0"}}}

    # ── reports and workspaces ──────────────────────────────────────────────────────────────────────────────────────

    def _GetProjects(self, _):
        node = {"id": "1", "name": "ebmzoo", "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z"}
        edges = [{"node": node | {"isBenchmark": False, "user": None}, "cursor": "1"}]
        return {"models": {"edges": edges, "pageInfo": {"hasNextPage": False, "endCursor": None}}}

    def _upsertView(self, asked):
        self.server.views.append(asked)
        project = {"id": "1", "name": asked["projectName"], "entityName": asked["entityName"]}
        view = {"id": f"view{len(self.server.views)}", "project": project, "updatedAt": "2026-01-01T00:00:00Z"}
        kept = {name: asked.get(name) for name in ("type", "name", "displayName", "description", "spec")}
        return {"upsertView": {"view": view | kept, "inserted": True}}

    _UpsertView2 = _upsertView


@contextmanager
def serving(**flags):
    """A `Server` that answers within the block; a question that it does not know is an error at the block's end."""
    with Server(**flags) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    assert not server.unknown


if __name__ == "__main__":  # to look at by hand: prints the variables, and what is asked
    with Server() as by_hand:
        print(f"export WANDB_BASE_URL={by_hand.address} WANDB_API_KEY={KEY}", file=sys.stderr)
        by_hand.serve_forever()

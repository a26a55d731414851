"""A stand-in of the Hugging Face hub: the endpoints that a push, a look-up and a download need.

It speaks HTTP to the real client (`HF_ENDPOINT`), keeps everything in memory, and asks for a token
where the hub does.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
from urllib import parse

import yaml

TOKEN = "hf_standin"
LARGE = 20_000
"""Bytes from which a file goes to the large file storage; the hub decides by kind and size."""


@dataclasses.dataclass
class Repository:
  """Commits by branch, newest last; files by commit."""

  private: bool
  branches: dict[str, list[str]] = dataclasses.field(default_factory=lambda: {"main": []})
  trees: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
  messages: list[str] = dataclasses.field(default_factory=list)

  def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
    """Adds a commit to a branch and returns its hash."""
    text = repr((branch, sorted(files.items()), len(self.messages)))
    sha = hashlib.sha1(text.encode()).hexdigest()
    self.branches[branch].append(sha)
    self.trees[sha] = files
    self.messages.append(message)
    return sha

  def files(self, revision: str = "main") -> dict[str, bytes]:
    """Returns the files of a branch, or of a commit."""
    return self.trees[self.sha(revision) or ""]

  def sha(self, revision: str) -> str | None:
    """Returns the commit of a revision; None if there is none."""
    if revision in self.branches:
      return self.branches[revision][-1]
    return revision if revision in self.trees else None


class Hub(http.server.ThreadingHTTPServer):
  """The stand-in.

  Attributes:
    repositories: By id.
    large: Contents of the large file storage, by SHA-256.
    requests: Method and path of everything that was asked.
    fails: Part of a path -> the status with which it fails; 0 drops the connection.
  """

  daemon_threads = True

  def __init__(self):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.repositories: dict[str, Repository] = {}
    self.large: dict[str, bytes] = {}
    self.requests: list[tuple[str, str]] = []
    self.fails: dict[str, int] = {}

  @property
  def address(self) -> str:
    return f"http://127.0.0.1:{self.server_port}"

  def make(self, name: str, files: dict[str, bytes], *, private: bool = False) -> Repository:
    """Adds a repository with one commit."""
    made = self.repositories[name] = Repository(private)
    made.commit("main", files, "initial commit")
    return made


@contextlib.contextmanager
def running():
  """Yields a hub that is served."""
  with Hub() as hub:
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: Hub

  def log_message(self, *args):  # quiet
    pass

  def _answer(self, status: int, body: bytes | dict | list = b"", **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    self.send_response(status)
    lengths = {} if "Content-Length" in headers else {"Content-Length": str(len(content))}
    for name, value in {**lengths, **headers}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _error(self, status: int, code: str, message: str = "") -> None:
    self._answer(
      status, {"error": message or code}, **{"X-Error-Code": code, "X-Error-Message": message}
    )

  def _handle(self) -> None:
    path = parse.unquote(parse.urlsplit(self.path).path)
    self.server.requests.append((self.command, path))
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    for part, status in self.server.fails.items():
      if part in path:
        if not status:
          self.close_connection = True
          return
        return self._error(status, "", "the stand-in was told to fail")
    writes = self.command in ("POST", "PUT") and "/lfs-storage/" not in path
    known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
    if writes and not known:
      return self._error(401, "", "Invalid credentials in Authorization header")
    for pattern, method in _ROUTES:
      if (found := pattern.fullmatch(f"{self.command} {path}")) is not None:
        return method(self, body, known, **found.groupdict())
    self._error(404, "", f"the stand-in has no {path}")

  do_GET = do_HEAD = do_POST = do_PUT = _handle

  def _repository(self, name: str, known: bool) -> Repository | None:
    found = self.server.repositories.get(name)
    if found is None or (found.private and not known):
      self._error(404 if known else 401, "RepoNotFound", "Repository not found")
      return None
    return found

  def create(self, body: bytes, known: bool) -> None:
    asked = json.loads(body)
    name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
    if name in self.server.repositories:
      return self._error(409, "", "You already created this model repo")
    private = asked.get("private") or asked.get("visibility") == "private"
    self.server.make(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=bool(private))
    self._answer(200, {"url": f"{self.server.address}/{name}"})

  def validate(self, body: bytes, known: bool) -> None:
    text = json.loads(body)["content"]
    header = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    fields = yaml.safe_load(header[1]) if header else None
    errors = [] if isinstance(fields, dict) else [{"message": "no metadata"}]
    self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

  def info(self, body: bytes, known: bool, name: str, revision: str | None) -> None:
    if (found := self._repository(name, known)) is None:
      return
    if (sha := found.sha(revision or "main")) is None:
      return self._error(404, "RevisionNotFound", "Invalid rev id")
    siblings = [{"rfilename": file} for file in sorted(found.trees[sha])]
    about = {"id": name, "modelId": name, "sha": sha, "private": found.private}
    self._answer(200, {**about, "siblings": siblings, "tags": []})

  def tree(self, body: bytes, known: bool, name: str, revision: str) -> None:
    if (found := self._repository(name, known)) is None:
      return
    if (sha := found.sha(revision)) is None:
      return self._error(404, "RevisionNotFound", "Invalid rev id")
    files = [
      {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": file}
      for file, content in sorted(found.trees[sha].items())
    ]
    self._answer(200, files, **{"Content-Type": "application/json"})

  def preupload(self, body: bytes, known: bool, name: str, revision: str) -> None:
    modes = [
      {
        "path": file["path"],
        "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
        "shouldIgnore": False,
      }
      for file in json.loads(body)["files"]
    ]
    self._answer(200, {"files": modes})

  def batch(self, body: bytes, known: bool, name: str) -> None:
    objects = []
    for asked in json.loads(body)["objects"]:
      href = f"{self.server.address}/lfs-storage/{asked['oid']}"
      sent = asked["oid"] in self.server.large
      objects.append(asked | ({} if sent else {"actions": {"upload": {"href": href}}}))
    self._answer(200, {"transfer": "basic", "objects": objects})

  def store(self, body: bytes, known: bool, oid: str) -> None:
    if hashlib.sha256(body).hexdigest() != oid:
      return self._error(400, "", "The content has another hash")
    self.server.large[oid] = body
    self._answer(200)

  def branch(self, body: bytes, known: bool, name: str, branch: str) -> None:
    if (found := self._repository(name, known)) is None:
      return
    if branch in found.branches:
      return self._error(409, "", "Reference already exists")
    found.branches[branch] = list(found.branches["main"])
    self._answer(200, {})

  def commit(self, body: bytes, known: bool, name: str, revision: str) -> None:
    if (found := self._repository(name, known)) is None:
      return
    if revision not in found.branches:
      return self._error(404, "RevisionNotFound", "Invalid rev id")
    files, message = dict(found.files(revision)), ""
    for line in body.splitlines():
      value = (entry := json.loads(line))["value"]
      if entry["key"] == "header":
        message, parent = value["summary"], value.get("parentCommit")
        if parent not in (None, found.sha(revision)):
          return self._error(412, "", "A commit has happened since")
      elif entry["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
      elif entry["key"] == "lfsFile":
        files[value["path"]] = self.server.large[value["oid"]]
      else:
        del files[value["path"]]
    sha = found.commit(revision, files, message)
    url = f"{self.server.address}/{name}/commit/{sha}"
    self._answer(200, {"commitUrl": url, "commitOid": sha, "success": True})

  def resolve(self, body: bytes, known: bool, name: str, revision: str, file: str) -> None:
    if (found := self._repository(name, known)) is None:
      return
    if (sha := found.sha(revision)) is None:
      return self._error(404, "RevisionNotFound", "Invalid rev id")
    headers = {"X-Repo-Commit": sha}
    if (content := found.trees[sha].get(file)) is None:
      return self._answer(404, **headers, **{"X-Error-Code": "EntryNotFound"})
    etag = hashlib.sha1(content).hexdigest()
    self._answer(200, content, ETag=f'"{etag}"', **headers)


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_MODEL, _REVISION = f"/api/models/{_NAME}", "(?P<revision>[^/]+)"
_ROUTES = [
  (re.compile(pattern), method)
  for pattern, method in (
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET {_MODEL}(/revision/{_REVISION})?", _Handler.info),
    (rf"GET {_MODEL}/tree/{_REVISION}", _Handler.tree),
    (rf"POST {_MODEL}/preupload/{_REVISION}", _Handler.preupload),
    (rf"POST {_MODEL}/branch/(?P<branch>[^/]+)", _Handler.branch),
    (rf"POST {_MODEL}/commit/{_REVISION}", _Handler.commit),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs-storage/(?P<oid>\w+)", _Handler.store),
    (rf"(GET|HEAD) /{_NAME}/resolve/{_REVISION}/(?P<file>.+)", _Handler.resolve),
  )
]

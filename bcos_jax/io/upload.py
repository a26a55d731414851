"""Uploads to the Hugging Face hub: all files of a folder as one commit, or nothing."""

from __future__ import annotations

from collections.abc import Collection
import dataclasses
import pathlib
from typing import Any

from ..errors import InputError, RunError, requires
from . import hub

_REFUSED = (401, 403)  # status codes: no valid token, or one that may not write there
_EMPTY = (".gitattributes",)  # what the hub puts into a new repository


@dataclasses.dataclass(frozen=True, kw_only=True)
class Destination:
  """A repository of the hub that may be written, as it was when it was looked up.

  Attributes:
    repository: `owner/name`.
    revision: The branch.
    commit: Its last commit; None if there is no such repository.
    is_new: Whether the branch has to be made.
    private: Whether a new repository is private; None leaves it to the owner's settings.
    files: What the branch holds.
  """

  repository: str
  revision: str = "main"
  commit: str | None = None
  is_new: bool = False
  private: bool | None = None
  files: tuple[str, ...] = ()

  @property
  def id(self) -> str:
    """What opens it: `owner/name`, with `@revision` where that is not the main branch."""
    return self.repository + (f"@{self.revision}" if self.revision != "main" else "")


def destination(name: str, *, private: bool | None = None, overwrite: bool = False) -> Destination:
  """Looks up where to write; nothing is made or sent.

  Args:
    name: `owner/name`, or `owner/name@branch`.
    private: As in `Destination`.
    overwrite: Allows a branch that holds files already.

  Raises:
    InputError: A name that is no hub id, no token, HF_HUB_OFFLINE; a branch that holds files, or a
      public repository where a private one is asked for; or the hub refuses.
    RunError: The hub cannot be reached.
  """
  api, repository, revision = _checked(name)
  from huggingface_hub import errors

  try:
    info = api.model_info(repository)
    if private and not info.private:
      raise InputError(
        f"The repository {repository!r} exists and is public; a private one is asked for.",
        "Make it private in its settings on the hub, or choose another name.",
      )
    is_new = False
    if revision != "main":
      try:
        info = api.model_info(repository, revision=revision)
      except errors.RevisionNotFoundError:
        is_new = True  # it starts from the main branch
  except errors.RepositoryNotFoundError:
    return Destination(
      repository=repository, revision=revision, is_new=revision != "main", private=private
    )
  except InputError:
    raise
  except Exception as error:  # connections fail in many ways
    raise _failed(f"look up {repository!r}", error) from error
  files = tuple(sibling.rfilename for sibling in info.siblings or ())
  if (held := sorted(set(files) - set(_EMPTY))) and not overwrite:
    raise InputError(
      f"The repository {name!r} holds {len(held)} files already, such as {held[0]!r}.",
      "Choose another name or branch (owner/name@branch), or pass --overwrite (overwrite=True).",
    )
  return Destination(
    repository=repository,
    revision=revision,
    commit=info.sha,
    is_new=is_new,
    private=private,
    files=files,
  )


def push(folder: pathlib.Path, where: Destination, *, stale: Collection[str], message: str) -> str:
  """Uploads all files of a folder by one commit, and returns its address.

  Args:
    folder: What to upload.
    where: From `destination`; made if it is not there.
    stale: Files of the branch that are deleted by the same commit.
    message: Of the commit.

  Raises:
    InputError: The hub refuses.
    RunError: The connection fails, or the branch has changed since it was looked up. The branch is
      then as it was.
  """
  import huggingface_hub

  api = huggingface_hub.HfApi()
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  operations: list[Any] = [
    huggingface_hub.CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths
  ]
  operations += [huggingface_hub.CommitOperationDelete(name) for name in sorted(stale)]
  try:
    if where.commit is None:
      api.create_repo(where.repository, private=where.private, exist_ok=True)
    if where.is_new:
      api.create_branch(where.repository, branch=where.revision, exist_ok=True)
    made = api.create_commit(
      where.repository,
      operations,
      commit_message=message,
      revision=where.revision,
      parent_commit=where.commit,
    )
  except Exception as error:  # connections fail in many ways
    raise _failed(f"push to {where.id!r}", error) from error
  return made.commit_url


def check_id(name: str) -> None:
  """Raises InputError unless a name may be that of a repository, or of one of its branches."""
  cause = "expected owner/name or owner/name@branch"
  if hub.is_id(name):
    requires("text", "Repositories of the hub")
    from huggingface_hub import errors, utils

    try:
      utils.validate_repo_id(hub.parted(name)[0])
      return
    except errors.HFValidationError as error:
      cause = " ".join(str(error).split()).rstrip(".")
  raise InputError(
    f"{name!r} is no repository of the hub: {cause}.", "For example: me/bcos-resnet18."
  )


def _checked(name: str) -> tuple[Any, str, str]:
  """Returns the client, repository and branch, if there is any sense in asking the hub."""
  check_id(name)
  import huggingface_hub

  if huggingface_hub.is_offline_mode():
    raise InputError(
      f"Cannot push to {name!r}: HF_HUB_OFFLINE forbids to reach the hub.",
      "Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE).",
    )
  if huggingface_hub.get_token() is None:
    raise InputError(
      f"Cannot push to {name!r}: there is no token of the hub, which says who you are.",
      "Set HF_TOKEN to a token that may write (huggingface.co/settings/tokens), or run: "
      "hf auth login.",
    )
  repository, revision = hub.parted(name)
  return huggingface_hub.HfApi(), repository, revision or "main"


def _failed(what: str, error: Exception) -> InputError | RunError:
  cause = " ".join(str(error).split())[:300] or type(error).__name__
  status = getattr(getattr(error, "response", None), "status_code", None)
  if status in _REFUSED:
    return InputError(
      f"The hub refuses to {what}: {cause}",
      "Check that the token (HF_TOKEN, or hf auth login) may write for this owner.",
    )
  return RunError(
    f"Cannot {what}: {cause}",
    "Check the connection and run it again: files come with one commit at the end, so that the "
    "repository is as it was, and what is uploaded is not sent again.",
  )

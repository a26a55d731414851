"""Pages of the site that are made when it is built, and the check of all links.

The home page is the README; the API reference has a page per folder of modules, made from their
docstrings; the page of commands is what `--help` prints.
"""

import ast
import html.parser
import json
import os
import pathlib
import re
import urllib.parse

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "bcos_jax"
COPIED = {
  "README.md": "index.md",
  "CHANGELOG.md": "changelog.md",
  "CONTRIBUTING.md": "contributing.md",
}
HIDDEN = ("bcos_jax.cli", "bcos_jax.configs")  # commands and recipes have pages of their own kind


def on_config(config):
  """Adds the made pages to the navigation."""
  studies = sorted(path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/studies/*/*.md"))
  config.nav += [
    {"Studies": [{path.parent.name: path.as_posix()} for path in studies]},
    {"Command line": "commands.md"},
    {"API reference": [{name: f"api/{name}.md"} for name in _folders()]},
    {"Changelog": "changelog.md"},
    {"Contributing": "contributing.md"},
  ]
  return config


def on_files(files, config):
  """Adds the pages themselves."""
  pages = {name: _copied(source) for source, name in COPIED.items()}
  pages["license.md"] = f"# License\n\n```\n{(ROOT / 'LICENSE').read_text(encoding='utf-8')}\n```\n"
  pages["commands.md"] = _commands()
  pages |= {f"api/{name}.md": _reference(name, folder) for name, folder in _folders().items()}
  for name, text in pages.items():
    files.append(File.generated(config, name, content=text))
  return files


def _copied(source):
  """Returns a page of the root, with its links as they are from `docs`."""
  text = (ROOT / source).read_text(encoding="utf-8")
  for other, name in (COPIED | {"LICENSE": "license.md"}).items():
    text = text.replace(f"]({other})", f"]({name})")
  return re.sub(r'(\]\(|src=")docs/', r"\1", text)


def _folders():
  """Returns the folders of modules by dotted name."""
  found = {}
  for folder, _, names in os.walk(PACKAGE, followlinks=True):
    name = ".".join(pathlib.Path(folder).relative_to(ROOT).parts)
    if "__init__.py" in names and not name.startswith(HIDDEN):
      found[name] = pathlib.Path(folder)
  return dict(sorted(found.items()))


def _reference(name, folder):
  """Returns the page of a folder: what its docstring says, and every module in it."""
  init = folder / "__init__.py"
  lines = [f"# {name}", "", _entry(name, members=_own_names(init))]
  if name == "bcos_jax":
    lines += ["| name | where it is |", "|---|---|", *_public_names(init), ""]
  for path in sorted(folder.glob("*.py")):
    if not path.stem.startswith("__"):
      lines += [f"## {path.stem}", "", _entry(f"{name}.{path.stem}")]
  return "\n".join(lines)


def _entry(name, **options):
  """Returns what makes mkdocstrings write a module, without a heading of its own."""
  options |= {"show_root_heading": False, "show_root_toc_entry": False}
  lines = [f"      {key}: {json.dumps(value)}" for key, value in options.items()]
  return "\n".join([f"::: {name}", "    options:", *lines, ""])


def _own_names(init):
  """Returns the public names that a package defines itself, not those that it imports."""
  kinds = (ast.FunctionDef, ast.ClassDef)
  body = ast.parse(init.read_text(encoding="utf-8")).body
  return [node.name for node in body if isinstance(node, kinds) and node.name[0] != "_"]


def _public_names(init):
  """Yields a row for each name that a module imports as itself, with the reference to it."""
  for node in ast.parse(init.read_text(encoding="utf-8")).body:
    if isinstance(node, ast.ImportFrom) and node.level and node.module:
      for alias in node.names:
        where = f"bcos_jax.{node.module}"
        if (PACKAGE / node.module.replace(".", "/")).is_dir():
          where = _defining(where, alias.name)
        yield f"| [`bcos_jax.{alias.asname}`][{where}.{alias.name}] | `{where}` |"


def _defining(package, name):
  """Returns the module from which a package imports a name, or the package."""
  path = ROOT.joinpath(*package.split("."), "__init__.py")
  for node in ast.parse(path.read_text(encoding="utf-8")).body:
    if isinstance(node, ast.ImportFrom) and node.level == 1:
      if any(alias.name == name for alias in node.names):
        return f"{package}.{node.module}"
  return package


def _commands():
  """Returns the help of every command."""
  from bcos_jax import cli

  os.environ["COLUMNS"] = "78"  # what fits on the page
  parser = cli.command_parser()
  lines = ["# Command line", "", _fenced(parser.format_help())]
  for name, command in cli.commands(parser).items():
    lines += [f"## {name}", "", _fenced(command.format_help())]
  return "\n".join(lines)


def _fenced(text):
  return f"```text\n{text.rstrip()}\n```\n"


class _Links(html.parser.HTMLParser):
  """Collects what a page links to and loads, and the anchors that it has."""

  def __init__(self, text):
    super().__init__()
    self.links, self.loaded, self.anchors = set(), set(), set()
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    fields = dict(attributes)
    self.anchors |= {fields[name] for name in ("id", "name") if fields.get(name)}
    self.links |= {fields[name] for name in ("href", "src") if fields.get(name)}
    self.loaded |= {fields["src"]} if fields.get("src") else set()


def on_post_build(config):
  """Fails if a page links to a file or anchor that is not there, or loads anything from a server.

  Raises:
    PluginError: Lists all broken links.
  """
  site = pathlib.Path(config.site_dir).resolve()
  pages = {path: _Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
  broken = [
    f"{page.relative_to(site)}: {link}"
    for page, found in pages.items()
    if page.name != "404.html"  # its links are from the root of a server
    for link in sorted(found.links)
    if not _exists(link, page, pages)
    or (link in found.loaded and urllib.parse.urlsplit(link).netloc)
  ]
  if broken:
    raise PluginError("Broken links:\n" + "\n".join(broken))


def _exists(link, page, pages):
  parts = urllib.parse.urlsplit(link)
  if parts.scheme or parts.netloc:
    return True  # elsewhere: not looked at without network
  target = page if not parts.path else (page.parent / urllib.parse.unquote(parts.path)).resolve()
  if target.is_dir():
    target /= "index.html"
  if not target.is_file():
    return False
  anchor = urllib.parse.unquote(parts.fragment)
  return not anchor or target not in pages or anchor in pages[target].anchors

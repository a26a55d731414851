"""Notebooks, executed cell by cell without Jupyter, and what their cells display.

  python -m tests.docs.notebooks docs/notebooks/quickstart.ipynb

executes notebooks in a folder of their own, and writes the outputs into them.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import pathlib
import sys
import tempfile
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

Output = dict[str, Any]
_MOST = 100_000  # bytes of a picture, before base64
METADATA = {
  "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
  "language_info": {"name": "python"},
}


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns the cells of code."""
  return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def read(path: pathlib.Path) -> dict[str, Any]:
  """Returns a notebook's content."""
  return json.loads(path.read_text(encoding="utf-8"))


def execute(path: pathlib.Path) -> tuple[list[list[Output]], list[Any]]:
  """Executes a notebook in this process and the working directory.

  Args:
    path: The notebook.

  Returns:
    The outputs of each cell of code, and the values that the cells display, in order.
  """
  space: dict[str, Any] = {}
  outputs, values = [], []
  for cell in code(read(path)):
    tree = ast.parse("".join(cell["source"]))
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
      tree.body.pop()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec(compile(tree, str(path), "exec"), space)
      value = None
      if last is not None:
        value = eval(compile(ast.Expression(last.value), str(path), "eval"), space)
    outputs.append(_outputs(printed.getvalue(), value))
    values += [value] if value is not None else []
  return outputs, values


def _outputs(printed: str, value: Any) -> list[Output]:
  made: list[Output] = []
  if printed:
    made.append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(True)})
  if value is not None:
    made.append({"output_type": "display_data", "metadata": {}, "data": _shown(value)})
  return made


def _shown(value: Any) -> dict[str, Any]:
  """Returns what Jupyter shows of a value: text, and a picture or HTML if it has any."""
  data: dict[str, Any] = {"text/plain": repr(value).splitlines(True)}
  png = getattr(value, "_repr_png_", lambda: None)()
  if isinstance(value, Figure):
    file = io.BytesIO()
    value.savefig(file, format="png")
    png = file.getvalue()
  if png:
    data["image/png"] = base64.b64encode(_smaller(png)).decode()
  elif html := getattr(value, "_repr_html_", lambda: None)():
    data["text/html"] = html.splitlines(True)
  return data


def _smaller(png: bytes) -> bytes:
  """Returns a picture of the width of a page, photographs in 256 colours."""
  picture = Image.open(io.BytesIO(png)).convert("RGB")
  picture.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
  file = io.BytesIO()
  picture.save(file, "PNG", optimize=True)
  if file.tell() > _MOST:
    file = io.BytesIO()
    picture.quantize(256).save(file, "PNG", optimize=True)
  return file.getvalue()


def main() -> None:
  """Executes the notebooks given on the command line."""
  for name in sys.argv[1:]:
    path = pathlib.Path(name).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
      outputs, _ = execute(path)
    content = read(path) | {"metadata": METADATA}
    for cell, made in zip(code(content), outputs, strict=True):
      cell.update(outputs=made, execution_count=None, metadata={})
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
  main()

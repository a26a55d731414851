"""Renderings of explanations: coloured images, contribution maps, figures, offline reports.

```python
ex = bcos_jax.explain(model, variables, images)
render.rgba(ex)                              # [N, H, W, 4]: what the network sees, coloured
render.contribution_map(ex.contributions)    # red supports the class, blue opposes it
render.figure(ex, 0, labels, "explanation.png")
render.report("report.html", "My network", [render.Entry(ex, 0, labels)])
```
"""

from .color import contribution_map, cutoff_of, overlay, rgba, rgba_from
from .comparison import comparison
from .figure import figure, figures
from .kinds import Origin
from .plots import Panel, bars, curves
from .prompts import prompts
from .report import Entry, article, report
from .text.heat_maps import TextHeat, common_cutoff, explained_text, text_heat
from .text.html import text_fragment, text_html, text_report
from .text.picture import text_figure
from .text.plain import text_latex, text_terminal
from .views import Facts, Options, View, facts, ground, options_for, options_of, seen, view

__all__ = [
  "Entry",
  "Facts",
  "Options",
  "Origin",
  "Panel",
  "TextHeat",
  "View",
  "article",
  "bars",
  "common_cutoff",
  "comparison",
  "contribution_map",
  "curves",
  "cutoff_of",
  "explained_text",
  "facts",
  "figure",
  "figures",
  "ground",
  "options_for",
  "options_of",
  "overlay",
  "prompts",
  "report",
  "rgba",
  "rgba_from",
  "seen",
  "text_figure",
  "text_fragment",
  "text_heat",
  "text_html",
  "text_latex",
  "text_report",
  "text_terminal",
  "view",
]

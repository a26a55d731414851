"""The browser app that explains a user's pictures; see `server.serve`.

What is shown is decided by pure functions (`pictures`, `networks`, `shown`); `page` lays it out
with Dash, and `server` guards it. The server keeps nothing between two requests: a picture lives
in the browser that gave it, so that nobody else can ask for it.
"""

from .pictures import Limits
from .server import Settings, serve

__all__ = ["Limits", "Settings", "serve"]

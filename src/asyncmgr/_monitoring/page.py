"""The page at ``/``: for now the links to what else there is."""

from __future__ import annotations

from html import escape

from asyncmgr._service.service import Service

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem; color-scheme: light dark }}</style>
<h1>{title}</h1>
<p>{reason}</p>
<ul>
<li><a href="health">health</a>: what needs somebody
<li><a href="api/status">status</a> of the tasks
<li><a href="metrics">metrics</a>
<li>probes: <a href="livez">livez</a>, <a href="readyz">readyz</a>
</ul>
</html>
"""


def page(service: Service) -> str:
    """Write the page."""
    title = f"{service.name} on {service.host}"
    return _PAGE.format(title=escape(title), reason=escape(service.health.reason))

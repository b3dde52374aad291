"""
The web server of the explorer: where it listens, who is let in, what browsers are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import eventlet
from nameko.constants import WEB_SERVER_CONFIG_KEY
from nameko.web.handlers import HttpRequestHandler
from nameko.web.server import WebServer, parse_address
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import MapAdapter
from werkzeug.wrappers import Request, Response

from nameko_eventlog import compat
from nameko_eventlog.explorer.access import Access
from nameko_eventlog.explorer.config import DEFAULT_ADDRESS, parse_explorer_config
from nameko_eventlog.explorer.rendering import make_environment


HEADERS = {
    # nothing is run or loaded but the package's own files; forms lead back here
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer bears, those that refuse among them."""


_SIGNALS_EVERY = 0.5


class ExplorerServer(WebServer):
    """
    Nameko's web server, on loopback unless it is told otherwise, behind a password.
    """

    _is_started = False

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: Something in it is wrong, or unsafe.
        """
        super().setup()
        self._environment = make_environment()
        self._access = Access(parse_explorer_config(compat.service_config(self.container)))

    def start(self) -> None:
        """
        Begin listening.
        """
        super().start()
        self._is_started = True
        self._waker = self.container.spawn_managed_thread(_wake)

    def stop(self) -> None:
        """
        End, if it was begun: Nameko's own stops what has failed to start, and fails again.
        """
        if self._is_started:
            self._waker.kill()
            super().stop()

    @property
    def bind_addr(self) -> Any:
        """
        Where it listens.
        """
        config = compat.service_config(self.container)
        return parse_address(config.get(WEB_SERVER_CONFIG_KEY) or DEFAULT_ADDRESS)

    def get_wsgi_app(self) -> Callable[..., Iterable[bytes]]:
        """
        Return Nameko's application, with what is in front of it.
        """
        inner = super().get_wsgi_app()

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def start(status: str, headers: list[tuple[str, str]], *args: Any) -> Any:
                given = {name.lower() for name, _ in headers}
                more = [pair for pair in HEADERS.items() if pair[0].lower() not in given]
                return start_response(status, [*headers, *more], *args)

            refusal = (
                self._access.wrong_host(environ.get("HTTP_HOST"))
                or self._access.refusal(Request(environ))
                or self._missing(inner.url_map.bind_to_environ(environ))
            )
            answer: Iterable[bytes] = (refusal or inner)(environ, start)
            return answer

        return app

    def _missing(self, adapter: MapAdapter) -> Response | None:
        """
        Return the page for who asks for what no page is, or in a way that is none, or None.
        """
        try:
            adapter.match()
        except NotFound as exc:
            why = f"Nothing is at {adapter.path_info[:200]!r}."
            return self._problem(exc, "There is no such page", why)
        except MethodNotAllowed as exc:
            why = f"{adapter.default_method} is not known here: GET alone is."
            return self._problem(exc, "There is nothing to change", why)
        except HTTPException:
            pass  # a redirection
        return None

    def _problem(self, exc: HTTPException, title: str, why: str) -> Response:
        html = self._environment.get_template("problem.html").render(title=title, why=why)
        kept = [pair for pair in exc.get_headers() if pair[0] == "Allow"]
        return Response(html, exc.code, kept, content_type="text/html; charset=utf-8")


def _wake() -> None:
    """
    Wake eventlet's hub: what a signal has set going waits until something does.

    Services that consume are woken by their broker; this one may have nothing to do for a minute,
    and would not end before that.
    """
    while True:
        eventlet.sleep(_SIGNALS_EVERY)


class PageHandler(HttpRequestHandler):
    """
    An entrypoint for a page: GET, and nothing else.
    """

    server = ExplorerServer()

    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__("GET", url, **kwargs)


page = PageHandler.decorator

"""
The web server of the explorer: where it listens, who is let in, what browsers are told.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any

import eventlet
from eventlet import wsgi
from nameko.constants import WEB_SERVER_CONFIG_KEY
from nameko.web.handlers import HttpRequestHandler
from nameko.web.server import WebServer, parse_address
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import MapAdapter
from werkzeug.wrappers import Request, Response

from nameko_eventlog import compat, limits
from nameko_eventlog.explorer.access import Access
from nameko_eventlog.explorer.config import DEFAULT_ADDRESS, parse_explorer_config
from nameko_eventlog.explorer.connections import Connection, Connections, connection_limit
from nameko_eventlog.explorer.protocol import CONNECTION, HEADERS, Protocol, log_access
from nameko_eventlog.explorer.rendering import make_environment


_log = logging.getLogger("nameko_eventlog.explorer")

_TICK = 0.5

Headers = list[tuple[str, str]]


class ExplorerServer(WebServer):
    """
    Nameko's web server, on loopback unless it is told otherwise, behind a password, within limits.
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
        config = parse_explorer_config(compat.service_config(self.container))
        most = connection_limit()
        self._access = Access(config, most)
        self._connections = Connections(most)
        self._large_answers = 0

    def start(self) -> None:
        """
        Begin listening.
        """
        super().start()
        if not self._is_started:
            self._is_started = True
            self._ticker = self.container.spawn_managed_thread(self._tick)
            host, port = self._sock.getsockname()[:2]
            _log.info("the explorer listens on http://%s:%d", host, port)

    def stop(self) -> None:
        """
        End, if it was begun: Nameko's own stops what has failed to start, and fails again.
        """
        if self._is_started:
            self._ticker.kill()
            super().stop()

    @property
    def bind_addr(self) -> Any:
        """
        Where it listens.
        """
        config = compat.service_config(self.container)
        return parse_address(config.get(WEB_SERVER_CONFIG_KEY) or DEFAULT_ADDRESS)

    def run(self) -> None:
        """
        Accept connections, until it is stopped.
        """
        while self._is_accepting:
            connection = self._connections.accept(self._sock)
            if connection is not None:
                self.container.spawn_managed_thread(partial(self._serve, connection))
            eventlet.sleep(0)  # a flood of connections is no reason to keep others waiting

    def get_wsgi_server(self, sock: Any, wsgi_app: Any, **kwargs: Any) -> wsgi.Server:
        """
        Return eventlet's server, which logs no requests: `Protocol` and the application do.
        """
        server = wsgi.Server(
            sock,
            sock.getsockname(),
            wsgi_app,
            log=_EventletLog(),
            protocol=Protocol,
            url_length_limit=limits.REQUEST_LINE_BYTES,
            debug=False,
        )
        server.log_output = False
        return server

    def get_wsgi_app(self) -> Callable[..., Iterable[bytes]]:
        """
        Return Nameko's application, with what is in front of it.
        """
        inner = super().get_wsgi_app()

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            began = monotonic()
            answer, status, headers = self._answer(inner, environ)
            size = next((int(value) for name, value in headers if name == "Content-Length"), 0)
            is_large = size >= limits.LARGE_ANSWER_BYTES and environ["REQUEST_METHOD"] != "HEAD"
            if is_large and self._large_answers >= limits.LARGE_ANSWERS:
                is_large = False
                why = "Too many large answers are being sent: try again in some seconds."
                response = self._problem(503, "The explorer is busy", why, {"Retry-After": "5"})
                answer, status, headers = _run(response, environ)
                size = response.content_length or 0
            self._large_answers += is_large
            client: Connection = environ[CONNECTION]
            client.send(size)

            def ended(_: dict[str, Any]) -> None:
                self._large_answers -= is_large
                path, method = environ["RAW_PATH_INFO"], environ["REQUEST_METHOD"]
                code, seconds = int(status.split()[0]), monotonic() - began
                log_access(client.host, method, path, code, size, seconds)

            environ["eventlet.posthooks"].append((ended, (), {}))
            given = {name.lower() for name, _ in headers}
            more = [pair for pair in HEADERS.items() if pair[0].lower() not in given]
            start_response(status, [*headers, *more])
            return answer

        return app

    def _answer(self, inner: Any, environ: dict[str, Any]) -> tuple[Iterable[bytes], str, Headers]:
        """
        Answer a request in the time that there is for that, whatever happens.
        """
        late = eventlet.Timeout(limits.ANSWER_SECONDS)
        try:
            return _run(self._refusal(inner, environ) or inner, environ)
        except eventlet.Timeout as exc:
            if exc is not late:
                raise
            why = f"There was no answer within {limits.ANSWER_SECONDS:g} s: try again later."
            response = self._problem(503, "The explorer is busy", why)
        except Exception as exc:
            log_error("a request could not be answered", exc)
            response = self._problem(500, *_FAILED)
        finally:
            late.cancel()
        return _run(response, environ)

    def _refusal(self, inner: Any, environ: dict[str, Any]) -> Response | None:
        request = Request(environ)
        return (
            self._access.wrong_host(environ.get("HTTP_HOST"))
            or self._access.wrong_site(request)
            or self._access.refusal(request)
            or self._missing(inner.url_map.bind_to_environ(environ))
            or self._unconfirmed(request)
        )

    def _missing(self, adapter: MapAdapter) -> Response | None:
        """
        Return the page for who asks for what no page is, or in a way that is none, or None.
        """
        try:
            adapter.match()
        except NotFound:
            why = f"Nothing is at {adapter.path_info[:200]!r}."
            return self._problem(404, "There is no such page", why)
        except MethodNotAllowed as exc:
            why = f"{adapter.default_method} is not known here: GET alone is."
            kept = {name: value for name, value in exc.get_headers() if name == "Allow"}
            return self._problem(405, "There is nothing to change", why, kept)
        except HTTPException:
            pass  # a redirection
        return None

    def _unconfirmed(self, request: Request) -> Response | None:
        if not self._access.asks_first(request):
            return None
        query = request.query_string.decode("latin-1")
        return self._problem(
            429,
            "Another site has opened this page",
            "It opens pages here again and again. If you have followed a link, go on.",
            {"Retry-After": f"{limits.CROSS_SITE_PAUSE_SECONDS:g}"},
            onward=request.environ["RAW_PATH_INFO"] + ("?" + query if query else ""),
        )

    def _problem(
        self,
        code: int,
        title: str,
        why: str,
        headers: dict[str, str] | None = None,
        onward: str | None = None,
    ) -> Response:
        template = self._environment.get_template("problem.html")
        html = template.render(title=title, why=why, onward=onward)
        return Response(html, code, headers, content_type="text/html; charset=utf-8")

    def _serve(self, connection: Connection) -> None:
        """
        Answer the requests of a connection: what is raised here would end the container.
        """
        conn_state = [connection.address, connection.socket, wsgi.STATE_IDLE, connection]
        try:
            self._serv.process_request(conn_state)
        except OSError:
            pass  # the client has gone
        except Exception as exc:
            log_error(f"a connection of {connection.host} has failed", exc)
        finally:
            self._connections.remove(connection)

    def _tick(self) -> None:
        """
        End what has taken too long, and wake eventlet's hub: what a signal has set going waits
        until something does.

        Services that consume are woken by their broker; this one may have nothing to do for a
        minute, and would not end before that.
        """
        while True:
            eventlet.sleep(_TICK)
            self._connections.cut_overdue()


class PageHandler(HttpRequestHandler):
    """
    An entrypoint for a page: GET, and nothing else.
    """

    server = ExplorerServer()

    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__("GET", url, **kwargs)

    def response_from_exception(self, exc: Exception) -> Response:
        """
        Return the page for a failure: what has failed stands in the log, not on the page.
        """
        return self.server._problem(500, *_FAILED)


page = PageHandler.decorator

_FAILED = ("This page has failed", "The explorer's log says why.")


class _EventletLog:
    """
    Takes what eventlet logs: clients that have gone, mostly.
    """

    def info(self, message: str) -> None:
        _log.debug("%s", _one_line(message))

    debug = error = info


def log_error(what: str, exc: BaseException) -> None:
    """
    Log an exception with its traceback, on one line of ASCII: it may quote what a client has sent.
    """
    _log.error("%s: %s", what, _one_line("".join(traceback.format_exception(exc))))


def _one_line(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _run(app: Any, environ: dict[str, Any]) -> tuple[Iterable[bytes], str, Headers]:
    """
    Call a WSGI application, and return its answer before anything of it is sent.
    """
    begun: list[tuple[str, Headers]] = []

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> None:
        begun.append((status, headers))

    answer = app(environ, start_response)
    return answer, *begun[-1]

"""
The explorer's web server: its address, access control, limits, and error pages.
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
    Nameko's web server, on loopback by default, with access control and limits.
    """

    _is_started = False

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: It is invalid or unsafe.
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
        Stop, if the server was started: Nameko also stops a server that failed to start.
        """
        if self._is_started:
            self._ticker.kill()
            super().stop()

    @property
    def bind_addr(self) -> Any:
        """
        The address to listen on.
        """
        config = compat.service_config(self.container)
        return parse_address(config.get(WEB_SERVER_CONFIG_KEY) or DEFAULT_ADDRESS)

    def run(self) -> None:
        """
        Accept connections until the server is stopped.
        """
        while self._is_accepting:
            connection = self._connections.accept(self._sock)
            if connection is not None:
                self.container.spawn_managed_thread(partial(self._serve, connection))
            eventlet.sleep(0)  # a flood of connections must not block other green threads

    def get_wsgi_server(self, sock: Any, wsgi_app: Any, **kwargs: Any) -> wsgi.Server:
        """
        Return eventlet's server, without its request log: `Protocol` and the application log.
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
        Return Nameko's application, wrapped with access control, limits and headers.
        """
        inner = super().get_wsgi_app()

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            began = monotonic()
            answer, status, headers = self._answer(inner, environ)
            size = next((int(value) for name, value in headers if name == "Content-Length"), 0)
            is_large = size >= limits.LARGE_ANSWER_BYTES and environ["REQUEST_METHOD"] != "HEAD"
            if is_large and self._large_answers >= limits.LARGE_ANSWERS:
                is_large = False
                why = "Too many large answers are being sent: try again in a few seconds."
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
        Answer a request within the time limit, whatever happens.
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
            log_error("the explorer could not answer a request", exc)
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
        Return the error page for an unknown path or a wrong method, or None.
        """
        try:
            adapter.match()
        except NotFound:
            why = f"There is no page at {adapter.path_info[:200]!r}."
            return self._problem(404, "Page not found", why)
        except MethodNotAllowed as exc:
            why = f"{adapter.default_method} is not allowed: use GET."
            kept = {name: value for name, value in exc.get_headers() if name == "Allow"}
            return self._problem(405, "Method not allowed", why, kept)
        except HTTPException:
            pass  # a redirection
        return None

    def _unconfirmed(self, request: Request) -> Response | None:
        if not self._access.asks_first(request):
            return None
        query = request.query_string.decode("latin-1")
        return self._problem(
            429,
            "Another site opened this page",
            "That site keeps opening pages here. If you followed a link, continue.",
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
        Answer the requests of a connection. An exception here would kill the container.
        """
        conn_state = [connection.address, connection.socket, wsgi.STATE_IDLE, connection]
        try:
            self._serv.process_request(conn_state)
        except OSError:
            pass  # the client has gone
        except Exception as exc:
            log_error(f"a connection from {connection.host} failed", exc)
        finally:
            self._connections.remove(connection)

    def _tick(self) -> None:
        """
        Shut down overdue connections, and wake eventlet's hub regularly, so that it handles
        signals.

        The broker wakes services that consume. The explorer may be idle for a minute, and would
        not stop before that.
        """
        while True:
            eventlet.sleep(_TICK)
            self._connections.cut_overdue()


class PageHandler(HttpRequestHandler):
    """
    The entrypoint of a page, for GET only.
    """

    server = ExplorerServer()

    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__("GET", url, **kwargs)

    def response_from_exception(self, exc: Exception) -> Response:
        """
        Return the page for an error: the details are in the log, not on the page.
        """
        return self.server._problem(500, *_FAILED)


page = PageHandler.decorator

_FAILED = ("Internal error", "The explorer's log has the details.")


class _EventletLog:
    """
    Logs eventlet's messages, mostly about clients that have gone, at DEBUG.
    """

    def info(self, message: str) -> None:
        _log.debug("%s", _one_line(message))

    debug = error = info


def log_error(what: str, exc: BaseException) -> None:
    """
    Log an exception with its traceback on one line of ASCII, because it may quote a client.
    """
    _log.error("%s: %s", what, _one_line("".join(traceback.format_exception(exc))))


def _one_line(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _run(app: Any, environ: dict[str, Any]) -> tuple[Iterable[bytes], str, Headers]:
    """
    Call a WSGI application, and return its answer, status and headers, without sending them.
    """
    begun: list[tuple[str, Headers]] = []

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> None:
        begun.append((status, headers))

    answer = app(environ, start_response)
    return answer, *begun[-1]

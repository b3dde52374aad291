"""
The tests' own ClickHouse.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import http.client
import pathlib
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from tests.clickhouse import ClickHouse
from tests.clickhouse_engine import has_several, split_insert
from tests.postgresql import DatabaseServerError
from tests.rabbitmq import free_ports
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parent.parent

OWNER = """
import time
from tests.clickhouse import ClickHouse
server = ClickHouse()
server.start()
{then}
print(server._folder, server._server.pid, flush=True)
time.sleep(60)
"""

# Inserts batches until it fails, and prints what was acknowledged.
WRITER = """
import sys
import clickhouse_connect
port, database, first, batches = sys.argv[1], *map(str, sys.argv[2:])
client = clickhouse_connect.get_client(host="127.0.0.1", port=int(port), database=database)
for number in range(int(first), int(first) + int(batches)):
    rows = [(number, row, "text %d" % row) for row in range(1000)]
    client.insert("kept", rows, column_names=["batch", "row", "text"])
    print(number, flush=True)
"""

KEPT = """
CREATE TABLE kept (batch UInt64, row UInt64, text String) ENGINE = MergeTree ORDER BY (batch, row)
"""

pytestmark = pytest.mark.timeout(90)


def connect(uri: str, **options: Any) -> Client:
    """
    Connect to a database.
    """
    parts = urllib.parse.urlsplit(uri)
    return clickhouse_connect.get_client(
        host=parts.hostname,
        port=parts.port or 0,
        username=urllib.parse.unquote(parts.username or ""),
        password=urllib.parse.unquote(parts.password or ""),
        database=parts.path[1:],
        **options,
    )


def is_running(pid: int) -> bool:
    """
    Whether there is such a process, other than a dead one that nobody waited for.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def post(
    server: ClickHouse,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    **parameters: str,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """
    Send a request of our own.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", "/?" + urllib.parse.urlencode(parameters), body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def processes(server: ClickHouse, pattern: str) -> int:
    """
    Count the queries that run.
    """
    condition = f"query LIKE '%{pattern}%' AND query NOT LIKE '%system.processes%'"
    return int(server.execute(f"SELECT count() FROM system.processes WHERE {condition}"))


@pytest.fixture
def uri(clickhouse: ClickHouse) -> str:
    """
    An empty database.
    """
    clickhouse.start()
    return clickhouse.create_database()


@pytest.fixture
def client(uri: str) -> Iterator[Client]:
    """
    A client of an empty database.
    """
    client = connect(uri)
    yield client
    client.close()


def start_writer(uri: str, first: int, batches: int) -> subprocess.Popen[str]:
    """
    Start a process that inserts batches of a thousand rows into `KEPT`.
    """
    parts = urllib.parse.urlsplit(uri)
    arguments = [str(parts.port), parts.path[1:], str(first), str(batches)]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


class TestTypes:
    @pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
    def test_round_trip(self, uri: str, compress: Any) -> None:
        """
        What is inserted comes back, whatever its type, and whatever compresses it.
        """
        columns = {
            "id": "FixedString(16)",
            "body": "String",
            "name": "Nullable(String)",
            "number": "Nullable(Int64)",
            "kind": "LowCardinality(String)",
            "maybe": "LowCardinality(Nullable(String))",
            "pair": "Tuple(Int64, String)",
            "named": "Tuple(key String, value Nullable(Float64))",
            "list": "Array(String)",
            "pairs": "Array(Tuple(String, UInt64))",
            "signed": "Int64",
            "unsigned": "UInt64",
            "at": "DateTime64(6, 'UTC')",
            "seconds": "Float64",
            "flag": "Bool",
            "small": "UInt8",
        }
        at = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456, datetime.timezone.utc)
        named = {"key": "k", "value": 0.1}
        rows = [
            (
                *(bytes(range(240, 256)), b"\x00\xff\xfe;\n\t'\\", None, -(2**63), "kind", None),
                *((-1, "ж"), named, ["a", "", "\n'"], [("x", 2**64 - 1)], 2**63 - 1, 2**64 - 1),
                *(at, 1e-300, True, 255),
            ),
            (
                *(bytes(16), b"", "", 0, "", "", (0, ""), {"key": "", "value": None}, []),
                *([], -(2**63), 0, datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)),
                *(-0.5, False, 0),
            ),
        ]
        client = connect(uri, compress=compress, tz_mode="aware")
        described = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        client.command(f"CREATE TABLE kinds ({described}) ENGINE = MergeTree ORDER BY unsigned")
        client.insert("kinds", rows, column_names=list(columns))
        result = client.query(
            "SELECT * FROM kinds ORDER BY unsigned DESC",
            query_formats={"String": "bytes"},
            column_formats={"name": "string", "kind": "string", "maybe": "string"},
        )

        def plain(value: Any) -> Any:
            if isinstance(value, bytes):
                return value
            if isinstance(value, str):
                return value.encode()
            if isinstance(value, (tuple, list)):
                return [plain(one) for one in value]
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            return value

        assert tuple(columns) == result.column_names
        assert plain(rows) == plain(result.result_rows)

    def test_many_rows(self, client: Client) -> None:
        """
        A hundred thousand rows go in at once, and are read in pieces.
        """
        client.command(KEPT)
        rows = [(1, row, f"text {row}") for row in range(100_000)]
        summary = client.insert("kept", rows, column_names=["batch", "row", "text"])

        assert 100_000 == summary.written_rows
        with client.query_rows_stream("SELECT * FROM kept ORDER BY row") as stream:
            assert rows == list(stream)

    def test_parameters(self, client: Client) -> None:
        """
        The server puts parameters in their places.
        """
        values = {"text": "a'b\\c\n\t{x}", "number": -5, "list": ["a'", "b"], "nothing": None}
        result = client.query(
            "SELECT {text:String}, {number:Int64}, {list:Array(String)}, "
            "{nothing:Nullable(String)}",
            parameters=values,
        )

        assert [tuple(values.values())] == result.result_rows

    def test_nothing(self, client: Client) -> None:
        """
        A result may be without rows.
        """
        assert [] == client.query("SELECT 1 WHERE 0").result_rows
        assert ("a",) == client.query("SELECT 1 AS a LIMIT 0").column_names

    def test_formats(self, clickhouse: ClickHouse, uri: str) -> None:
        """
        Other clients say with FORMAT what they send and what they want.
        """
        database = urllib.parse.urlsplit(uri).path[1:]
        clickhouse.execute("CREATE TABLE t (a UInt8, b String) ENGINE = Memory", database=database)
        for query, body in [
            ("", b'INSERT INTO t FORMAT JSONEachRow\n{"a": 1, "b": "FORMAT x"}'),
            ("INSERT INTO t (a, b) SETTINGS max_threads = 1 FORMAT CSV", b"2,two\n"),
            ("INSERT INTO t (a, b) VALUES", b"(3, 'a;b')"),
        ]:
            assert 200 == post(clickhouse, body, query=query, database=database)[0]
        zipped = gzip.compress(b"4\tx\n") + gzip.compress(b"5\ty\n")
        query = "INSERT INTO t FORMAT TSV"
        headers = {"Content-Encoding": "gzip"}
        assert 200 == post(clickhouse, zipped, headers, query=query, database=database)[0]

        body = b"SELECT * FROM t ORDER BY a"
        answer = post(clickhouse, body, database=database, default_format="CSV")[1]
        assert b'1,"FORMAT x"\n2,"two"\n3,"a;b"\n4,"x"\n5,"y"\n' == answer
        answer = post(clickhouse, body + b" FORMAT JSONCompactEachRow", database=database)[1]
        assert b'[1, "FORMAT x"]' == answer.splitlines()[0]


class TestErrors:
    @pytest.mark.parametrize(
        ("statement", "code", "name", "status"),
        [
            ("SELEC 1", 62, "SYNTAX_ERROR", 400),
            ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR", 400),
            ("SELECT x", 47, "UNKNOWN_IDENTIFIER", 404),
            ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE", 404),
            ("INSERT INTO nowhere FORMAT TSV\n1\n", 60, "UNKNOWN_TABLE", 404),
            ("SELECT 1 SETTINGS nonsense = 1", 115, "UNKNOWN_SETTING", 404),
            ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO", 500),
            ("1 + 1", 62, "SYNTAX_ERROR", 400),
        ],
    )
    def test_refused(
        self, clickhouse: ClickHouse, uri: str, statement: str, code: int, name: str, status: int
    ) -> None:
        """
        Errors have ClickHouse's status, code, name and words.
        """
        got, body, headers = post(clickhouse, statement.encode())

        assert status == got
        assert str(code) == headers["X-ClickHouse-Exception-Code"]
        assert body.decode().startswith(f"Code: {code}. DB::Exception: ")
        assert f"({name})" in body.decode()

    def test_client(self, client: Client) -> None:
        """
        clickhouse-connect knows them, and goes on with the next query.
        """
        with pytest.raises(DatabaseError) as raised:
            client.query("SELECT x")

        assert (47, "UNKNOWN_IDENTIFIER") == (raised.value.code, raised.value.name)
        assert 1 == client.command("SELECT 1")

    def test_amid_insert(self, client: Client, clickhouse: ClickHouse, uri: str) -> None:
        """
        An insert with an error in the middle leaves nothing behind.
        """
        client.command(KEPT)
        database = urllib.parse.urlsplit(uri).path[1:]
        lines = [b"1\t%d\ttext\n" % row for row in range(50_000)]
        lines[25_000] = b"1\tx\ttext\n"
        body = b"INSERT INTO kept FORMAT TSV\n" + b"".join(lines)
        status, answer, _ = post(clickhouse, body, database=database)

        assert (400, True) == (status, b"row 25001" in answer)
        assert 0 == client.command("SELECT count() FROM kept")

    def test_amid_answer(self, client: Client) -> None:
        """
        An answer with an error in the middle fails where it is.
        """
        seen = 0

        def read() -> None:
            nonlocal seen
            query = "SELECT throwIf(number = 2000000) FROM numbers(3000000)"
            with client.query_rows_stream(query) as stream:
                for _ in stream:
                    seen += 1

        with pytest.raises(DatabaseError) as raised:
            read()

        assert 395 == raised.value.code
        assert seen > 100_000

    def test_setting(self, client: Client) -> None:
        """
        Settings hold for their query only.
        """
        query = "SELECT getSetting('max_block_size')"

        assert 123 == client.query(query, settings={"max_block_size": 123}).first_row[0]
        assert 123 != client.query(query).first_row[0]
        with pytest.raises(DatabaseError) as raised:
            client.command("CREATE TABLE t (a UInt8) ENGINE = Memory", settings={"readonly": 1})
        assert 164 == raised.value.code

    def test_session(self, client: Client) -> None:
        """
        What SET sets holds for the session.
        """
        client.command("SET max_block_size = 321")

        assert 321 == client.command("SELECT getSetting('max_block_size')")

    def test_deduplication(self, client: Client) -> None:
        """
        An insert that is repeated with its token is acknowledged and inserts nothing.
        """
        window = " SETTINGS non_replicated_deduplication_window = 100"
        client.command(KEPT + window)
        for token in ("a", "b", "b"):
            client.insert(
                "kept",
                [(1, 1, "x")],
                column_names=["batch", "row", "text"],
                settings={"insert_deduplication_token": token},
            )

        assert 2 == client.command("SELECT count() FROM kept")

    def test_max_execution_time(self, client: Client) -> None:
        """
        A query that takes too long ends with an error.
        """
        began = time.monotonic()
        with pytest.raises(DatabaseError) as raised:
            client.query(
                "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)",
                settings={"max_execution_time": 1},
            )

        assert 159 == raised.value.code
        assert time.monotonic() - began < 20

    def test_client_goes_away(self, uri: str, clickhouse: ClickHouse) -> None:
        """
        A query whose client went away is cancelled.
        """
        impatient = connect(uri, send_receive_timeout=1, query_retries=0)
        with pytest.raises(OperationalError):
            impatient.query("SELECT sum(sipHash64(number)) FROM numbers(1000000000001)")

        wait_until(lambda: processes(clickhouse, "1000000000001") == 0, 30)

    def test_kill_query(self, clickhouse: ClickHouse, uri: str) -> None:
        """
        KILL QUERY finds a query by the client's id.
        """
        raised = []

        def query() -> None:
            other = connect(uri)
            try:
                other.query(
                    "SELECT sum(sipHash64(number)) FROM numbers(1000000000002)",
                    settings={"query_id": "to be killed"},
                )
            except DatabaseError as exc:
                raised.append(exc.code)

        thread = threading.Thread(target=query)
        thread.start()
        kill = "KILL QUERY WHERE query_id = 'to be killed' ASYNC"
        wait_until(lambda: clickhouse.execute(kill), 30)
        thread.join(30)

        assert [394] == raised


class TestLogin:
    def test_refused(self) -> None:
        """
        Who is not the user, or has not the password, is refused as by ClickHouse.
        """
        with ClickHouse("event@log", "se/cret:1") as server:
            uri = server.create_database()
            client = connect(uri)
            assert 1 == client.command("SELECT 1")
            for address in (
                uri.replace("cret", "crets"),
                uri.replace("event", "events"),
                f"clickhouse://default@127.0.0.1:{server.port}/test_0",
            ):
                with pytest.raises(DatabaseError) as raised:
                    connect(address)
                assert (516, "AUTHENTICATION_FAILED") == (raised.value.code, raised.value.name)
            status, _, headers = post(server, b"SELECT 1", user="x", password="y")

        assert (403, "516") == (status, headers["X-ClickHouse-Exception-Code"])

    def test_unknown_database(self, uri: str) -> None:
        """
        A database that is not there is an error.
        """
        with pytest.raises(DatabaseError) as raised:
            connect(uri + "nowhere")

        assert (81, "UNKNOWN_DATABASE") == (raised.value.code, raised.value.name)


class TestSeveralClients:
    def test_threads(self, uri: str) -> None:
        """
        Clients in green threads of one process do not disturb each other.
        """
        connect(uri).command(KEPT)
        failed = []

        def write(number: int) -> None:
            try:
                client = connect(uri)
                for batch in range(5):
                    rows = [(number * 100 + batch, row, "x") for row in range(1000)]
                    client.insert("kept", rows, column_names=["batch", "row", "text"])
                    query = "SELECT count() FROM kept WHERE intDiv(batch, 100) = {n:UInt64}"
                    (count,) = client.query(query, parameters={"n": number}).first_row
                    assert (batch + 1) * 1000 == count
            except Exception as exc:
                failed.append(exc)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [] == failed
        assert 40_000 == connect(uri).command("SELECT count() FROM kept")

    def test_processes(self, uri: str) -> None:
        """
        Neither do processes.
        """
        client = connect(uri)
        client.command(KEPT)
        writers = [start_writer(uri, number * 100, 10) for number in range(3)]
        for writer in writers:
            assert 10 == len(writer.communicate(timeout=60)[0].split())

        assert 30_000 == client.command("SELECT count() FROM kept")

    def test_quick_beside_slow(self, client: Client, uri: str, clickhouse: ClickHouse) -> None:
        """
        A quick query is answered while a slow one runs.
        """

        def run() -> None:
            with contextlib.suppress(DatabaseError):
                connect(uri).query(
                    "SELECT sum(sipHash64(number)) FROM numbers(1000000000003)",
                    settings={"max_execution_time": 3},
                )

        slow = threading.Thread(target=run)
        slow.start()
        wait_until(lambda: processes(clickhouse, "1000000000003") == 1, 5)

        assert 1 == client.command("SELECT 1")
        assert 1 == processes(clickhouse, "1000000000003")
        slow.join(30)

    def test_two_servers(self, clickhouse: ClickHouse, uri: str) -> None:
        """
        Two servers side by side share nothing.
        """
        with ClickHouse() as other:
            other.execute("CREATE DATABASE elsewhere")
            assert "elsewhere" in other.execute("SHOW DATABASES")

        assert "elsewhere" not in clickhouse.execute("SHOW DATABASES")


class TestClickHouse:
    def test_kill(self, clickhouse: ClickHouse, uri: str) -> None:
        """
        What was acknowledged is there after a crash amid inserts, and no batch is there in part.
        """
        client = connect(uri)
        client.command(KEPT)
        with start_writer(uri, 0, 100_000) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(5)]
            clickhouse.kill()
            acknowledged += map(int, writer.stdout.read().split())
        assert not clickhouse.running
        with pytest.raises(OperationalError):
            client.query("SELECT 1")
        clickhouse.start()

        kept = dict(client.query("SELECT batch, count() FROM kept GROUP BY batch").result_rows)
        assert set(acknowledged) <= set(kept)
        assert {1000} == set(kept.values())
        assert len(kept) <= len(acknowledged) + 1

    def test_stop(self, clickhouse: ClickHouse, uri: str) -> None:
        """
        It is stopped and started again on the same port, and clients go on.
        """
        client = connect(uri)
        client.command(KEPT)
        client.insert("kept", [(1, 2, "x")], column_names=["batch", "row", "text"])
        clickhouse.stop()

        assert not clickhouse.running
        clickhouse.start()
        assert [(1, 2, "x")] == client.query("SELECT * FROM kept").result_rows

    @pytest.mark.parametrize("end", [ClickHouse.stop, ClickHouse.kill])
    def test_freeze(
        self, clickhouse: ClickHouse, uri: str, end: Callable[[ClickHouse], None]
    ) -> None:
        """
        Frozen, it answers nobody; thawed, it goes on; and it can be ended frozen.
        """
        # in a session, the query that was given up would be in the way of the next
        client = connect(
            uri, send_receive_timeout=1, query_retries=0, autogenerate_session_id=False
        )
        clickhouse.freeze()
        try:
            with pytest.raises(OperationalError):
                client.query("SELECT 1")
        finally:
            clickhouse.thaw()
        assert 1 == client.command("SELECT 1")
        clickhouse.freeze()
        end(clickhouse)

        assert not clickhouse.running
        clickhouse.start()

    def test_start_fails(self) -> None:
        """
        A server that does not start says why.
        """
        server = ClickHouse()
        try:
            (server._folder / "data").write_text("no folder")
            with pytest.raises(DatabaseServerError) as raised:
                server.start()
        finally:
            server.close()

        assert "Traceback" in str(raised.value)

    def test_close(self) -> None:
        """
        Closed, it leaves nothing behind.
        """
        with ClickHouse() as server:
            server.create_database()
            folder, pid = server._folder, server._server.pid  # type: ignore[union-attr]
            assert folder.exists()

        assert (False, False) == (folder.exists(), is_running(pid))

    @pytest.mark.parametrize("then", ["", "server.freeze()"])
    def test_owner_is_killed(self, then: str) -> None:
        """
        The server and its files go with the process that made it, killed or not, frozen or not.
        """
        with subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then=then)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            assert owner.stdout is not None
            folder, pid = owner.stdout.readline().split()
            owner.kill()

        wait_until(lambda: not pathlib.Path(folder).exists())
        wait_until(lambda: not is_running(int(pid)))

    def test_nobody_listens(self) -> None:
        """
        Where there is no server, clients say so.
        """
        (port,) = free_ports(1)
        with pytest.raises(OperationalError):
            connect(f"clickhouse://default@127.0.0.1:{port}/x")


class TestStatements:
    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            (b"INSERT INTO t FORMAT Native\n\x00;", (b"INSERT INTO t ", b"Native", b"\x00;")),
            (
                b"insert into `FORMAT x` (a) format TSV 1",
                (b"insert into `FORMAT x` (a) ", b"TSV", b"1"),
            ),
            (
                b"/* FORMAT a */ INSERT INTO t FORMAT CSV\r\n\n",
                (b"/* FORMAT a */ INSERT INTO t ", b"CSV", b"\n"),
            ),
            (b"INSERT INTO t VALUES ('FORMAT x')", None),
            (b"INSERT INTO t SELECT 1", None),
            (b"SELECT 1 FORMAT Native\n", None),
        ],
    )
    def test_split_insert(self, sql: bytes, expected: tuple[bytes, bytes, bytes] | None) -> None:
        """
        An INSERT's data begin after its format.
        """
        assert expected == split_insert(sql)

    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            (b"SELECT ';' -- ;", False),
            (b"SELECT 1;\n -- done\n;", False),
            (b"SELECT 1; SELECT 2", True),
        ],
    )
    def test_has_several(self, sql: bytes, expected: bool) -> None:
        """
        A semicolon may end a statement, or begin the next.
        """
        assert expected == has_several(sql)

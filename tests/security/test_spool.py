"""
A spool where others may write: what they put there is neither followed, nor read, nor published.
"""

from __future__ import annotations

import json
import os
import pathlib
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from zlib import crc32

import pytest

from nameko_eventlog.delivery import BrokerDelivery
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import lines, segments
from nameko_eventlog.delivery.spool.lines import encode
from nameko_eventlog.delivery.spool.listing import ProcessDirectory
from tests.cli.conftest import Cli, configure, folder, run
from tests.delivery.conftest import (
    Lines,
    check_sum,
    files,
    make_delivery,
    make_message,
    quick,
    said,
)
from tests.delivery.spool.spooling import adopted, written
from tests.waiting import wait_until


__all__ = ["configure", "files", "folder", "make_delivery", "quick", "run", "said"]

NOBODY = 65534
NOWHERE = "amqp://127.0.0.1:1//"
VICTIM = b"the victim's\n"

Make = Callable[..., BrokerDelivery]

as_root = os.geteuid() == 0


@pytest.fixture
def shared(tmp_path: pathlib.Path) -> pathlib.Path:
    """
    A directory like /tmp: anybody may make something in it.
    """
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def victim(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """
    A directory with a file that is nothing to the spool, and that stays as it is.
    """
    path = tmp_path / "victim"
    path.mkdir(mode=0o700)
    (path / "file").write_bytes(VICTIM)
    (path / "00000009.jsonl").write_bytes(VICTIM)
    yield path
    assert ["00000009.jsonl", "file"] == sorted(os.listdir(path))
    assert [VICTIM, VICTIM] == [one.read_bytes() for one in path.iterdir()]


def accepted(make_delivery: Make, spool: pathlib.Path, count: int = 1) -> BrokerDelivery:
    """
    Accept some event logs, with a spool there.
    """
    delivery = make_delivery(NOWHERE, spool=str(spool))
    for number in range(count):
        delivery.accept(make_message(number))
    assert count == check_sum(delivery)["waiting"]
    return delivery


def left_behind(path: pathlib.Path, line: bytes | None = None) -> pathlib.Path:
    """
    Leave what a dead process would, with one event log or *line*.
    """
    message = make_message(99)
    message.message_id = "forged"
    directory = written(path, encode(message) if line is None else line)
    (segment,) = directory.segments
    directory.close()
    return segment.path


def disown(path: pathlib.Path) -> None:
    """
    Give everything to another user, or, where that needs root, open it to all others.
    """
    for one in [path, *path.rglob("*")]:
        if as_root:
            os.chown(one, NOBODY, NOBODY, follow_symlinks=False)
        elif one.is_dir():
            one.chmod(0o777)


class TestServiceDirectory:
    def test_link(
        self, shared: pathlib.Path, victim: pathlib.Path, make_delivery: Make, said: Lines
    ) -> None:
        """
        SPOOL/SERVICE that is a link is refused; event logs wait in memory, which is logged.
        """
        (shared / "foo").symlink_to(victim)
        accepted(make_delivery, shared)

        assert said.saying("is a symbolic link, which is not followed")
        assert (shared / "foo").is_symlink()

    def test_spool_is_a_link(
        self, shared: pathlib.Path, victim: pathlib.Path, make_delivery: Make, said: Lines
    ) -> None:
        """
        So is SPOOL itself.
        """
        (shared / "spool").symlink_to(victim)
        accepted(make_delivery, shared / "spool")

        assert said.saying("is a symbolic link, which is not followed")

    def test_dangling(
        self, shared: pathlib.Path, victim: pathlib.Path, make_delivery: Make, said: Lines
    ) -> None:
        """
        Nothing is made where a link leads to.
        """
        (shared / "foo").symlink_to(victim / "new")
        accepted(make_delivery, shared)

        assert said.saying("is a symbolic link")

    def test_link_above(
        self, shared: pathlib.Path, victim: pathlib.Path, make_delivery: Make, said: Lines
    ) -> None:
        """
        A link above SPOOL is followed if it is the user's own or root's, no one else's.
        """
        (shared / "real").mkdir()
        (shared / "ours").symlink_to("real")
        accepted(make_delivery, shared / "ours" / "spool")
        assert [] == said.saying("cannot write to spool")
        assert 1 == len(list((shared / "real" / "spool" / "foo").iterdir()))

        (shared / "theirs").symlink_to(victim)
        if as_root:
            os.chown(shared / "theirs", NOBODY, NOBODY, follow_symlinks=False)
            accepted(make_delivery, shared / "theirs" / "spool")
            assert said.saying("the link theirs in it belongs to the user 65534")

    def test_another_users(
        self, shared: pathlib.Path, make_delivery: Make, said: Lines, quick: None
    ) -> None:
        """
        A directory that another user has made is neither written to nor adopted.
        """
        left_behind(shared / "foo" / "one")
        disown(shared / "foo")
        delivery = make_delivery(NOWHERE, spool=str(shared))
        delivery.accept(make_message(1))

        expected = "belongs to the user 65534" if as_root else "others may write to it"
        wait_until(lambda: said.saying(expected))
        assert 1 == check_sum(delivery)["accepted"]
        assert (shared / "foo" / "one" / "00000001.jsonl").exists()

    def test_mended(self, shared: pathlib.Path, make_delivery: Make, said: Lines) -> None:
        """
        One of this user's that others may write to is closed to them, which is logged.
        """
        (shared / "foo").mkdir()
        (shared / "foo").chmod(0o777)
        accepted(make_delivery, shared)

        assert 0o700 == stat.S_IMODE((shared / "foo").stat().st_mode)
        assert 1 == len(said.saying("others could write to"))

    def test_made(self, tmp_path: pathlib.Path, make_delivery: Make) -> None:
        """
        Every level that is made is its user's alone, whatever the umask.
        """
        before = os.umask(0)
        try:
            accepted(make_delivery, tmp_path / "a" / "b" / "spool")
        finally:
            os.umask(before)
        made = list((tmp_path / "a").rglob("*"))

        assert {0o700} == {stat.S_IMODE(one.stat().st_mode) for one in made if one.is_dir()}
        assert {0o600} == {stat.S_IMODE(one.stat().st_mode) for one in made if one.is_file()}
        assert {"lock", "00000001.jsonl"} <= {one.name for one in made}

    def test_removable(self, tmp_path: pathlib.Path, make_delivery: Make, said: Lines) -> None:
        """
        A spool from which others may remove is used, as in a volume of a container, and that is
        logged.
        """
        tmp_path.chmod(0o777)
        accepted(make_delivery, tmp_path)

        assert 1 == len(said.saying("others may remove the event logs that wait"))
        assert [] == said.saying("cannot write to spool")


class TestProcessDirectory:
    @pytest.mark.parametrize("kind", ["link", "owner", "mode"])
    def test_not_adopted(
        self,
        shared: pathlib.Path,
        tmp_path: pathlib.Path,
        make_delivery: Make,
        said: Lines,
        quick: None,
        kind: str,
    ) -> None:
        """
        A process's directory that is a link, another user's, or open to others is not published.
        """
        if kind == "link":
            segment = left_behind(tmp_path / "elsewhere" / "one")
            (shared / "foo").mkdir(mode=0o700)
            (shared / "foo" / "one").symlink_to(segment.parent)
        else:
            segment = left_behind(shared / "foo" / "one")
            if kind == "owner":
                disown(segment.parent)
            else:
                segment.parent.chmod(0o770)
        delivery = make_delivery(NOWHERE, spool=str(shared))
        wait_until(lambda: said.saying("cannot take over"))

        assert 0 == check_sum(delivery)["accepted"]
        assert segment.exists()

    @pytest.mark.parametrize("name", ["00000001.jsonl", "lock", "position"])
    @pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "mode", "owner"])
    def test_files(
        self,
        shared: pathlib.Path,
        victim: pathlib.Path,
        make_delivery: Make,
        said: Lines,
        quick: None,
        name: str,
        kind: str,
    ) -> None:
        """
        No file of a spool is a link, has another name, is a FIFO, may be written by others, or
        belongs to someone else.
        """
        segment = left_behind(shared / "foo" / "one")
        path = segment.with_name(name)
        path.unlink(missing_ok=True)
        if kind == "link":
            path.symlink_to(victim / "file")
        elif kind == "hard link":
            os.link(victim / "file", path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(VICTIM)
            if kind == "mode":
                path.chmod(0o646)
            elif as_root:
                os.chown(path, NOBODY, NOBODY)
        delivery = make_delivery(NOWHERE, spool=str(shared))
        if name != "position":
            if kind != "owner" or as_root:
                wait_until(lambda: said.saying("so it is not used") or said.saying("is a symb"))
                assert 0 == check_sum(delivery)["accepted"]
        else:
            wait_until(lambda: check_sum(delivery)["accepted"] == 1)
        delivery.stop(0)

        if kind == "link":
            assert path.is_symlink()
        if kind == "hard link":
            path.unlink()

    @pytest.mark.parametrize("level", ["directory", "file"])
    def test_corrupt(
        self,
        shared: pathlib.Path,
        victim: pathlib.Path,
        make_delivery: Make,
        said: Lines,
        quick: None,
        level: str,
    ) -> None:
        """
        What is no message is not written to where a link leads.
        """
        segment = left_behind(shared / "foo" / "one", b"rubbish\n")
        corrupt = shared / "foo" / "corrupt"
        if level == "directory":
            corrupt.symlink_to(victim)
        else:
            corrupt.mkdir(mode=0o700)
            (corrupt / f"one-{segment.name}").symlink_to(victim / "file")
        delivery = make_delivery(NOWHERE, spool=str(shared))
        delivery._outbox.take(5)
        wait_until(lambda: said.saying("is a symbolic link, which is not followed"))

        assert 1 == check_sum(delivery)["undelivered"]

    def test_nothing_else_removed(
        self, shared: pathlib.Path, victim: pathlib.Path, make_delivery: Make
    ) -> None:
        """
        What is not the spool's stays, and so does what a directory exchanged for a link leads to.
        """
        delivery = accepted(make_delivery, shared)
        (path,) = [one for one in (shared / "foo").iterdir() if one.is_dir()]
        (path / "notes").write_bytes(VICTIM)
        for message in delivery._outbox.take(5):
            delivery._outbox.settle(message, delivery._ledger.confirmed)
        moved = path.rename(shared / "moved")
        path.symlink_to(victim)
        delivery.stop(0)

        assert VICTIM == (moved / "notes").read_bytes()


class TestLongLines:
    def test_memory(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A line without an end takes no more memory than the longest one that is written, in the
        service and in the commands, and the event logs around it are read.
        """
        monkeypatch.setattr(segments, "SPOOL_LINE_BYTES", 1 << 20)
        segment = left_behind(tmp_path / "foo" / "one")
        with segment.open("ab") as file:
            for _ in range(48):
                file.write(b"x" * (1 << 20))
            file.write(b"\n" + encode(make_message(7, message_id="last")))
        tracemalloc.start()
        process = ProcessDirectory(segment.parent, os.geteuid(), print)
        listed = [one and one.message_id for one in process.messages()]
        messages, counted, lost = adopted(segment.parent)
        found = [one.message_id for one in messages]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert ["forged", None, "last"] == listed
        assert (3, ["forged", "last"], 1) == (counted, found, lost)
        assert peak < 16 << 20
        (kept,) = (tmp_path / "foo" / "corrupt").iterdir()
        assert 48 << 20 == kept.read_bytes().count(b"x")

    def test_not_written(
        self,
        tmp_path: pathlib.Path,
        make_delivery: Make,
        said: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        An event log that needs a longer line waits in memory.
        """
        monkeypatch.setattr(lines, "SPOOL_LINE_BYTES", 10_000)
        delivery = make_delivery(NOWHERE, spool=str(tmp_path))
        delivery.accept(make_message(body=b'"' + b"x" * 20_000 + b'"'))
        delivery.accept(make_message(1))

        assert 2 == check_sum(delivery)["waiting"]
        (path,) = (tmp_path / "foo").glob("*/*.jsonl")
        assert 2 == len(path.read_bytes().splitlines())
        assert [] == said.saying("cannot write to spool")


class TestCommands:
    @pytest.fixture
    def spool(self, folder: pathlib.Path, configure: Callable[..., None]) -> pathlib.Path:
        """
        A spool that is configured.
        """
        configure(
            AMQP_URI=NOWHERE,
            EVENTLOG_DISPATCHER={"spool": str(folder / "spool"), "flush_timeout": 0},
        )
        (folder / "spool").mkdir()
        return folder / "spool"

    @pytest.mark.parametrize("command", ["list", "show", "export", "replay"])
    @pytest.mark.parametrize("what", ["spool", "service", "process", "segment", "hard link"])
    def test_links(
        self, run: Cli, spool: pathlib.Path, victim: pathlib.Path, command: str, what: str
    ) -> None:
        """
        The commands follow no links, whoever runs them.
        """
        left_behind(victim.parent / "real" / "foo" / "one")
        secret = victim.parent / "real" / "foo" / "one" / "00000001.jsonl"
        if what == "spool":
            spool.rmdir()
            spool.symlink_to(victim.parent / "real")
        elif what == "service":
            (spool / "foo").symlink_to(victim.parent / "real" / "foo")
        else:
            (spool / "foo").mkdir(mode=0o700)
            (spool / "foo" / "one").mkdir(mode=0o700)
            if what == "process":
                (spool / "foo" / "one").rmdir()
                (spool / "foo" / "one").symlink_to(secret.parent)
            elif what == "segment":
                (spool / "foo" / "one" / secret.name).symlink_to(secret)
            else:
                os.link(secret, spool / "foo" / "one" / secret.name)
        result = run("spool", command, *(["--seconds", "0"] if command == "replay" else []))

        assert "99" not in result.stdout
        assert "forged" not in result.stdout
        assert "1 waiting" not in result.stdout
        reason = "another name" if what == "hard link" else "symbolic link"
        assert reason in result.stderr or command == "replay"
        assert secret.exists()

    def test_of_a_service_user(self, run: Cli, spool: pathlib.Path) -> None:
        """
        Root reads a service user's spool, and does not publish it; others do not read it.
        """
        left_behind(spool / "foo" / "one")
        disown(spool / "foo")
        listed, replayed = run("spool", "list"), run("spool", "replay", "--seconds", "0")

        if as_root:
            assert "1 waiting" in listed.stdout
            assert "replay it as that user" in replayed.stderr
        else:
            assert "others may write to it" in listed.stderr
        assert "published" not in replayed.stdout
        assert (spool / "foo" / "one" / "00000001.jsonl").exists()

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            ("link", "'shared' cannot be used: it is a symbolic link"),
            ("mode", "shared (its mode is 777): chmod it to 755, or 1777"),
            ("owner", "user 65534" if as_root else "is writable"),
            ("loop", "'shared' cannot be used: "),
        ],
    )
    def test_check(
        self, run: Cli, folder: pathlib.Path, configure: Callable[..., None], kind: str, told: str
    ) -> None:
        """
        `check` looks at the spool as services do, and tells what is wrong with it.
        """
        path = folder / "shared"
        if kind == "link":
            (folder / "real").mkdir()
            path.symlink_to("real")
        elif kind == "loop":
            path.symlink_to(path)
        else:
            path.mkdir()
        if kind == "mode":
            path.chmod(0o777)
        elif kind == "owner" and as_root:
            os.chown(path, NOBODY, NOBODY)
        configure(EVENTLOG_DISPATCHER={"spool": "shared"})
        result = run("check")

        (line,) = [one for one in result.stdout.splitlines() if "spool" in one]
        assert told in line
        assert (kind == "owner") == line.startswith("ok")

    def test_not_marked(self, run: Cli, spool: pathlib.Path) -> None:
        """
        What another user has written is exported without a mark of ours.
        """
        for service in ("foo", "bar"):
            left_behind(spool / service / "one")
        if as_root:
            disown(spool / "foo")
        result = run("spool", "export")
        marked = {
            whole["properties"]["app_id"]: "mark" in whole
            for whole in map(json.loads, result.stdout.splitlines())
        }

        assert {"foo": not as_root, "bar": True} == marked
        assert as_root == ("its lines get no mark" in result.stderr)

    @pytest.mark.parametrize("offset", ["9" * 4000, str(2**63), "\u0663"])
    def test_position(self, run: Cli, spool: pathlib.Path, offset: str) -> None:
        """
        A position that no file has is the end of the file.
        """
        segment = left_behind(spool / "foo" / "one")
        line = f"{segment.name} {offset}"
        checksum = f"{crc32(line.encode()):08x}"
        segment.with_name("position").write_text(f"{line} {checksum}\n")
        result = run("spool", "list")

        assert "foo/one" in result.stdout
        assert "Traceback" not in result.output

    def test_strange_contents(self, run: Cli, spool: pathlib.Path) -> None:
        """
        Names with control characters, times beyond the calendar, bodies nested without end and
        headers unknown to JSON are shown or told of, and the rest goes on.
        """
        odd = spool / "fo\x1b[2Jo" / "p\x1b]0;x"
        left = [left_behind(spool / "foo" / "one"), left_behind(odd)]
        for changes in (
            {"timestamp": 1e300},
            {"timestamp": -1e300},
            {"body": b"[" * 100_000},
            {"body": b"{" * 900 + b"}" * 900},
            {"body": b'{"event_type":"a","data":' + b"[" * 900 + b"]" * 900 + b"}"},
            {"headers": {"a": b"\xff"}},
            {"message_id": "x" * 300},
        ):
            message = make_message(7, **{"message_id": "id", **changes})
            with left[0].open("ab") as file:
                file.write(encode(message))
        with left[0].open("ab") as file:
            file.write(encode(OutboxEntry(b"{}", "", "", {}, "last", 1.0, message_id="last")))
        line = b'{"message_id":' + b"[" * 100_000
        with left[1].open("ab") as file:
            file.write(line + b',"crc32":"%08x"}\n' % crc32(line))
        for command in ("list", "show", "export"):
            result = run("spool", command)
            assert "\x1b" not in result.stdout + result.stderr
            assert "Traceback" not in result.stdout + result.stderr
            if command == "show":
                assert 10 == len(result.stdout.splitlines())
            if command == "export":
                assert "is left out" in result.stderr
                assert "last" in result.stdout
                assert 1 == result.exit_code
        replayed = run("spool", "replay", "--seconds", "0")
        assert "\x1b" not in replayed.stdout + replayed.stderr

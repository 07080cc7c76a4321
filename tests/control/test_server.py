"""The control socket, with clients of every sort."""

import json
import random
import select
import socket
import threading

import pytest

from ring3.control import protocol, server


@pytest.fixture
def raw(host):
    """raw() is a connection to the socket; all are closed at the end."""
    opened = []

    def connect():
        connection = host.directory.connect()
        connection.settimeout(10)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def ask(connection, data):
    """Sends bytes, and reads one line."""
    connection.sendall(data)
    return answer(connection)


def answer(connection):
    line = b""
    while not line.endswith(b"\n"):
        data = connection.recv(1 << 16)
        assert data, "the connection was closed"
        line += data
    return json.loads(line)


def request(method, number=1, **params):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


def ends(connection):
    """The server closed it."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_info(raw):
    found = ask(raw(), request("machine.info"))
    assert found["id"] == 1
    assert found["result"]["name"] == "fake"
    assert found["result"]["memory_bytes"] == 64 << 20
    assert found["result"]["drives"] == {"cdrom0": None}


def test_an_unknown_method_is_answered_with_the_nearest(raw):
    error = ask(raw(), request("machine.paws"))["error"]
    assert error["code"] == protocol.METHOD_NOT_FOUND
    assert "there is machine.pause" in error["message"]


def test_an_unknown_parameter_is_named(raw):
    error = ask(raw(), request("machine.wait", timeout=1))["error"]
    assert error["code"] == protocol.INVALID_PARAMS
    assert "timeout; there is timeout_s" in error["message"]


@pytest.mark.parametrize(("method", "params"), [
    ("machine.wait", {"timeout_s": -1}),
    ("machine.wait", {"timeout_s": 1e9}),
    ("machine.wait", {"timeout_s": "1"}),
    ("keyboard.key", {"code": 0, "pressed": True}),
    ("keyboard.key", {"code": 1 << 70, "pressed": True}),
    ("keyboard.type", {"text": "x" * 70_000}),
    ("keyboard.press", {"keys": ["a"] * 2000}),
    ("keyboard.press", {"keys": "a"}),
    ("mouse.move", {"x": 1e9, "y": 0}),
    ("mouse.click", {"count": 1 << 30}),
    ("serial.read", {"port": 5}),
    ("serial.write", {"data": "%%%"}),
    ("machine.insert", {"drive": "cdrom0", "path": ""}),
])
def test_parameters_out_of_bounds_are_refused(host, raw, method, params):
    assert ask(raw(), request(method, **params))["error"]["code"] == protocol.INVALID_PARAMS
    assert host.machine.calls == []


def test_a_mistake_keeps_its_message(raw):
    error = ask(raw(), request("machine.insert", drive="cdrom9", path="/x.iso"))["error"]
    assert error["code"] == protocol.BAD_INPUT
    assert error["message"] == "cdrom9: no such removable drive; there is cdrom0"


def test_a_bug_of_ours_is_an_answer(raw):
    connection = raw()
    assert ask(connection, request("machine.power_off"))["error"]["code"] == protocol.INTERNAL_ERROR
    assert "result" in ask(connection, request("machine.info"))


def test_garbage_is_answered_and_the_connection_goes_on(raw):
    connection = raw()
    assert ask(connection, b"\x00\xff garbage\n")["error"]["code"] == protocol.PARSE_ERROR
    assert "result" in ask(connection, request("machine.info"))


def test_a_message_without_end_loses_the_connection_only(raw):
    hostile = raw()
    data = b"x" * (protocol.LINE_MAX + 1)
    assert ask(hostile, data)["error"]["code"] == protocol.INVALID_REQUEST
    assert ends(hostile)
    assert "result" in ask(raw(), request("machine.info"))


def test_half_a_message_is_waited_for_only_so_long(raw, monkeypatch):
    monkeypatch.setattr(server, "PARTIAL_S", 0.05)
    hostile = raw()
    hostile.sendall(b'{"jsonrpc":')
    assert ends(hostile)


def test_a_client_that_vanishes_in_a_message_is_nothing(raw):
    hostile = raw()
    hostile.sendall(b'{"jsonrpc":')
    hostile.close()
    assert "result" in ask(raw(), request("machine.info"))


def test_a_client_that_reads_no_answers_is_cut_off(raw, monkeypatch, host):
    monkeypatch.setattr(server, "WRITE_S", 0.05)
    monkeypatch.setattr(host.machine, "stats", lambda: {"x": "y" * (4 << 20)})
    hostile = raw()
    hostile.sendall(request("machine.stats") * 8)
    assert "result" in ask(raw(), request("machine.info"))
    poll = select.poll()
    poll.register(hostile, select.POLLHUP)
    assert poll.poll(10_000)            # cut off, though it has read nothing


def test_a_crowd_of_idle_clients_keeps_nobody_out(raw):
    crowd = [raw() for _ in range(server.CONNECTIONS_MAX)]
    for connection in crowd:
        ask(connection, request("machine.info"))
    assert "result" in ask(raw(), request("machine.info"))
    assert ends(crowd[0])
    assert "result" in ask(crowd[-1], request("machine.info"))


def test_requests_wait_side_by_side(raw):
    connection = raw()
    connection.sendall(request("serial.read", 1, timeout_s=60))
    assert ask(connection, request("machine.info", 2))["id"] == 2


def test_no_more_requests_are_read_than_are_under_way(raw, host):
    connection = raw()
    waits = b"".join(request("machine.wait", n, timeout_s=60) for n in range(server.UNDER_WAY_MAX))
    connection.sendall(waits + request("machine.info", 99))
    other = raw()
    assert "result" in ask(other, request("machine.info"))
    host.end()
    ids = read_ids(connection, server.UNDER_WAY_MAX + 1)
    assert ids[-1] == 99


def read_ids(connection, count):
    data = b""
    while data.count(b"\n") < count:
        data += connection.recv(1 << 16)
    return [json.loads(line)["id"] for line in data.splitlines()]


def test_a_client_may_close_its_side_and_read_on(raw):
    connection = raw()
    connection.sendall(request("machine.info"))
    connection.shutdown(socket.SHUT_WR)
    assert answer(connection)["result"]["name"] == "fake"
    assert ends(connection)


def test_a_batch_is_answered_in_one(raw):
    batch = b"[" + request("machine.info", 1).strip() + b"," + request("nope", 2).strip() + b"]\n"
    found = ask(raw(), batch)
    assert [each["id"] for each in found] == [1, 2]


def test_a_notification_has_no_answer(raw, host):
    connection = raw()
    found = ask(connection, b'{"jsonrpc":"2.0","method":"machine.reset"}\n' + request("machine.info", 5))
    assert found["id"] == 5
    assert "reset" in host.machine.calls


def test_a_storm_of_bytes_leaves_the_server_up(raw):
    chance = random.Random(3)
    for _ in range(100):
        with raw() as connection:
            connection.sendall(chance.randbytes(chance.randrange(1, 400)) + b"\n" * chance.randrange(2))
    assert "result" in ask(raw(), request("machine.info"))


def test_many_threads_may_call(vm):
    names = []
    threads = [threading.Thread(target=lambda: names.append(vm.info()["name"])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["fake"] * 20

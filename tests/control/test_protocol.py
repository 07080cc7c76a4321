"""JSON-RPC 2.0 from bytes, whatever they are."""

import json

import msgspec
import pytest

from ring3.control import protocol
from ring3.control.protocol import Lines, Request, RpcError, TooLongError, parse


def only(line):
    message = parse(line)
    assert len(message.calls) == 1
    return message.calls[0]


def test_a_line_may_come_in_pieces():
    lines = Lines()
    assert lines.feed(b'{"json') == []
    assert lines.partial
    assert lines.feed(b'rpc"}\n{}\n{') == [b'{"jsonrpc"}', b"{}"]
    assert lines.partial
    assert lines.feed(b"}\n") == [b"{}"]
    assert not lines.partial


def test_empty_lines_are_nothing():
    assert Lines().feed(b"\n \r\n{}\n\n") == [b"{}"]


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"{}\n" + b"x" * 11])
def test_a_line_that_is_too_long_ends_it(data):
    with pytest.raises(TooLongError):
        Lines(10).feed(data)


def test_a_request():
    request = only(b'{"jsonrpc":"2.0","id":7,"method":"machine.info","params":{"a":1}}')
    assert request == Request("machine.info", {"a": 1}, 7)


def test_a_request_without_id_wants_no_answer():
    assert only(b'{"jsonrpc":"2.0","method":"machine.reset"}').notification


def test_a_null_id_is_an_id():
    assert not only(b'{"jsonrpc":"2.0","id":null,"method":"machine.reset"}').notification


@pytest.mark.parametrize(("line", "code"), [
    (b"", protocol.PARSE_ERROR),
    (b"nonsense", protocol.PARSE_ERROR),
    (b'{"jsonrpc":"2.0"', protocol.PARSE_ERROR),
    (b"\xff\xfe\x00", protocol.PARSE_ERROR),
    (b'{"jsonrpc":"2.0","method":"\xff"}', protocol.PARSE_ERROR),
    (b"[" * 500_000, protocol.PARSE_ERROR),
    (b'{"a":' * 100_000, protocol.PARSE_ERROR),
    (b"5", protocol.INVALID_REQUEST),
    (b"null", protocol.INVALID_REQUEST),
    (b"[]", protocol.INVALID_REQUEST),
    (b"{}", protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"1.0","id":1,"method":"x"}', protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1}', protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":5}', protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":[1],"method":"x"}', protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":true,"method":"x"}', protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":"x","more":2}', protocol.INVALID_REQUEST),
    (b'{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}', protocol.INVALID_PARAMS),
    (b'{"jsonrpc":"2.0","id":1,"method":"x","params":null}', protocol.INVALID_PARAMS),
])
def test_what_is_no_request_is_answered_with_the_reason(line, code):
    error = only(line)
    assert isinstance(error, RpcError)
    assert error.code == code
    assert error.message


def test_an_error_names_the_request_it_is_about():
    assert only(b'{"jsonrpc":"2.0","id":"seven"}').id == "seven"


def test_a_batch_has_an_answer_for_each():
    message = parse(b'[{"jsonrpc":"2.0","id":1,"method":"a"},3]')
    assert message.batch
    assert [type(call) for call in message.calls] == [Request, RpcError]


def test_a_batch_is_bounded():
    error = only(json.dumps([{}] * (protocol.BATCH_MAX + 1)).encode())
    assert error.code == protocol.INVALID_REQUEST


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: int = 0


def test_parameters_become_a_record():
    assert protocol.arguments({"x": 1}, Point) == Point(1, 0)


@pytest.mark.parametrize(("params", "says"), [
    ({}, "x"),
    ({"x": "1"}, "int"),
    ({"x": 1.5}, "int"),
    ({"x": None}, "int"),
    ({"x": 1, "why": 2}, "no such parameter: why; there is"),
])
def test_wrong_parameters_are_named(params, says):
    with pytest.raises(RpcError) as caught:
        protocol.arguments(params, Point)
    assert caught.value.code == protocol.INVALID_PARAMS
    assert says in caught.value.message


def test_an_answer_is_read_back():
    line = protocol.answer(protocol.result({"a": [1, None]}, 3))
    assert line.endswith(b"\n")
    assert protocol.read_answer(line, 3) == {"a": [1, None]}


def test_an_error_is_read_back():
    line = protocol.answer(protocol.failure(RpcError(-5, "no", 3)))
    with pytest.raises(RpcError, match="no") as caught:
        protocol.read_answer(line, 3)
    assert caught.value.code == -5


@pytest.mark.parametrize("line", [b"x", b"{}", b'{"jsonrpc":"2.0","id":4,"result":1}', b"[" * 100_000])
def test_a_machine_that_answers_nonsense_is_an_error(line):
    with pytest.raises(RpcError):
        protocol.read_answer(line, 3)

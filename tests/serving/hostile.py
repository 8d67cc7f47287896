"""Hostile requests: `python tests/serving/hostile.py --port 8000 --count 100000` sends many.

Each is made from a seed and sent over a connection of its own, as bytes: no client library would.
Every one must get a status of 4xx, or a closed connection where it ends in the middle or is so long
that it is refused before it is there.  With ``--pid``, that of `lowc serve`, its workers must be the
same at the end, and no larger; with ``--grpc-port`` calls that send no message come beside.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import random
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import records

INFER = "/v2/models/times/infer"
LEAST_REFUSED_EARLY = 32 << 10  # bytes of headers; bodies may have more
MOST_GROWTH = 128 << 20  # bytes of a worker, after the first thousand
UNDER_WAY = 500  # so that one that takes long does not let the other clients wait
_WIDTH = 6
_LEAST_JSON = (
    b'{"inputs":[{"name":"features","datatype":"FP64","shape":[1,6],"data":[1,2,3,4,5,6]}]}'
)


@dataclass(frozen=True)
class Attack:
    """What is sent, in pieces, and whether it ends before its end."""

    pieces: tuple[bytes, ...]
    is_cut: bool = False
    linger: float = 0.0


def http(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """Return a request as bytes; nothing is checked."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: a",
        f"content-length: {len(body)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


def asked(body: object, path: str = INFER) -> Attack:
    """Return a request with a JSON body."""
    return Attack((http(path, json.dumps(body).encode(), "content-type: application/json"),))


def tensor(**changes: object) -> dict[str, object]:
    """Return a body whose one tensor is changed."""
    good = {"name": "features", "datatype": "FP64", "shape": [1, 6], "data": [1.0] * 6}
    return {"inputs": [{**good, **changes}]}


def noise(r: random.Random) -> Attack:
    return Attack((r.randbytes(r.randint(1, 400)) + b"\r\n\r\n",), is_cut=True)


def random_body(r: random.Random) -> Attack:
    return Attack((http(INFER, r.randbytes(r.randint(0, 2000))),))


def broken_json(r: random.Random) -> Attack:
    body = bytearray(_LEAST_JSON)
    body[r.randrange(len(body))] = r.choice(b'{}[]",:\x00\xff')
    # One byte may leave it as it was, or change a digit or a name that nobody needs.
    body += r.choice([b"}", b"]", b"\xff", b"x", b'"'])
    return Attack((http(INFER, bytes(body)),))


def deep(r: random.Random) -> Attack:
    depth = r.randint(40, 60_000)
    bracket = r.choice([b"[", b'{"a":'])
    path = r.choice([INFER, "/v1/estimate", "/v1/choose-tiles", "/v2/repository/index"])
    close = b"]" if bracket == b"[" else b"}"
    return Attack((http(path, bracket * depth + b"1" + close * depth),))


def sizes(r: random.Random) -> Attack:
    bad = [[-1, 6], [0, 6], [10**9, 6], [2**62, 2**62], [2**63], [2**80, 6], [1.5, 6], ["1", 6],
           [True, 6], [1, 7], [1], [], None, "1x6", [1] * 9, [6, 1], {"0": 1}, [[1, 6]]]  # fmt: skip
    return asked(tensor(shape=r.choice(bad)))


def elements(r: random.Random) -> Attack:
    odd = [None, "1", True, [1], {}, 1e400, 10**400, -(10**400)]
    data: list[object] = [1.0] * _WIDTH
    data[r.randrange(_WIDTH)] = r.choice(odd)
    return asked(tensor(data=r.choice([data, data[:-1], [*data, 1], "1", None, [[data]], 5])))


def no_numbers(r: random.Random) -> Attack:
    word = r.choice([b"NaN", b"Infinity", b"-Infinity", b"nan", b"1e999", b"-1e999", b"0x1", b"01"])
    return Attack((http(INFER, _LEAST_JSON.replace(b"5,6", b"5," + word)),))


def kinds(r: random.Random) -> Attack:
    return asked(
        tensor(datatype=r.choice(["FP32", "INT64", "BYTES", "BOOL", "FP128", "", None, 7, []]))
    )


def outlines(r: random.Random) -> Attack:
    good = tensor()["inputs"]
    return asked(r.choice([
        {}, [], None, 5, "x", {"inputs": []}, {"inputs": {}}, {"inputs": [5]}, {"inputs": [[]]},
        {"inputs": [*good, *good]}, {"inputs": [{**good[0], "name": "other"}]},
        {"inputs": [{**good[0], "name": None}]}, {"inputs": good, "outputs": 5},
        {"inputs": good, "outputs": [{"name": "nothing"}]}, {"inputs": good, "id": 5},
        {"inputs": good, "parameters": []}, {"inputs": good, "outputs": [{"name": 5}]},
        {"inputs": good, "parameters": {"binary_data_output": "yes"}},
    ]))  # fmt: skip


def lengths(r: random.Random) -> Attack:
    size = r.choice([-1, 0, 47, 49, 10**9, 2**63, 2**70, 1.5, "48", True, None, [48]])
    head = json.dumps(tensor(data=None, parameters={"binary_data_size": size})).encode()
    head = head.replace(b', "data": null', b"")
    raw = r.randbytes(48)
    return Attack((http(INFER, head + raw, f"inference-header-content-length: {len(head)}"),))


def header_lengths(r: random.Random) -> Attack:
    value = r.choice(
        ["-1", "1e3", "\xb2", "", " ", "99999999999999999999", "+5", "0x10", "1_0", "5"]
    )
    return Attack((http(INFER, _LEAST_JSON, f"inference-header-content-length: {value}"),))


def texts(r: random.Random) -> Attack:
    lie = r.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x05\x00\x00\x00", b"\x00"])
    raw = lie + r.randbytes(3)
    head = json.dumps(tensor(
        datatype="BYTES", shape=[1, 1], data=None, parameters={"binary_data_size": len(raw)}
    )).encode().replace(b', "data": null', b"")  # fmt: skip
    return Attack((http(INFER, head + raw, f"inference-header-content-length: {len(head)}"),))


def not_finite(r: random.Random) -> Attack:
    raw = bytearray(48)
    raw[8 * r.randrange(6) + 6 :][:2] = b"\xf0\x7f"
    at = 8 * r.randrange(6)
    raw[at + 6 : at + 8] = r.choice([b"\xf0\x7f", b"\xf0\xff", b"\xf8\x7f"])
    head = json.dumps(tensor(data=None, parameters={"binary_data_size": 48})).encode()
    head = head.replace(b', "data": null', b"")
    length = f"inference-header-content-length: {len(head)}"
    return Attack((http(INFER, head + bytes(raw), length),))


def bad_utf8(r: random.Random) -> Attack:
    bad = r.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x28"])
    path = r.choice([INFER, "/v1/estimate"])
    body = b'{"mlir":"' + bad + b'","inputs":[{"name":"' + bad + b'"}]}'
    return Attack((http(path, body, "content-type: application/json"),))


def encodings(r: random.Random) -> Attack:
    bomb = gzip.compress(b"[" * (64 << 20), 9) if r.random() < 0.02 else gzip.compress(b"[]")[:-3]
    name = r.choice(["gzip", "deflate", "br", "zstd", "gzip, gzip", "\xe9"])
    return Attack((http(INFER, bomb, f"content-encoding: {name}"),))


def declared(r: random.Random) -> Attack:
    value = r.choice(
        ["99999999999", "18446744073709551616", "-5", "1e3", "x", "999999999999999999999"]
    )
    head = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: {value}\r\n\r\n".encode()
    return Attack((head,))


def cut_chunks(r: random.Random) -> Attack:
    head = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    tail = r.choice(
        [b"5\r\nab", b"zz\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabcdefgh\r\n", b"-1\r\n"]
    )
    return Attack((head, tail), is_cut=True)


def tiny_chunks(r: random.Random, count: int = 0) -> Attack:
    head = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunks = b"1\r\n[\r\n" * (count or r.randint(10, 3000))
    return Attack((head, chunks, b"0\r\n\r\n"))


def long_headers(r: random.Random) -> Attack:
    name = r.choice(["x-a", "authorization", "x-request-id", "cookie"])
    lines = f"{name}: {'a' * r.randint(40_000, 200_000)}\r\n"
    return Attack((f"GET /v2 HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode(),))


def paths(r: random.Random) -> Attack:
    names = [
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "nothing",
        "a" * 3000,
        "%ff%fe",
        "times%2f..",
        ";",
        "~root",
    ]
    name = r.choice(names)
    path = r.choice([f"/v2/models/{name}/infer", f"/v2/models/times/versions/{name}/infer",
                     f"/v2/models/{name}/nothing", f"/{name}"])  # fmt: skip
    return Attack((http(path, _LEAST_JSON),))


def methods(r: random.Random) -> Attack:
    method = r.choice(["GET", "PUT", "DELETE", "PATCH", "BREW", "TRACE"])
    return Attack((http(INFER, b"", method=method),))


def hanging_mlir() -> str:
    """Return a text whose types have two of the one before each: reading it takes for ever."""
    types = "".join(f"!t{i + 1} = tuple<!t{i}, !t{i}>\n" for i in range(60))
    return f"!t0 = tuple<i32, i32>\n{types}func.func @main(%a: !t60) -> i32 {{ return %a : !t60 }}"


def mlir(r: random.Random) -> Attack:
    many = r.randint(50_000, 200_000)
    if r.random() < 0.05:
        return asked({"mlir": hanging_mlir()}, "/v1/estimate")
    text = r.choice([
        "module {" * many, "(" * many, "func.func @f() attributes {a = " + "[" * many,
        "func.func private @f() attributes {a = affine_map<(d0) -> (" + "(" * many,
        "".join(chr(r.randint(1, 0x2FF)) for _ in range(200)), "func.func @main(", "\x00", "module",
        "func.func @main() -> i32 { %c = arith.constant 1 : i32\n return %c : i32 }",
        "func.func @main(%x: tensor<1xf32>) -> tensor<1xf32> { %y = \"a.b\"(%x) : (tensor<1xf32>)"
        " -> tensor<1xf32>\n return %y : tensor<1xf32> }",
    ])  # fmt: skip
    return asked({"mlir": text}, "/v1/estimate")


def estimates(r: random.Random) -> Attack:
    return asked(r.choice([
        {}, [], {"mlir": 5}, {"mlir": ""}, {"mlir": "module {}", "recipe": "../../etc/passwd"},
        {"mlir": "module {}", "target": "cpu:x; rm"}, {"mlir": "module {}", "more": 1},
        {"mlir": ["module"]}, {"mlir": "x" * (5 << 20)} if r.random() < 0.02 else {"mlir": None},
    ]), "/v1/estimate")  # fmt: skip


def tiles(r: random.Random) -> Attack:
    good = {"form": "f32", "shape": [1, 8, 8, 8]}
    bad = [{"shape": [1, 0, 8, 8]}, {"shape": [-1, 8, 8, 8]}, {"shape": [2**62] * 4}, {"shape": [8]},
           {"shape": "8"}, {"shape": [1.5, 8, 8, 8]}, {"form": "nothing"}, {"form": 5},
           {"shape": [None, 8, 8, 8]}, {"target": "/etc/passwd"}, {"more": 1}, {"shape": []}]  # fmt: skip
    one = {**good, **r.choice(bad)}
    return asked(r.choice([{"matmuls": [one]}, {"matmuls": []}, {}, {"matmuls": one}, {"matmuls": [one] * 9999}]),
                 "/v1/choose-tiles")  # fmt: skip


def huge_tiles(r: random.Random) -> Attack:
    """Return a product whose cuts would take for ever to count."""
    size = r.choice([1 << 24, 1 << 31, 1 << 60])
    if r.random() < 0.5:
        one = {"form": r.choice(["f32", "w2a8", "lut"]), "shape": [size, 64, 64]}
        return asked({"matmuls": [one] * 256}, "/v1/choose-tiles")
    good = {"form": "w2a8", "lowering": "kernel", "unit": "avx512vnni", "batch": 1, "m": 64,
            "n": 64, "k": 64, "own_batch": True, "weight": "i2", "group": 32}  # fmt: skip
    name = r.choice(["batch", "m", "n", "k", "group", "planes", "table_bits", "span"])
    return asked({"problems": [{**good, name: size}]}, "/v1/predict-tiles")


def surrogates(r: random.Random) -> Attack:
    """Return half of a surrogate pair as a key, or as a value: JSON can say it, UTF-8 cannot."""
    half = chr(r.randint(0xD800, 0xDFFF))
    one = {"form": "f32", "shape": [8, 8, 8]}
    return r.choice([
        asked({"problems": [{half: 1}]}, "/v1/predict-tiles"),
        asked({"matmuls": [{**one, r.choice([half, "target", "form"]): half}]}, "/v1/choose-tiles"),
        asked({"mlir": half, "recipe": half}, "/v1/estimate"), asked({half: half}, "/v1/estimate"),
        asked(tensor(name=half)), asked({"id": half, "inputs": []}),
    ])  # fmt: skip


def many_keys(r: random.Random) -> Attack:
    keys = {f"{number:x}": 1 for number in range(r.choice([5000, 20_000, 100_000]))}
    path = r.choice(["/v1/choose-tiles", "/v1/predict-tiles", "/v1/estimate"])
    return asked(
        r.choice([keys, {"matmuls": [keys], "problems": [keys], "mlir": "module {}"}]), path
    )


def odd_problems(r: random.Random) -> Attack:
    """Return a problem whose facts do not go together."""
    good = {"form": "w4a8", "lowering": "kernel", "unit": "avx512vnni", "batch": 1, "m": 64,
            "n": 64, "k": 64, "own_batch": True, "weight": "i4", "group": 32}  # fmt: skip
    odd = r.choice([
        {"unit": "avx512foo"}, {"unit": ""}, {"form": "lmul", "packs": True}, {"form": "wa16", "k": None},
        {"form": "w3a8", "weight": "i3", "group": 1, "k": 15}, {"group": 0}, {"weight": "nothing"},
        {"form": "lut"}, {"form": "ternary", "planes": 2}, {"form": "w9a8"}, {"form": ""}, {"k": 0},
        {"lowering": "linalg", "unit": "avx512foo"}, {"form": "w4a16", "n": None}, {"m": -1}, {"group": 1.5},
    ])  # fmt: skip
    return asked({"problems": [{**good, **odd}]}, "/v1/predict-tiles")


def kernel_texts(r: random.Random) -> Attack:
    """Return a text for a text model that is no function, or one that would take for ever."""
    squares = "%c = arith.constant 3 : index\n" + "%c = arith.muli %c, %c : index\n" * 100
    loops = "scf.for %i = %a to %b step %c {\n" * r.randint(70, 5000)
    text = r.choice([
        "", "\n" * r.randint(1, 9), "// nothing", "%0 = arith.constant 1.2.3 : f32", loops,
        f"%0 = arith.constant {'9' * 400} : f32", f"{squares}{loops}", "x" * (257 << 10),
        "layout(<" * 30_000 + loops, "func.func @f() { %0 = a.b " + "9" * 500,
    ])  # fmt: skip
    tensor_ = {"name": "mlir", "datatype": "BYTES", "shape": [1], "data": [text]}
    name = r.choice(["tiles-text", "tiles-avx512-text"])
    return asked({"inputs": [tensor_]}, f"/v2/models/{name}/infer")


KINDS: dict[str, Callable[[random.Random], Attack]] = {
    made.__name__: made
    for made in (
        noise, random_body, broken_json, deep, sizes, elements, no_numbers, kinds, outlines, lengths,
        header_lengths, texts, not_finite, bad_utf8, encodings, declared, cut_chunks, tiny_chunks,
        long_headers, paths, methods, estimates, tiles, huge_tiles,
        mlir, surrogates, many_keys, odd_problems, kernel_texts,
    )
}  # fmt: skip


def slow(port: int, seconds: float, what: bytes) -> int:
    """Send the beginning of a request and wait; return the status, 0 for a closed connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds + 30) as connection:
        connection.sendall(what)
        return _status(connection)


class Standstill:
    """Notices when the whole machine stood still: what timers say then is no answer of the server's."""

    def __init__(self) -> None:
        self.count = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(0.2)
            now = time.monotonic()
            self.count += now - last > 3
            last = now

    def apart_from(self, ask: Callable[[], int]) -> int:
        """Return what `ask` does, asked again if the machine stood still meanwhile."""
        while True:
            before = self.count
            try:
                status = ask()
            except TimeoutError:
                status = -1
            time.sleep(0 if 400 <= status < 500 or not status else 3)  # until the watcher is awake
            if 400 <= status < 500 or not status or self.count == before:
                return status


_SLOW = (
    b"", b"POST /v2/models/times/infer HTTP/1.1\r\nhost",
    b"POST /v2/models/times/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12",
    b"POST /v2/models/times/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1",
)  # fmt: skip


def slow_clients(
    port: int, counts: Counter[tuple[str, int]], end: threading.Event, still: Standstill
) -> None:
    """Be one slow client after the other; each is left with 408."""
    number = 0
    while not end.is_set():
        what = _SLOW[number % len(_SLOW)]
        counts["slow", still.apart_from(lambda what=what: slow(port, 60, what))] += 1
        number += 1


def attacks(seed: int, count: int) -> Iterator[tuple[str, Attack]]:
    """Yield `count` attacks, of all kinds in turn; MLIR, which takes most, less often."""
    r = random.Random(seed)
    names = list(KINDS)
    for number in range(count):
        name = names[number % len(names)]
        if name == "mlir" and number // len(names) % 4:
            name = "random_body"
        yield name, KINDS[name](r)


def send(port: int, attack: Attack) -> int:
    """Return the status of the answer; 0 where the connection was closed without one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
            for piece in attack.pieces:
                connection.sendall(piece)
            if attack.is_cut:
                connection.shutdown(socket.SHUT_WR)
            return _status(connection)
    except (ConnectionError, BrokenPipeError):
        return 0


def _status(connection: socket.socket) -> int:
    found = b""
    while b"\r\n" not in found:
        try:
            part = connection.recv(4096)
        except ConnectionError:
            return 0
        if not part:
            return 0
        found += part
    return int(found.split(b" ", 2)[1])


def is_right(attack: Attack, status: int) -> bool:
    """Whether `status` is an answer that a hostile request may get."""
    # A server that refuses early closes while the client still sends: the answer may be lost then.
    may_be_lost = attack.is_cut or sum(map(len, attack.pieces)) > LEAST_REFUSED_EARLY
    return 400 <= status < 500 or (status == 0 and may_be_lost)


def calls_without_message(port: int, count: int = 16) -> Counter[tuple[str, int]]:
    """Begin calls of gRPC that send nothing; each is left with DEADLINE_EXCEEDED, here 408."""
    import grpc

    end = threading.Event()

    def nothing() -> Iterator[bytes]:
        end.wait(120)
        yield from ()

    found: Counter[tuple[str, int]] = Counter()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        for call in [ask.future(nothing(), timeout=120) for _ in range(count)]:
            is_left = "did not arrive in time" in (call.details() or "")
            found["gRPC without a message", 408 if is_left else -1] += 1
        end.set()
    return found


def workers(pid: int) -> dict[int, int]:
    """Return the resident bytes of each worker of a `lowc serve`, by its number."""
    import psutil

    return {
        child.pid: child.memory_info().rss for child in psutil.Process(pid).children()
        if any(part.endswith("serve.worker") for part in child.cmdline())
    }  # fmt: skip


def faults_of(before: dict[int, int], after: dict[int, int]) -> list[str]:
    """Say which workers are not what they were."""
    found = [f"worker {pid} is gone" for pid in before if pid not in after]
    found += [f"worker {pid} is new" for pid in after if pid not in before]
    grown = {pid: after[pid] - size for pid, size in before.items() if pid in after}
    return found + [
        f"worker {pid} has grown by {by} bytes" for pid, by in grown.items() if by > MOST_GROWTH
    ]


def sent(chosen: argparse.Namespace, still: Standstill) -> Iterator[tuple[str, Attack, int]]:
    """Yield each attack with the status of its answer, in their order; many are under way at once."""
    under_way: deque[tuple[str, Attack, Future[int]]] = deque()
    with ThreadPoolExecutor(chosen.clients) as pool:
        for begin in range(0, chosen.count, 1000):
            for name, attack in attacks(chosen.seed + begin, min(1000, chosen.count - begin)):
                ask = functools.partial(send, chosen.port, attack)
                under_way.append((name, attack, pool.submit(still.apart_from, ask)))
                if len(under_way) > UNDER_WAY:
                    name_, attack_, answer = under_way.popleft()
                    yield name_, attack_, answer.result()
        for name, attack, answer in under_way:
            yield name, attack, answer.result()


def main() -> int:
    """Send attacks and count what comes back; exit with 1 if anything but 4xx did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--pid", type=int, default=0, help="of lowc serve")
    parser.add_argument("--output", type=Path, help="record of what came back")
    chosen = parser.parse_args()
    socket.create_connection(("127.0.0.1", chosen.port), timeout=60).close()  # or there is none
    counts: Counter[tuple[str, int]] = Counter()
    sizes_after: dict[int, dict[int, int]] = {}
    start, wrong = time.monotonic(), 0
    slow_ones: Counter[tuple[str, int]] = Counter()
    end, still = threading.Event(), Standstill()
    beside = [
        threading.Thread(target=slow_clients, args=(chosen.port, slow_ones, end, still))
        for _ in range(16)
    ]
    for one in beside:
        one.start()
    for number, (name, attack, status) in enumerate(sent(chosen, still), 1):
        counts[name, status] += 1
        if not is_right(attack, status):
            wrong += 1
            sys.stderr.write(f"{name}: {status}: {attack.pieces[0][:100]!r}\n")
        if number % 1000 == 0:
            if chosen.pid and (number == 1000 or number % 10_000 == 0):
                sizes_after[number] = workers(chosen.pid)
            sys.stderr.write(f"{number} sent, {time.monotonic() - start:.0f} s\n")
    if chosen.grpc_port:
        left = calls_without_message(chosen.grpc_port)
        counts.update(left)
        wrong += sum(many for (_, status), many in left.items() if status != 408)
    end.set()
    for one in beside:
        one.join()
    counts.update(slow_ones)
    wrong += sum(many for (_, status), many in slow_ones.items() if status != 408)
    counts[
        "tiny_chunks of a million", send(chosen.port, tiny_chunks(random.Random(), 1_000_000))
    ] += 1
    at_last = workers(chosen.pid) if chosen.pid else {}
    for what in faults_of(sizes_after.get(1000, {}), at_last):
        wrong += 1
        sys.stderr.write(f"{what}\n")
    for (name, status), count in sorted(counts.items()):
        sys.stdout.write(f"{name:26} {status:4} {count:7}\n")
    sys.stdout.write(
        f"{counts.total()} requests, {time.monotonic() - start:.0f} s, {wrong} wrong; "
        f"the machine stood still {still.count} times\n"
    )
    by_status: Counter[str] = Counter()
    for (_, status), many in counts.items():
        by_status[str(status)] += many
    records.write(chosen.output, {
        "requests": counts.total(), "seconds": round(time.monotonic() - start), "wrong": wrong,
        "stood_still": still.count, "by_status": dict(sorted(by_status.items())),
        "kinds": sorted({name for name, _ in counts}),
        "bytes_of_workers": {
            **{f"after {many}": [*sizes.values()] for many, sizes in sizes_after.items()},
            "at the end": [*at_last.values()],
        },
    })  # fmt: skip
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

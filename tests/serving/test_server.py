"""The API by real HTTP: right answers, and everything that is refused."""

import http.client
import io
import json
import queue
import socket
import struct
import threading
import zlib
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from served import base64_of, picture, serving

from mlm_jax.data.records import Record
from mlm_jax.explaining.asked import ask
from mlm_jax.explaining.colours import over
from mlm_jax.explaining.methods import explain
from mlm_jax.generate import How
from mlm_jax.serving.answering import Playground, kind_of
from mlm_jax.serving.requests import Limits
from mlm_jax.serving.server import hosts_of, is_loopback
from mlm_jax.trained import tell

ASKED = ["", "what colour is the star?", "a small circle", "one cross", "red"]
SCENE = {
    "objects": [
        {"shape": "circle", "colour": "red", "size": "small", "x": 0.25, "y": 0.25},
        {"shape": "star", "colour": "blue", "x": 0.7, "y": 0.6},
    ],
    "background": "stripes",
    "tone": "dark",
}


def told(trained, file, question="", how=None, seed=0):
    shown = trained.take(Record("file", image=file))
    (one,) = tell(trained, shown, question, how=how or How(), seed=seed)
    return one


# --- answers ---


@pytest.mark.parametrize("question", ASKED)
def test_an_answer_is_what_tell_says(server, trained, question):
    wanted = told(trained, picture(), question)
    reply = server.ask({"image": base64_of(picture()), "question": question})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.tree["answer"] == wanted.text
    assert reply.tree["probability"] == pytest.approx(wanted.probability, rel=1e-3)
    assert "".join(word["text"] for word in reply.tree["words"]) == wanted.text


def test_many_at_a_time_get_what_each_gets_alone(server, trained):
    asked = [(picture(seed), question) for seed in range(5) for question in ASKED]
    trees = [{"image": base64_of(file), "question": question} for file, question in asked]
    before = server.playground.batcher.taken
    with ThreadPoolExecutor(len(trees)) as askers, server.held():
        replies = [askers.submit(server.ask, tree) for tree in trees]
        server.wait_for(len(trees))
    for reply, each in zip(replies, asked, strict=True):
        wanted = told(trained, *each)
        assert reply.result().tree["answer"] == wanted.text
        assert reply.result().tree["probability"] == pytest.approx(wanted.probability, rel=1e-3)
    assert len({reply.result().tree["answer"] for reply in replies}) > 5
    assert server.playground.batcher.taken == before + len(trees)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_samples_are_those_of_their_seed(server, trained, top_p):
    how = How("sample", temperature=1.5, top_p=top_p)
    texts = set()
    for seed in (0, 1, 2**32 - 1):
        settings = {"method": "sample", "temperature": 1.5, "top_p": top_p, "seed": seed}
        reply = server.ask({"image": base64_of(picture()), "settings": settings})
        wanted = told(trained, picture(), how=how, seed=seed)
        assert reply.tree["answer"] == wanted.text
        assert reply.tree["probability"] == pytest.approx(wanted.probability, rel=1e-3)
        texts.add(wanted.text)
    assert len(texts) > 1


def test_no_more_words_than_are_asked_for(server):
    whole = server.ask({"image": base64_of(picture())}).tree["words"]
    short = server.ask({"image": base64_of(picture()), "settings": {"words": 2}}).tree["words"]
    assert len(whole) > 2
    assert [word["text"] for word in short] == [word["text"] for word in whole[:2]]


def test_word_by_word(server):
    tree = {"image": base64_of(picture()), "question": ASKED[1]}
    reply = server.ask(tree, "/api/ask/stream")
    assert reply.headers["content-type"] == "application/x-ndjson"
    *pieces, last = map(json.loads, reply.body.splitlines())
    whole = server.ask(tree).tree
    assert last["answer"] == whole["answer"]
    assert len(pieces) >= len(whole["words"]) > 1
    assert all(last["answer"].startswith(piece["text"]) for piece in pieces)


def test_words_come_before_the_whole_is_there(server):
    """Two words are read while the device is held before the third."""
    batcher, hold, step = server.playground.batcher, threading.Event(), None
    step = batcher.step

    def slow(flight):
        if flight.at == 1:
            hold.wait(60)
        return step(flight)

    batcher.step = slow
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = json.dumps({"image": base64_of(picture())})
        connection.request("POST", "/api/ask/stream", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first, second = json.loads(answer.readline()), json.loads(answer.readline())
        assert second["text"].startswith(first["text"])
        assert not hold.is_set()
        hold.set()
        assert b"answer" in answer.read()
    finally:
        hold.set()
        batcher.step = step
        connection.close()


def test_a_scene_is_rendered_and_asked_about(server, trained):
    rendered = server.ask({"scene": SCENE, "size": 32}, "/api/scene").tree["image"]
    scene = server.ask({"scene": SCENE}).tree
    assert scene == server.ask({"image": rendered}).tree
    moved = {**SCENE, "objects": SCENE["objects"][:1]}
    assert server.ask({"scene": moved}).tree != scene


def test_maps_of_words(server, trained):
    """A picture for each word, which differ, and are what `explaining` makes of the same text."""
    tree = {"image": base64_of(picture()), "maps": True}
    words = server.ask(tree).tree["words"]
    pixels = [
        np.asarray(Image.open(io.BytesIO(b64decode(word["maps"]["image"])))) for word in words
    ]
    asked, (spelt,) = ask(trained, [trained.take(Record("file", image=picture()))])
    maps = explain(trained.config.model, trained.params, asked, "attention")["image"][0]
    shown = np.asarray(Image.open(io.BytesIO(picture())).resize((32, 32), Image.Resampling.BICUBIC))
    assert len(spelt) == len(words) > 1
    for found, one in zip(pixels, maps, strict=False):
        assert abs(found.astype(int) - over(shown, one)).max() <= 2
    assert (pixels[0] != pixels[-1]).any()
    assert "maps" not in server.ask({**tree, "maps": False}).tree["words"][0]


def test_words_that_are_not_known_are_named(server):
    reply = server.ask({"image": base64_of(picture()), "question": "what zebra?"})
    assert reply.tree["unknown"] == ["zebra"]


def test_markup_is_text(server):
    markup = "<b>bold</b><script>alert(1)</script>"
    reply = server.ask({"image": IMAGE, "question": "<i>zebra</i>"})
    assert reply.tree["unknown"] == ["i", "zebra"]
    refused = server.ask({"image": IMAGE, markup: 1})
    for each in (reply, refused):
        assert each.headers["content-type"] == "application/json"
        assert each.headers["x-content-type-options"] == "nosniff"
    assert "<b>bold</b>" in refused.tree["error"]


# --- what is refused ---


def bomb() -> bytes:
    """A PNG of some hundred bytes that says it is 60,000 pixels wide and high."""

    def chunk(name: bytes, data: bytes) -> bytes:
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1_000)))
        + chunk(b"IEND", b"")
    )


def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def poster():
    file = io.BytesIO()
    Image.new("1", (8_000, 5_000)).save(file, "PNG")
    return file.getvalue()


IMAGE = base64_of(picture())
THING = SCENE["objects"][0]
REFUSED = {
    "nothing": ({}, "nothing"),
    "no object": ([], "object"),
    "no JSON": (b"{", "JSON"),
    "not UTF-8": (b'{"question": "\xff"}', "JSON"),
    "NaN": (b'{"image": NaN}', "NaN"),
    "a deep tree": (b"[" * 100_000, "JSON"),
    "a huge number": (b'{"image": ' + b"9" * 5_000 + b"}", "JSON"),
    "a path": ({"image": "/etc/passwd"}, "no path"),
    "an address": ({"image": "http://127.0.0.1/picture.png"}, "no address"),
    "an empty picture": ({"image": ""}, "base64"),
    "no picture": ({"image": base64_of(b"text")}, "picture"),
    "a cut picture": ({"image": base64_of(picture()[:200])}, "picture"),
    "SVG": ({"image": base64_of(svg())}, "picture"),
    "a bomb": ({"image": base64_of(bomb())}, "pixels"),
    "a poster": ({"image": base64_of(poster())}, "8000 x 5000 pixels; at most 32,000,000"),
    "a clip": ({"video": IMAGE}, "takes image"),
    "two pictures": ({"image": IMAGE, "scene": SCENE}, "not both"),
    "an unknown key": ({"image": IMAGE, "path": "x"}, "'path' is not known"),
    "a long question": ({"image": IMAGE, "question": "x" * 501}, "at most 500"),
    "many words": ({"image": IMAGE, "question": "red " * 30}, "accepts"),
    "no text": ({"image": IMAGE, "question": 1}, "text"),
    "half a character": (b'{"image": "x", "question": "\\ud800"}', ""),
    "a method": ({"image": IMAGE, "settings": {"method": "beam"}}, "greedy, sample"),
    "a list as a method": ({"image": IMAGE, "settings": {"method": ["greedy"]}}, "greedy, sample"),
    "cold": ({"image": IMAGE, "settings": {"temperature": 0}}, "0.05"),
    "true as a number": ({"image": IMAGE, "settings": {"seed": True}}, "whole number"),
    "a negative seed": ({"image": IMAGE, "settings": {"seed": -1}}, "from 0"),
    "an empty scene": ({"scene": {"objects": []}}, "1 to 8"),
    "a crowd": ({"scene": {"objects": [THING] * 9}}, "1 to 8"),
    "no colour": ({"scene": {"objects": [{"shape": "star", "x": 0, "y": 0}]}}, "colour: missing"),
    "a shape": ({"scene": {"objects": [{**THING, "shape": "cow"}]}}, "circle"),
    "far away": ({"scene": {"objects": [{**THING, "x": 1.5}]}}, "from 0 to 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server, name):
    tree, why = REFUSED[name]
    for path in ("/api/ask", "/api/ask/stream"):
        reply = server.ask(tree, path)
        assert reply.status == 400, reply
        assert why in reply.tree["error"]
        assert reply.tree["status"] == 400
    server.wait_for(0)


def test_a_run_that_tells_draws_nothing(server):
    assert server.ask({"prompt": "a red star"}, "/api/draw").status == 400


def test_too_many_bytes(server):
    reply = server.ask(b" " * (9 << 20))
    assert reply.status == 413
    assert server.ask(b" " * (8 << 20)).status == 400  # read, and no JSON


def test_too_many_bytes_without_a_length(server):
    """In pieces, of which no more than the limit is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (b" " * (1 << 20) for _ in range(10))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/api/ask", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_never_ends(trained):
    limits = replace(Limits(), seconds=0.2)
    with serving(Playground(trained, limits, (1,))) as server, opened(server) as client:
        client.sendall(head(server, 100) + b"{")
        assert b" 408 " in client.recv(100)


def test_time_is_up(trained):
    limits = replace(Limits(), seconds=0.2)
    with serving(Playground(trained, limits, (1,))) as server:
        with server.held():
            reply = server.ask({"image": IMAGE})
            assert reply.status == 504
            assert "0.2 s" in reply.tree["error"]
        server.wait_for(0)


def test_full(trained):
    limits = replace(Limits(), inside=2)
    with serving(Playground(trained, limits, (1, 4))) as server:
        with ThreadPoolExecutor(2) as askers, server.held():
            inside = [askers.submit(server.ask, {"image": IMAGE}) for _ in range(2)]
            server.wait_for(2)
            reply = server.ask({"image": IMAGE})
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) > 0
            assert server.send("GET", "/api/model").status == 200
        assert [each.result().status for each in inside] == [200, 200]
        server.wait_for(0)  # an answer is read a moment before its place is free
        assert server.ask({"image": IMAGE}).status == 200


def opened(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def head(server, length: int, path: str = "/api/ask") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("path", ["/api/ask", "/api/ask/stream"])
def test_who_leaves_is_not_answered(server, path):
    body = json.dumps({"image": IMAGE}).encode()
    before = server.playground.batcher.taken
    with server.held():
        with opened(server) as client, opened(server) as other:
            client.sendall(head(server, len(body), path) + body)
            other.sendall(head(server, len(body), path) + body[:-1])  # leaves before it has asked
            server.wait_for(2)
        server.wait_for(0)
    assert server.ask({"image": IMAGE}).status == 200
    taken = server.playground.batcher.taken - before
    assert taken <= 2  # the first may have been on board when it left
    assert not server.playground.batcher.waiting


def test_who_takes_no_answer_gives_the_place_back(trained):
    """Two are asked for at once: the first fills all that lies between, the second waits."""
    playground = Playground(trained, replace(Limits(), seconds=1.0), (1,))
    asked: queue.Queue[object] = queue.Queue()

    async def rendered(*scene):
        asked.put(scene)
        return {"image": "x" * (16 << 20)}

    playground.rendered = rendered
    body = json.dumps({"scene": SCENE, "size": 32}).encode()
    with serving(playground) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(2 * (head(server, len(body), "/api/scene") + body))
        for _ in range(2):
            asked.get(timeout=30)
        server.wait_for(0)
        assert server.send("GET", "/api/model").status == 200


def test_who_connects_and_sends_nothing_is_let_go(trained):
    playground = Playground(trained, Limits(), (1,))
    with serving(playground, timeout_keep_alive=1) as server, opened(server) as client:
        assert client.recv(1) == b""


def test_who_leaves_while_words_come_ends_the_flight(server):
    """No more words are found for nobody."""
    batcher, steps, hold = server.playground.batcher, [], threading.Event()
    step = batcher.step

    def slow(flight):
        steps.append(flight.at)
        hold.wait(60)
        return step(flight)

    batcher.step = slow
    try:
        body = json.dumps({"image": IMAGE}).encode()
        with opened(server) as client:
            client.sendall(head(server, len(body), "/api/ask/stream") + body)
            assert b"200 OK" in client.recv(1000)
        server.wait_for(0)
        hold.set()
        server.playground.device.submit(lambda: None).result(30)
    finally:
        batcher.step = step
    assert server.ask({"image": IMAGE}).status == 200
    assert steps == [0]


def test_a_run_that_fails_says_so_and_the_next_is_answered(server):
    batcher = server.playground.batcher
    begin = batcher.begin

    def fail(asked):
        raise RuntimeError("out of memory")

    batcher.begin = fail
    try:
        reply = server.ask({"image": IMAGE})
    finally:
        batcher.begin = begin
    assert reply.status == 500
    assert "memory" not in reply.tree["error"]
    assert server.ask({"image": IMAGE}).status == 200


# --- other hosts, other sites ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{}", 200), ("localhost:{}", 200), ("LOCALHOST", 200), ("[::1]:{}", 200),
        ("evil.example", 421), ("evil.example:{}", 421), ("127.0.0.1.evil.example:{}", 421),
        ("10.0.0.1", 421), ("", 421), ("[::1", 421), ("user@evil.example", 421),
    ],
)  # fmt: skip
def test_hosts(server, host, status):
    host = host.format(server.port)
    for path in ("/", "/api/model", "/openapi.json", "/style.css"):
        assert server.send("GET", path, Host=host).status == status
    reply = server.ask({"image": IMAGE}, Host=host)
    assert reply.status == status


def test_hosts_of_an_address():
    assert "evil.example" not in hosts_of("0.0.0.0")
    assert hosts_of("0.0.0.0")[-1] == "*"
    assert hosts_of("192.168.0.7", ("Box.local",))[-2:] == ("192.168.0.7", "box.local")
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.168.0.7")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:{}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[x"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_origins(server, headers, status):
    headers = {key: value.format(server.port) for key, value in headers.items()}
    reply = server.ask({"image": IMAGE}, **headers)
    assert reply.status == status
    assert not any(key.startswith("access-control") for key in reply.headers)


def test_headers_of_everything(server):
    replies = [server.send("GET", path) for path in ("/", "/page.js", "/api/model", "/none")]
    replies += [server.ask({}), server.send("GET", "/", Host="evil.example")]
    for reply in replies:
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in reply.headers


def test_no_such_path_or_method(server):
    assert server.send("GET", "/../pyproject.toml").status == 404
    assert server.send("GET", "/api/ask").status == 405
    assert server.send("PUT", "/").status == 405
    assert "error" in server.send("GET", "/none").tree


# --- the run ---


def test_the_model(server, trained):
    tree = server.send("GET", "/api/model").tree
    assert (tree["kind"], tree["takes"], tree["asks"], tree["scenes"]) == (
        "texts", ["image"], True, True,
    )  # fmt: skip
    assert tree["run"] == "run"
    assert str(trained.path) not in json.dumps(tree)


def test_pictures_are_read_as_the_run_reads_its_own(server, trained):
    """Of another size and format than the model's."""
    file = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    Image.fromarray(levels).save(file, "BMP")
    reply = server.ask({"image": base64_of(file.getvalue())})
    assert reply.tree["answer"] == told(trained, file.getvalue()).text


def test_kinds(trained):
    assert kind_of(trained) == "texts"

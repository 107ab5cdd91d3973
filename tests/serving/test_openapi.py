"""The description agrees with the routes, with what is accepted and with what is answered."""

import json

import pytest
from served import base64_of, picture
from test_server import REFUSED, SCENE

from mlm_jax.serving import openapi
from mlm_jax.serving.requests import Limits

validator = pytest.importorskip("openapi_spec_validator", reason="it is part of the extra `dev`")
jsonschema = pytest.importorskip("jsonschema", reason="it is part of the extra `dev`")

DOCUMENT = openapi.document(Limits())
IMAGE = base64_of(picture())
BODIES = {"/api/ask": "Ask", "/api/ask/stream": "Ask", "/api/scene": "Look", "/api/draw": "Draw"}


def schema(name: str):
    """Of one component, with the others that it names."""
    whole = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(whole)


def test_it_is_openapi():
    validator.validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_it_is_served(server):
    assert server.send("GET", "/openapi.json").tree == DOCUMENT


def test_it_has_all_routes_and_no_other(server):
    told = {(path, verb.upper()) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    there = {
        (route.path, method)
        for route in server.served.app.routes
        for method in route.methods - {"HEAD"}
    }
    assert told == there


def test_kinds_of_content(server):
    for path, verbs in DOCUMENT["paths"].items():
        if "get" in verbs:
            (kind,) = verbs["get"]["responses"]["200"]["content"]
            assert server.send("GET", path).headers["content-type"].startswith(kind)


def test_bodies():
    for path, name in BODIES.items():
        content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}


GOOD = [
    {"image": IMAGE},
    {"image": IMAGE, "question": "one cross", "maps": True},
    {"scene": SCENE},
    {"scene": {"objects": [{"shape": "star", "colour": "pink", "x": 0, "y": 1}]}},
    {"image": IMAGE, "settings": {}},
    {
        "image": IMAGE,
        "settings": {"method": "sample", "temperature": 10, "top_p": 0.01, "seed": 7, "words": 3},
    },
]


@pytest.mark.parametrize("tree", GOOD)
def test_what_it_allows_is_answered_as_it_says(server, tree):
    schema("Ask").validate(tree)
    reply = server.ask(tree)
    assert reply.status == 200, reply
    schema("Answer").validate(reply.tree)
    for line in server.ask(tree, "/api/ask/stream").body.splitlines():
        schema("Line").validate(json.loads(line))


BY_SCHEMA = (
    "no object", "an empty picture", "an unknown key", "a long question", "no text", "a method",
    "a list as a method", "cold", "true as a number", "a negative seed", "an empty scene",
    "a crowd", "no colour", "a shape", "far away",
)  # fmt: skip


@pytest.mark.parametrize("name", BY_SCHEMA)
def test_what_it_forbids_is_refused_as_it_says(server, name):
    tree, _ = REFUSED[name]
    assert not schema("Ask").is_valid(tree)
    schema("Refused").validate(server.ask(tree).tree)


def test_model_and_scene(server):
    schema("Model").validate(server.send("GET", "/api/model").tree)
    schema("Look").validate({"scene": SCENE, "size": 64})
    schema("Picture").validate(server.ask({"scene": SCENE, "size": 64}, "/api/scene").tree)


def test_every_status_is_described(server):
    """Those that can be brought about here."""
    told = DOCUMENT["paths"]["/api/ask"]["post"]["responses"]
    replies = [
        server.ask({"image": IMAGE}),
        server.ask({}),
        server.ask({}, Origin="http://evil.example"),
        server.ask({}, **{"Content-Type": "text/plain"}),
        server.ask({}, Host="evil.example"),
    ]
    assert {str(reply.status) for reply in replies} <= set(told)

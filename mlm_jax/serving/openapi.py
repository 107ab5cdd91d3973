"""The description of the API, OpenAPI 3.1, with the limits that hold."""

from typing import Any, get_args

from mlm_jax.explaining.page import FRAMES
from mlm_jax.run import version
from mlm_jax.serving.requests import MAX_SEED, TEMPERATURES, TOP_P, Limits, Method, Tone
from mlm_jax.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES

Schema = dict[str, Any]


def document(limits: Limits) -> dict[str, Any]:
    ask, line = body("Ask"), {"application/x-ndjson": {"schema": ref("Line")}}
    paths = {
        "/api/model": {"get": operation("What the run takes, says and draws", made("Model"))},
        "/api/ask": {"post": operation("Ask about what is shown", made("Answer"), ask, REFUSED)},
        "/api/ask/stream": {
            "post": operation(
                "The same, word by word: lines of JSON, the whole answer or an error last",
                {"description": "a line for each word", "content": line},
                ask,
                REFUSED,
            )
        },
        "/api/scene": {"post": operation("Render a scene", made("Picture"), body("Look"), REFUSED)},
        "/api/draw": {
            "post": operation("Draw what a prompt says", made("Drawn"), body("Draw"), REFUSED)
        },
        "/openapi.json": {"get": operation("This description", shown("application/json"))},
        "/": {"get": operation("The page", shown("text/html"))},
        "/page.js": {"get": operation("Its script", shown("text/javascript"))},
        "/page.css": {"get": operation("Its style", shown("text/css"))},
        "/style.css": {"get": operation("The style of all pages", shown("text/css"))},
    }
    about = "Ask a trained run about pictures, clips and sounds, or let it draw."
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlm_jax", "version": version("mlm_jax"), "description": about},
        "paths": paths,
        "components": {"schemas": schemas(limits)},
    }


# --- operations ---

REFUSED = {
    400: "what was sent cannot be used",
    403: "from another site",
    408: "the body did not come in time",
    413: "too many bytes",
    415: "no JSON",
    500: "the run failed",
    503: "too many at a time; Retry-After says when to come again",
    504: "no answer in time",
}
EVERYWHERE = {421: "a name (Host) that this server does not have"}


def operation(
    summary: str,
    good: Schema,
    given: Schema | None = None,
    refused: dict[int, str] | None = None,
) -> Schema:
    responses: dict[str, Any] = {"200": good}
    for status, why in sorted({**EVERYWHERE, **(refused or {})}.items()):
        responses[str(status)] = {"description": why, "content": json_of("Refused")}
    if "503" in responses:
        responses["503"]["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    whole = {"summary": summary, "responses": responses}
    return whole if given is None else {**whole, "requestBody": given}


def body(name: str) -> Schema:
    return {"required": True, "content": json_of(name)}


def made(name: str) -> Schema:
    return {"description": name, "content": json_of(name)}


def shown(kind: str) -> Schema:
    return {"description": kind, "content": {kind: {}}}


def json_of(name: str) -> Schema:
    return {"application/json": {"schema": ref(name)}}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


# --- schemas ---


def schemas(limits: Limits) -> dict[str, Schema]:
    return {**of_requests(limits), **of_answers(limits)}


def of_requests(limits: Limits) -> dict[str, Schema]:
    text = {"type": "string", "maxLength": limits.characters}
    seed = {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "default": 0}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    thing = closed(
        ("shape", "colour", "x", "y"),
        shape=choice(SHAPES),
        colour=choice(COLOURS),
        size=choice(SIZES, "large"),
        x=share,
        y=share,
    )
    scene = closed(
        ("objects",),
        objects={"type": "array", "minItems": 1, "maxItems": limits.objects, "items": ref("Thing")},
        background=choice(BACKGROUNDS, "plain"),
        tone=choice(get_args(Tone), "light"),
    )
    settings = closed(
        (),
        method=choice(get_args(Method), "greedy"),
        temperature=within(TEMPERATURES, 1.0),
        top_p=within(TOP_P, 1.0),
        seed=seed,
        words={"type": "integer", "minimum": 0, "maximum": 100_000, "default": 0},
    )
    senses = {
        key: {"type": "string", "minLength": 1, "contentEncoding": "base64", "description": said}
        for key, said in FILES.items()
    }
    ask = closed(
        (),
        **senses,
        scene=ref("Scene"),
        question={**text, "default": "", "description": "left out: a caption"},
        maps={"type": "boolean", "default": False, "description": "where each word looked"},
        settings=ref("Settings"),
    )
    size = {"type": "integer", "minimum": 32, "maximum": 512, "default": 256}
    count = {"type": "integer", "minimum": 1, "maximum": limits.pictures, "default": 1}
    return {
        "Ask": ask,
        "Draw": closed(("prompt",), prompt={**text, "minLength": 1}, n=count, seed=seed),
        "Look": closed(("scene",), scene=ref("Scene"), size=size),
        "Scene": scene,
        "Thing": thing,
        "Settings": settings,
    }


FILES = {
    "image": "PNG, JPEG, WebP, BMP or GIF",
    "video": "MP4, WebM, GIF, ...",
    "audio": "WAV, FLAC, MP3, Ogg, ...",
}
MAPS = {
    "image": "base64 of a PNG, over the picture",
    "video": f"base64 of a PNG, over up to {FRAMES} frames side by side",
    "audio": "base64 of a PNG, over the spectrogram, low tones below",
}


def of_answers(limits: Limits) -> dict[str, Schema]:
    text, chance = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
    number, whole, flag = ({"type": name} for name in ("number", "integer", "boolean"))
    said = ("text", "probability")
    maps = closed((), **{key: {**text, "description": drawn} for key, drawn in MAPS.items()})
    word = closed(said, text=text, probability=chance, maps=maps)
    event = closed((*said, "start", "end"), text=text, probability=chance, start=number, end=number)
    answer = closed(
        ("answer", "probability"),
        answer=text,
        probability=chance,
        words=many(word),
        classes=many(closed(said, text=text, probability=chance)),
        events=many(event),
        unknown={**many(text), "description": "words of the question never seen in training"},
    )
    line = {
        "oneOf": [
            closed(said, text={**text, "description": "all so far"}, probability=chance),
            ref("Answer"),
            closed(("error", "status"), error=text, status=whole),
        ]
    }
    world = {
        "type": "object",
        "properties": {
            "shapes": many(text), "colours": {"type": "object"}, "sizes": {"type": "object"},
            "backgrounds": many(text), "tones": many(text),
        },
    }  # fmt: skip
    model = closed(
        ("run", "model", "step", "kind", "takes", "asks", "scenes", "maps", "words", "limits"),
        run=text,
        model=text,
        step=whole,
        kind=choice(("texts", "classes", "events", "drawings")),
        takes=many(choice(FILES)),
        asks=flag,
        scenes=flag,
        maps=flag,
        words=whole,
        limits={"type": "object", "additionalProperties": number},
        world=world,
    )
    return {
        "Model": model,
        "Answer": answer,
        "Line": line,
        "Picture": closed(("image",), image={**text, "description": "base64 of a PNG"}),
        "Drawn": closed(
            ("type", "marked", "pictures"),
            type=choice(("image/png", "image/gif")),
            marked={"type": "boolean", "description": "whether they bear the invisible mark"},
            pictures={**many(text), "maxItems": limits.pictures},
        ),
        "Refused": closed(("error", "status"), error=text, status=whole),
    }


def closed(required: Any, **properties: Schema) -> Schema:
    whole: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**whole, "required": list(required)} if required else whole


def choice(among: Any, default: str = "") -> Schema:
    whole: Schema = {"type": "string", "enum": list(among)}
    return {**whole, "default": default} if default else whole


def within(span: tuple[float, float], default: float) -> Schema:
    return {"type": "number", "minimum": span[0], "maximum": span[1], "default": default}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item}

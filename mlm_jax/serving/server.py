"""The HTTP side: what every request must pass, the routes, and clients that leave."""

import asyncio
import ipaddress
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlm_jax.serving import openapi
from mlm_jax.serving.answering import Piece, Playground
from mlm_jax.serving.requests import TONES, Limits, Refused, parse_ask, parse_draw, parse_scene
from mlm_jax.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES

log = logging.getLogger("mlm_jax.serving")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LINGER = 2.0  # seconds for which what is too much is still read, and thrown away
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/style.css": ("style.css", "text/css"),
}


class Served(NamedTuple):
    guarded: ASGIApp
    """What is to be served."""
    app: Starlette
    """Its routes."""
    door: "Door"


def application(playground: Playground, hosts: Sequence[str] = LOOPBACK) -> Served:
    """`hosts` are the names and addresses by which it may be called; "*" is any address."""
    door = Door(playground.limits)
    description = openapi.document(playground.limits)
    facts = model_of(playground)

    async def read_model(request: Request) -> Response:
        return JSONResponse(facts)

    async def read_description(request: Request) -> Response:
        return JSONResponse(description)

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.create_task(playground.batcher.run())
        yield
        loop.cancel()

    pages = [
        Route(path, partial(read_file, *file), methods=["GET"]) for path, file in FILES.items()
    ]
    app = Starlette(
        routes=[
            *pages,
            Route("/api/model", read_model, methods=["GET"]),
            Route("/openapi.json", read_description, methods=["GET"]),
            Route("/api/ask", Post(door, partial(ask, playground)), methods=["POST"]),
            Route("/api/ask/stream", Stream(door, partial(stream, playground)), methods=["POST"]),
            Route("/api/scene", Post(door, partial(look, playground)), methods=["POST"]),
            Route("/api/draw", Post(door, partial(draw, playground)), methods=["POST"]),
        ],
        exception_handlers={Refused: say_refused, HTTPException: say_http},
        lifespan=running,
    )
    return Served(Guard(app, hosts), app, door)


def model_of(playground: Playground) -> dict[str, Any]:
    """What the page has to know of the run."""
    trained = playground.trained
    return {
        "run": trained.path.resolve().name,
        "model": type(trained.config.model).__name__,
        "step": trained.step,
        "kind": playground.kind,
        "takes": [] if playground.kind == "drawings" else list(trained.take.needs),
        "asks": playground.asks,
        "scenes": playground.scenes,
        "maps": playground.maps,
        "words": trained.words["length"] if playground.kind == "texts" else 0,
        "limits": asdict(playground.limits),
        "world": {
            "shapes": list(SHAPES),
            "colours": COLOURS,
            "sizes": {name: sum(span) / 2 for name, span in SIZES.items()},
            "backgrounds": list(BACKGROUNDS),
            "tones": list(TONES),
        },
    }


# --- what every request must pass ---


class Guard:
    """Refuses other hosts and other sites; adds the headers of HEADERS to whatever is answered.

    A page of another site can have its own name resolve to this machine (DNS rebinding): then the
    Host is that name. It can send forms here: then the Origin is its own.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        request = Request(scope, receive)
        if why := self.refusal(request):
            await refusal(why)(scope, receive, with_headers)
        else:
            await self.app(scope, receive, with_headers)

    def refusal(self, request: Request) -> Refused | None:
        host = request.headers.get("host", "")
        if len(request.headers.getlist("host")) != 1 or not self.is_own(host):
            return Refused(421, "this server is not called so (Host)")
        if request.method in ("GET", "HEAD"):
            return None
        origins = map(str.lower, request.headers.getlist("origin"))
        if any(part_of(origin) != host.lower() for origin in origins):
            return Refused(403, "only pages of this server may ask it (Origin)")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return Refused(403, "only pages of this server may ask it (Sec-Fetch-Site)")
        return None

    def is_own(self, host: str) -> bool:
        name = part_of(f"//{host}", "hostname")
        return name in self.hosts or ("*" in self.hosts and is_address(name))


def part_of(address: str, name: Literal["netloc", "hostname"] = "netloc") -> str:
    """Empty where the address has none, or is none."""
    try:
        part: str | None = getattr(urlsplit(address), name)
    except ValueError:
        return ""
    return part or ""


def hosts_of(host: str, names: Sequence[str] = ()) -> tuple[str, ...]:
    """By what a server that listens at `host` may be called; `names` are further ones."""
    own = "*" if host in ("0.0.0.0", "::") else host.lower()
    return (*LOOPBACK, own, *map(str.lower, names))


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Door:
    """Counts those inside, and refuses more than `limits.inside`."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.inside = limits, 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.inside >= self.limits.inside:
            raise Refused(503, f"{self.inside} requests are inside: come again", after=1)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


# --- what is posted ---

Line = Mapping[str, Any]


class Post:
    """An endpoint (ASGI) that reads a body of JSON and answers with one, as long as someone waits.

    Whoever hangs up has `work` cancelled.
    """

    def __init__(self, door: Door, work: Callable[[bytes], Any]) -> None:
        self.door, self.limits, self.work = door, door.limits, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with self.door.entered():
            try:
                body = await read_body(request, self.limits)
            except ClientDisconnect:
                return
            answer = asyncio.create_task(self.answer(body, send))
            gone = asyncio.create_task(wait_for_end(receive))
            try:
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    answer.result()
            finally:
                answer.cancel()
                gone.cancel()
                await asyncio.gather(answer, gone, return_exceptions=True)

    async def answer(self, body: bytes, send: Send) -> None:
        """Raises: Refused, unless the answer has begun."""
        async with in_time(self.limits.seconds, 504, "no answer"):
            text = as_json(await self.work(body))
        await send(start(200, "application/json", length=len(text)))
        await send({"type": "http.response.body", "body": text})


class Stream(Post):
    """The same in lines of JSON, as they come; `work` is an asynchronous generator."""

    async def answer(self, body: bytes, send: Send) -> None:
        begun = False
        try:
            async with (
                in_time(self.limits.seconds, 504, "no whole answer"),
                aclosing(self.work(body)) as lines,
            ):
                async for line in lines:
                    if not begun:
                        await send(start(200, "application/x-ndjson"))
                    begun = True
                    await send_line(send, line)
        except Refused as refused:
            if not begun:
                raise
            await send_line(send, said_of(refused))
        await send({"type": "http.response.body", "body": b""})


async def send_line(send: Send, line: Line) -> None:
    body = as_json(line) + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


@asynccontextmanager
async def in_time(seconds: float, status: int, what: str) -> AsyncIterator[None]:
    """Raises: Refused where it takes longer, and where the run fails."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Refused(status, f"{what} within {seconds:g} s", after=None) from error
    except (Refused, ClientDisconnect, OSError):
        raise
    except Exception as error:
        log.exception("a request failed")
        raise Refused(500, "the run failed; the terminal of the server says how") from error


async def read_body(request: Request, limits: Limits) -> bytes:
    """Raises: Refused, where it is too long without keeping it; ClientDisconnect."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "Content-Type: application/json is wanted")
    parts: list[bytes] = []
    size = int(request.headers.get("content-length", 0))
    async with in_time(limits.seconds, 408, "no whole body"):
        stream = request.stream()
        while size <= limits.body and (part := await anext(stream, b"")):
            parts.append(part)
            size = max(size, sum(map(len, parts)))
        if size > limits.body:
            parts.clear()
            await throw_away(stream, limits.body)
            raise Refused(413, f"over {limits.body} bytes, the most that is read")
    return b"".join(parts)


async def throw_away(stream: AsyncIterator[bytes], most: int) -> None:
    """Read what is still on its way, for a while: a client that writes does not read an answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            size = 0
            async for part in stream:
                size += len(part)
                if size > most:
                    break


async def wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def start(status: int, kind: str, *, length: int | None = None) -> Message:
    headers = [(b"content-type", kind.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


def as_json(tree: Line) -> bytes:
    return json.dumps(tree, ensure_ascii=False, allow_nan=False).encode()


# --- what is asked for ---


async def ask(playground: Playground, body: bytes) -> Line:
    wanted = parse_ask(body, playground.limits)
    async with aclosing(playground.say(wanted)) as said:
        async for part in said:
            last = part
    assert isinstance(last, dict)
    return last


async def stream(playground: Playground, body: bytes) -> AsyncGenerator[Line]:
    wanted = parse_ask(body, playground.limits)
    async with aclosing(playground.say(wanted)) as said:
        async for part in said:
            yield part._asdict() if isinstance(part, Piece) else part


async def look(playground: Playground, body: bytes) -> Line:
    return await playground.rendered(*parse_scene(body, playground.limits))


async def draw(playground: Playground, body: bytes) -> Line:
    return await playground.draw(parse_draw(body, playground.limits))


async def read_file(name: str, kind: str, request: Request) -> Response:
    place = "mlm_jax.pages" if name == "style.css" else "mlm_jax.serving"
    return Response((files(place) / name).read_bytes(), media_type=kind)


# --- what is refused ---


def said_of(refused: Refused) -> dict[str, Any]:
    return {"error": refused.why, "status": refused.status}


def refusal(refused: Refused) -> Response:
    headers = {} if refused.after is None else {"Retry-After": str(refused.after)}
    return JSONResponse(said_of(refused), refused.status, headers)


def say_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


def say_http(request: Request, error: Exception) -> Response:
    """No such path, or method."""
    assert isinstance(error, HTTPException)
    return JSONResponse(
        said_of(Refused(error.status_code, error.detail)), error.status_code, error.headers
    )

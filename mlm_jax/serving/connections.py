"""Connections, which are taken from clients that hold them for nothing."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol(seconds: float) -> type[H11Protocol]:
    """That of uvicorn, which waits for ever for a first byte, and for an answer to be taken.

    A connection is closed where nothing comes for as long as between two requests, and where an
    answer is not taken within `seconds`: whoever waits to send it then has lost the client.
    """

    class Protocol(H11Protocol):
        untaken: asyncio.TimerHandle

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # what lies there at all was not taken
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

        def pause_writing(self) -> None:
            super().pause_writing()
            self.untaken = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self.untaken.cancel()

    return Protocol

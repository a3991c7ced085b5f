"""An HTTP request and its answer, on top of ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
import contextlib
import json
from typing import Any
import urllib.parse

from basisnet_jax.errors import UserError

LINGER = 1.0  # Seconds for which unwanted bytes are read, and dropped.


class Refusal(UserError):
  """What a client is told instead of an answer.

  Attributes:
    status: HTTP's.
    headers: of the answer.
  """

  def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
    super().__init__(sentence)
    self.status, self.headers = status, dict(headers or {})


class Gone(Exception):
  """The client has left: there is nobody to answer."""


class Request:
  """A client's request.

  Attributes:
    method, path: as in 'GET /health'.
    query: {name: values}.
    headers: {lower-case name: value}.
    complete: whether the whole body was read.
    holds_back: whether the client sends the body only when told to continue.
  """

  def __init__(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]]):
    self.method, self.path = scope['method'], _without_host(scope['path'])
    self.query = urllib.parse.parse_qs(
      scope['query_string'].decode('latin-1'), keep_blank_values=True
    )
    self.headers = {
      name.decode('latin-1'): value.decode('latin-1') for name, value in scope['headers']
    }
    self.complete = False
    self.holds_back = self.headers.get('expect', '').lower() == '100-continue'
    self._receive = receive

  async def body(self, most: int) -> bytes:
    """Reads the body, at most `most` bytes: a larger one is refused as soon as that is known.

    Raises:
      Refusal: 413, the body is larger.
      Gone: the client has left in the middle.
    """
    too_much = (
      'the body is larger than '
      f'{most:,} bytes, the limit of this server (--max_body); send a smaller image.'
    )
    announced = int(self.headers.get('content-length', 0))
    if announced > most:
      raise Refusal(413, f'{announced:,} bytes: {too_much}')
    parts, size = [], 0
    while not self.complete:
      part = await self._next()
      parts.append(part)
      size += len(part)
      if size > most:
        raise Refusal(413, f'{size:,} bytes and more: {too_much}')
    return b''.join(parts)

  async def drop_body(self) -> None:
    """Reads the rest of an unwanted body, for a second at most.

    Answering and closing without this would reset the connection, and the many clients that write
    first and then read would never see the answer. Those that ask before they write do not need it.
    """
    if self.holds_back:
      return
    with contextlib.suppress(TimeoutError, Gone):
      async with asyncio.timeout(LINGER):
        while not self.complete:
          await self._next()

  async def gone(self) -> None:
    """Returns when the client has left; await it once the body is complete."""
    with contextlib.suppress(Gone):
      while True:
        await self._next()

  async def _next(self):
    message = await self._receive()
    if message['type'] == 'http.disconnect':
      raise Gone
    self.complete = not message.get('more_body', False)
    return message.get('body', b'')


def _without_host(path):
  """'http://host/health', which HTTP/1.1 requires servers to accept, too, -> '/health'."""
  scheme, mark, rest = path.partition('://')
  return f'/{rest.partition("/")[2]}' if mark and scheme.lower() in ('http', 'https') else path


class Answer:
  """What is sent to a client."""

  def __init__(
    self,
    status: int,
    content: Any,
    headers: Mapping[str, str] | None = None,
    kind: str = 'application/json',
  ):
    """`content` is bytes of this content type (`kind`), or an object to be sent as JSON."""
    if not isinstance(content, bytes):
      content = json.dumps(content, ensure_ascii=False).encode() + b'\n'
    self.status, self._content = status, content
    self._headers = {'content-type': kind, 'content-length': str(len(content)), **(headers or {})}

  @classmethod
  def of_refusal(cls, refusal: Refusal) -> 'Answer':
    """Makes the answer {"error": the sentence}."""
    return cls(refusal.status, {'error': str(refusal)}, refusal.headers)

  async def send(self, send: Callable[[Any], Awaitable[None]], *, last: bool = False) -> None:
    """Sends it by ASGI; `last` closes the connection after it."""
    headers = self._headers | ({'connection': 'close'} if last else {})
    headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({'type': 'http.response.start', 'status': self.status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': self._content})

"""A service on uvicorn, until a signal ends it.

Uvicorn alone, and a queue of our own: LitServe 0.2 was read and left, since its queue has no end,
an image that is refused fails all of its batch, and SIGTERM ends it with requests unanswered.
"""

import asyncio
import contextlib
import functools
import json
import os
import resource
import signal
import socket
import sys

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from basisnet_jax.serving.service import Service

_HEAD = 10  # Seconds.
_FILES = 8192  # That are open at once, connections among them; fewer where the system wants that.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _last(status: str, sentence: str, more: str = '') -> bytes:
  """An answer that needs no application, after which the connection is closed."""
  content = json.dumps({'error': sentence})
  return (
    f'HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}connection: close\r\n'
    f'content-length: {len(content)}\r\n\r\n{content}'
  ).encode()


_FULL = _last(
  '503 Service Unavailable',
  'There are too many connections; try again in a second.',
  'retry-after: 1\r\n',
)
_NO_HTTP = _last(
  '400 Bad Request',
  'This is no HTTP, or its head has more than 64 kB; send an image as the body of POST /predict.',
)


class _Protocol(H11Protocol):
  """Sends at once, and closes connections on which no whole head comes, even if bytes trickle in.

  Uvicorn has this timer between two requests, and stops it at the first byte; here it runs from the
  start, until there is a request. (The alternative, httptools, takes heads without end.)
  """

  def __init__(self, *arguments, most, refused, **options):
    """`most` connections there may be; `refused` is told of what needs no application."""
    super().__init__(*arguments, **options)
    self._most, self._refused = most, refused

  def connection_made(self, transport):
    super().connection_made(transport)
    if len(self.connections) > self._most:
      self._refused(503)
      transport.write(_FULL)
      transport.close()
      return
    # Bytes at once (asyncio's own number is 16 times that): or those who send chunks of one byte,
    # which take long to parse, would hold up all others for seconds.
    transport.max_size = 1 << 14
    # Or the second packet of an answer waits 40 ms for the receipt of the first: asyncio does this
    # for sockets alone that are made with this protocol's number.
    transport.get_extra_info('socket').setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    self.timeout_keep_alive_task = self.loop.call_later(
      self.timeout_keep_alive, self.timeout_keep_alive_handler
    )

  def data_received(self, data):
    self.conn.receive_data(data)
    self.handle_events()

  def send_400_response(self, msg):
    # A client refused before all of its body had come has its answer; a second fails in uvicorn.
    if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
      self._refused(400)
      self.transport.write(_NO_HTTP)
    self.transport.close()


class _Server(uvicorn.Server):
  def handle_exit(self, sig, frame):
    super().handle_exit(sig, frame)
    if self.force_exit:
      # From Python 3.12 on uvicorn would wait for their connections even so.
      for request in list(self.server_state.tasks):
        asyncio.get_running_loop().call_soon_threadsafe(request.cancel)

  async def shutdown(self, sockets=None):
    self.config.app.hurry()
    await super().shutdown(sockets)


def run(service: Service, listener: socket.socket, seconds: float) -> None:
  """Returns after SIGTERM or SIGINT, when those that were accepted are answered.

  While the service compiles, the process ends at once. Raises what the service raised: it ends the
  server. To be called in the main thread.

  Args:
    service: what is served.
    listener: a socket that listens; it is closed.
    seconds: that a request may take.
  """
  most, backlog = _connections()
  server = _Server(
    uvicorn.Config(
      service,
      http=functools.partial(_Protocol, most=most, refused=service.refused),
      backlog=backlog,
      ws='none',
      interface='asgi3',
      lifespan='off',
      log_config=None,
      access_log=False,
      server_header=False,
      timeout_keep_alive=min(_HEAD, seconds),
      timeout_graceful_shutdown=int(seconds) + 5,
    )
  )
  # Uvicorn raises a signal again when it has ended by it: by default that would kill.
  earlier = {number: signal.signal(number, server.handle_exit) for number in _SIGNALS}
  try:
    asyncio.run(_run(server, service, listener))
  finally:
    for number, handler in earlier.items():
      signal.signal(number, handler)


def _connections() -> tuple[int, int]:
  """How many there may be, and how many more the event loop takes before it looks at them.

  Where a process may open no more files, asyncio writes a stack for each try to accept one, and
  tries thousands of times a second: whoever opens idle connections would fill the disk.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  files = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
  if soft < files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
  return files // 2, files // 4


async def _run(server, service, listener):
  def end(_):
    server.should_exit = True

  work = asyncio.create_task(service.run())
  work.add_done_callback(end)
  await server.serve(sockets=[listener])
  if not (service.ready or work.done()):  # Python would wait for the thread that compiles.
    sys.stdout.flush()
    os._exit(0)
  work.cancel()
  with contextlib.suppress(asyncio.CancelledError):
    await work

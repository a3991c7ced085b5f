"""Runs a service on uvicorn, until a signal ends it.

Only uvicorn, and a queue of our own: LitServe 0.2 was considered and rejected, since its queue is
unbounded, a refused image fails its whole batch, and SIGTERM ends it with requests unanswered.
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

from basisnet_jax.serving import exchange
from basisnet_jax.serving.service import Service

_HEAD = 10  # Seconds.
_FILES = 8192  # Open at once, including connections; fewer if the system limits them.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _last(status: str, sentence: str, more: str = '') -> bytes:
  """An answer that does not need the application, after which the connection is closed."""
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

  Uvicorn's timer runs between two requests, and stops at the first byte; here it runs from the
  start, until there is a request. (The alternative, httptools, accepts heads of any length.)
  """

  def __init__(self, *arguments, most, refused, **options):
    """`most`: connections; `refused` is called for answers that do not need the application."""
    super().__init__(*arguments, **options)
    self._most, self._refused = most, refused
    self._deaf = False

  def connection_made(self, transport):
    super().connection_made(transport)
    if len(self.connections) > self._most:
      self._refused(503)
      transport.write(_FULL)
      transport.close()
      return
    # Bytes read at once (asyncio's default is 16 times that). Otherwise clients that send chunks of
    # one byte, which take long to parse, would hold up all others for seconds.
    transport.max_size = 1 << 14
    # Otherwise the second packet of an answer waits 40 ms for the acknowledgement of the first:
    # asyncio sets this only for sockets that are made with TCP's protocol number.
    transport.get_extra_info('socket').setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    self.timeout_keep_alive_task = self.loop.call_later(
      self.timeout_keep_alive, self.timeout_keep_alive_handler
    )

  def data_received(self, data):
    if self._deaf:
      return
    self.conn.receive_data(data)
    self.handle_events()

  def send_400_response(self, msg):
    # A client refused before its whole body came has its answer; uvicorn fails at a second one.
    if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
      self._refused(400)
      self.transport.write(_NO_HTTP)
    # Closing while more comes would reset the connection, and the client may not see the answer.
    self._deaf = True
    self.transport.write_eof()
    self.loop.call_later(exchange.LINGER, self.transport.close)


class _Server(uvicorn.Server):
  def handle_exit(self, sig, frame):
    super().handle_exit(sig, frame)
    if self.force_exit:
      # From Python 3.12 on, uvicorn would still wait for their connections.
      for request in list(self.server_state.tasks):
        asyncio.get_running_loop().call_soon_threadsafe(request.cancel)

  async def shutdown(self, sockets=None):
    self.config.app.hurry()
    await super().shutdown(sockets)


def run(service: Service, listener: socket.socket, seconds: float) -> None:
  """Serves until SIGTERM or SIGINT, and returns when all accepted requests are answered.

  While the service compiles, a signal ends the process at once. An exception of the service ends
  the server and is raised here. Call this in the main thread.

  Args:
    service: what is served.
    listener: a listening socket; it gets closed.
    seconds: time that a request may take.
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
  # When a signal has ended uvicorn, it raises the signal again: by default that would kill.
  earlier = {number: signal.signal(number, server.handle_exit) for number in _SIGNALS}
  try:
    asyncio.run(_run(server, service, listener))
  finally:
    for number, handler in earlier.items():
      signal.signal(number, handler)


def _connections() -> tuple[int, int]:
  """How many there may be, and how many more the event loop accepts before it looks at them.

  When a process may open no more files, asyncio logs a stack trace for each attempt to accept a
  connection, thousands of times a second: whoever opens idle connections would fill the disk.
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
  if not (service.ready or work.done()):  # Python would wait for the compiling thread.
    sys.stdout.flush()
    os._exit(0)
  work.cancel()
  with contextlib.suppress(asyncio.CancelledError):
    await work

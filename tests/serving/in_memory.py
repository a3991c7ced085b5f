"""A service without sockets, with a predictor that is held back as tests want."""

import asyncio
import json
import threading
import types

import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.inference.prediction import Prediction
from basisnet_jax.serving.service import Limits, Service


class FakePredictor:
  """An image is a number, which is its first label; it exits where it is odd."""

  labels = tuple('abcdef')
  preparation = types.SimpleNamespace(resolution=2)
  sizes = (1, 2, 4)

  def __init__(self):
    self.go, self.error = threading.Event(), None
    self.go.set()

  def prepare(self, data, most_pixels):
    if not data.isdigit() or int(data) > most_pixels:
      raise UserError(f'{data.decode()}: not an image.')
    return np.full((2, 2, 3), int(data), np.uint8)

  def answers(self, pixels, threshold, *, top_k):
    assert self.go.wait(60) and threshold == 0.5
    if self.error:
      raise self.error
    for image in pixels:
      number = int(image[0, 0, 0])
      stage = ('specialist', 'lightweight')[number % 2]
      labels = (str(number), *self.labels[1:])[:top_k]
      yield Prediction(labels, (0.5,) * len(labels), stage, 0.123456789, 10 + number)


class Client:
  """Asks a service as uvicorn would."""

  def __init__(self, service):
    self.service = service

  async def __call__(self, target, parts=(), method='POST', leave=None, **headers):
    """(status, headers, content); the body comes in parts, after `leave` the client is gone."""
    path, _, query = target.partition('?')
    scope = {
      'type': 'http', 'method': method, 'path': path, 'query_string': query.encode(),
      'headers': [(k.replace('_', '-').encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    left, sent = list(parts) or [b''], []

    async def receive():
      if left:
        part = left.pop(0)
        if part is None:  # It never comes.
          await asyncio.sleep(1000)
        return {'type': 'http.request', 'body': part, 'more_body': bool(left)}
      await (leave or asyncio.Event()).wait()
      return {'type': 'http.disconnect'}

    async def send(message):
      sent.append(message)

    await self.service(scope, receive, send)
    if not sent:
      return None
    head, body = sent
    content, headers = body['body'], dict(head['headers'])
    if headers[b'content-type'] == b'application/json':
      content = json.loads(content)
    return head['status'], headers, content


def within(scenario, predictor=None, *, ready=True, **limits):
  """Runs `scenario(client, predictor)` with a service that is ready, or compiles still."""
  predictor = predictor or FakePredictor()

  async def both():
    service = Service(
      predictor,
      0.5,
      Limits(**{'top_k': 2, 'batch_wait': 0.0} | limits),
      {'labels': list(predictor.labels)},
    )
    client = Client(service)
    if not ready:
      predictor.go.clear()
    client.end = service.hurry
    work = asyncio.create_task(service.run())
    try:
      if ready:
        await until_status(client, '/health', 200)
      await asyncio.wait_for(scenario(client, predictor), 60)
    finally:
      predictor.go.set()
      work.cancel()

  asyncio.run(both())


async def until_status(client, path, status):
  while (await client(path, method='GET'))[0] != status:
    await asyncio.sleep(0.001)


async def metrics(client):
  _, headers, content = await client('/metrics', method='GET')
  assert headers[b'content-type'].startswith(b'text/plain; version=')
  lines = [line.rsplit(' ', 1) for line in content.decode().splitlines() if line[0] != '#']
  return {name: float(value) for name, value in lines}


async def until_metric(client, name, value):
  while (await metrics(client))[name] != value:
    await asyncio.sleep(0.001)

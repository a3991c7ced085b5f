"""The service without sockets: what it answers, refuses and counts."""

import asyncio
import re

from in_memory import metrics, until_metric, until_status, within
import pytest

from basisnet_jax.serving import service


def test_targets_with_a_host_are_those_without():
  async def scenario(client, predictor):
    assert (await client('http://a:80/predict?top_k=1', [b'7']))[2]['labels'] == ['7']
    assert (await client('HTTPS://a', method='GET'))[2] == {'labels': list('abcdef')}
    status, _, content = await client('ftp://a/health', method='GET')
    assert status == 404 and content['error'].startswith('There is no ftp://a/health')
    assert (await metrics(client))['basisnet_requests_total{path="/predict",status="200"}'] == 1

  within(scenario)


def test_it_tells_how_far_it_has_compiled(capsys):
  async def scenario(client, predictor):
    pass

  within(scenario)
  told = [re.sub(r'\d+ s', 'N s', line) for line in capsys.readouterr().out.splitlines()]
  assert told == [*(f'Compiling: {i} of 3 programs in N s.' for i in range(4)), 'Ready.']


def test_nobody_is_answered_before_all_is_compiled():
  async def scenario(client, predictor):
    for ask in (client('/health', method='GET'), client('/predict', [b'1'])):
      status, headers, content = await ask
      assert status == 503 and headers[b'retry-after'] == b'5'
      assert content == {'error': 'The network is being compiled; try again in a few seconds.'}
    assert (await client('/', method='GET'))[2] == {'labels': list('abcdef')}
    predictor.go.set()
    await until_status(client, '/health', 200)
    assert (await client('/predict', [b'1']))[0] == 200

  within(scenario, ready=False)


def test_an_answer_has_the_fields_of_predict():
  async def scenario(client, predictor):
    status, _, content = await client('/predict', [b'4', b'2'])
    assert status == 200 and content == {
      'labels': ['42', 'b'], 'probabilities': [0.5, 0.5], 'stage': 'specialist',
      'confidence': 0.123457, 'madds': 52,
    }  # fmt: skip
    assert (await client('/predict?top_k=1', [b'7']))[2]['labels'] == ['7']
    assert len((await client('/predict?top_k=100', [b'7']))[2]['labels']) == 6

  within(scenario)


def test_each_gets_as_many_labels_as_asked_from_one_batch():
  async def scenario(client, predictor):
    asks = [client(f'/predict?top_k={k}', [b'%d' % k]) for k in (1, 4, 2, 3)]
    found = [content['labels'] for _, _, content in await asyncio.gather(*asks)]
    assert [(labels[0], len(labels)) for labels in found] == [(str(k), k) for k in (1, 4, 2, 3)]
    assert (await metrics(client))['basisnet_batch_images_count'] == 1

  within(scenario, batch_wait=1000.0)


@pytest.mark.parametrize(
  'target, parts, options, status, sentence',
  [
    ('/predict', [], {}, 400, 'The body is empty'),
    ('/predict', [b'cat'], {}, 422, 'cat: not an image.'),
    ('/predict', [b'12345'] * 3, {}, 413, '15 bytes and more: the body is larger than 12 bytes'),
    ('/predict', [b'1'], {'content_length': '13'}, 413, '13 bytes: the body is larger than 12'),
    ('/predict', [b'1'], {'content_type': 'text/plain; a=b'}, 415, 'Content-Type: text/plain: the'),
    ('/predict', [b'1'], {'content_encoding': 'gzip'}, 415, 'Content-Encoding: gzip'),
    ('/predict?top_k=0', [b'1'], {}, 400, '?top_k=0: it is a number of labels, from 1 to 6'),
    ('/predict?top_k=²', [b'1'], {}, 400, 'it is a number of labels'),
    ('/predict?top_k=', [b'1'], {}, 400, 'it is a number of labels'),
    ('/predict?topk=3', [b'1'], {}, 400, '?topk= is not known'),
    ('/predict', [], {'method': 'GET'}, 405, '/predict is asked by POST, not by GET'),
    ('/health', [b'1'], {}, 405, '/health is asked by GET, not by POST'),
    ('/metrics/', [], {}, 404, 'There is no /metrics/; there are /, /health'),
  ],
)
def test_what_cannot_be_answered_gets_a_sentence(target, parts, options, status, sentence):
  async def scenario(client, predictor):
    found, _, content = await client(target, parts, **options)
    assert found == status
    assert set(content) == {'error'} and sentence in content['error']
    path = target.split('?')[0]
    path = path if path != '/metrics/' else 'other'
    counted = await metrics(client)
    assert counted[f'basisnet_requests_total{{path="{path}",status="{status}"}}'] == 1
    assert counted['basisnet_requests_unanswered'] == 0
    assert (await client('/predict', [b'1'], content_type='image/webp'))[0] == 200

  within(scenario, body=12)


@pytest.mark.parametrize('path', ['/', '/health', '/metrics', '/predict'])
def test_who_is_refused_for_the_method_is_told_all_that_are_answered(path):
  async def scenario(client, predictor):
    methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']
    found = {method: await client(path, [b'1'], method=method) for method in methods}
    answered = [method for method in methods if found[method][0] == 200]
    for method in set(methods) - set(answered):
      status, headers, _ = found[method]
      assert status == 405 and headers[b'allow'].decode().split(', ') == answered

  within(scenario)


def test_images_have_the_servers_limit():
  async def scenario(client, predictor):
    assert (await client('/predict', [b'7']))[0] == 200
    assert (await client('/predict', [b'8']))[0] == 422

  within(scenario, pixels=7)


def test_who_waits_to_be_told_to_send_a_body_and_is_not_is_not_heard_on_that_connection():
  async def scenario(client, predictor):
    for expect, length, closes in (
      ('100-Continue', '13', True), ('100-continue', '1', False), ('', '13', False)
    ):  # fmt: skip
      status, headers, _ = await client('/predict', [b'1'], expect=expect, content_length=length)
      assert status == (413 if length == '13' else 200)
      assert (headers.get(b'connection') == b'close') == closes

  within(scenario, body=12)


def test_the_last_answers_say_that_they_are():
  async def scenario(client, predictor):
    assert b'connection' not in (await client('/predict', [b'1']))[1]
    client.end()
    for ask in (client('/predict', [b'1']), client('/nowhere')):
      assert (await ask)[1][b'connection'] == b'close'

  within(scenario)


def test_a_full_queue_refuses_and_takes_again():
  async def scenario(client, predictor):
    predictor.go.clear()
    asks = [asyncio.create_task(client('/predict', [b'%d' % i])) for i in range(3)]
    await until_metric(client, 'basisnet_requests_unanswered', 3)
    status, headers, content = await client('/predict', [b'9'])
    assert (status, headers[b'retry-after']) == (503, b'1')
    assert content['error'].startswith('The queue is full, with 3 requests, the limit')
    predictor.go.set()
    assert [(await ask)[2]['labels'][0] for ask in asks] == ['0', '1', '2']
    assert (await client('/predict', [b'9']))[0] == 200

  within(scenario, requests=3)


def test_slow_uploads_make_room_in_a_full_queue_the_oldest_first(monkeypatch):
  async def scenario(client, predictor):
    predictor.go.clear()
    whole = asyncio.create_task(client('/predict', [b'1']))
    slow = []
    for i in (2, 3):
      slow.append(asyncio.create_task(client('/predict', [b'1', None])))
      await until_metric(client, 'basisnet_requests_unanswered', i)
    assert (await client('/predict', [b'2']))[0] == 503  # They have only begun.
    monkeypatch.setattr(service, '_PATIENCE', 0.0)
    third = asyncio.create_task(client('/predict', [b'3']))
    status, headers, content = await slow[0]
    assert status == 408 and headers[b'connection'] == b'close'
    assert content['error'].startswith('The queue is full, and the body had not come within 0 sec')
    fourth = asyncio.create_task(client('/predict', [b'4']))
    assert (await slow[1])[0] == 408
    assert (await client('/predict', [b'5']))[0] == 503  # Nobody else is slow.
    predictor.go.set()
    assert [(await ask)[2]['labels'][0] for ask in (whole, third, fourth)] == ['1', '3', '4']
    assert (await metrics(client))['basisnet_requests_unanswered'] == 0

  within(scenario, requests=3)


def test_who_waits_too_long_is_told_and_the_next_is_answered():
  async def scenario(client, predictor):
    predictor.go.clear()
    status, _, content = await client('/predict', [b'1'])
    assert status == 504 and 'no answer within 0.2 seconds' in content['error']
    predictor.go.set()
    while (await client('/predict', [b'1']))[0] != 200:  # The network has work of before.
      pass

  within(scenario, seconds=0.2)


def test_a_body_that_does_not_come_is_given_up():
  async def scenario(client, predictor):
    status, headers, content = await client('/predict', [b'1', None])
    assert status == 408 and 'did not come within 0.05 seconds' in content['error']
    assert headers[b'connection'] == b'close'
    assert (await metrics(client))['basisnet_requests_unanswered'] == 0

  within(scenario, seconds=0.05)


def test_who_leaves_is_forgotten():
  async def scenario(client, predictor):
    predictor.go.clear()
    first = asyncio.create_task(client('/predict', [b'1']))
    await until_metric(client, 'basisnet_requests_unanswered', 1)
    await until_metric(client, 'basisnet_queue_images', 0)  # The network has it.
    leave = asyncio.Event()
    gone = asyncio.create_task(client('/predict', [b'2'], leave=leave))
    await until_metric(client, 'basisnet_queue_images', 1)
    leave.set()
    assert await gone is None
    await until_metric(client, 'basisnet_queue_images', 0)
    predictor.go.set()
    assert (await first)[0] == 200
    counted = await metrics(client)
    assert counted['basisnet_requests_total{path="/predict",status="499"}'] == 1
    assert counted['basisnet_answers_total{stage="lightweight"}'] == 1
    assert 'basisnet_answers_total{stage="specialist"}' not in counted

  within(scenario)


def test_a_failing_network_shows_in_health_while_it_fails():
  async def scenario(client, predictor):
    predictor.error = RuntimeError('a secret of the server')
    status, _, content = await client('/predict', [b'1'])
    assert status == 500 and content == {
      'error': 'The server fails at this request; its log tells why.'
    }
    status, _, content = await client('/health', method='GET')
    assert status == 503 and content['error'].startswith('The network fails')
    predictor.error = None
    assert (await client('/health', method='GET'))[2] == {'status': 'ready'}
    assert (await client('/predict', [b'1']))[0] == 200

  within(scenario)


def test_a_network_that_hangs_shows_in_health_while_it_hangs():
  async def scenario(client, predictor):
    predictor.go.clear()
    assert (await client('/predict', [b'1']))[0] == 504
    assert (await client('/health', method='GET'))[0] == 200  # It may be slow.
    await until_status(client, '/health', 503)
    _, _, content = await client('/health', method='GET')
    assert content['error'].startswith('The network has worked on one batch for ')
    predictor.go.set()
    await until_status(client, '/health', 200)

  within(scenario, seconds=0.5)


def test_what_happened_is_counted():
  async def scenario(client, predictor):
    await asyncio.gather(*(client('/predict', [b'%d' % i]) for i in range(7)))
    await client('/predict', [b'x'])
    counted = await metrics(client)
    assert counted['basisnet_requests_total{path="/predict",status="200"}'] == 7
    assert counted['basisnet_requests_total{path="/predict",status="422"}'] == 1
    assert counted['basisnet_answers_total{stage="lightweight"}'] == 3
    assert counted['basisnet_answers_total{stage="specialist"}'] == 4
    assert counted['basisnet_madds_total'] == 7 * 10 + sum(range(7))
    assert counted['basisnet_batch_images_sum'] == 7
    assert counted['basisnet_answer_seconds_count'] == 7
    assert counted['basisnet_answer_seconds_bucket{le="+Inf"}'] == 7

  within(scenario)

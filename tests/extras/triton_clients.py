"""Many clients at once, each with images of its own: python triton_clients.py PORT IN OUT

IN is images as .npy; OUT gets the answers for them, in order, by the names of the outputs.
"""

import concurrent.futures
import sys
import threading

import numpy as np
import tritonclient.http as triton

CLIENTS = 32


def main(port, source, target):
  images, start = np.load(source), threading.Barrier(CLIENTS)

  def ask(own):
    client, answers = triton.InferenceServerClient(f'localhost:{port}'), {}
    start.wait(60)
    for i in range(own, len(images), CLIENTS):
      one = triton.InferInput('images', [1, *images.shape[1:]], 'FP32')
      one.set_data_from_numpy(images[i : i + 1])
      answer = client.infer('two_stage', [one])
      names = [output['name'] for output in answer.get_response()['outputs']]
      answers[i] = {name: answer.as_numpy(name)[0] for name in names}
    return answers

  with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
    found = {i: one for part in pool.map(ask, range(CLIENTS)) for i, one in part.items()}
  answers = [found[i] for i in range(len(images))]
  np.savez(target, **{name: np.array([one[name] for one in answers]) for name in answers[0]})


if __name__ == '__main__':
  main(*sys.argv[1:])

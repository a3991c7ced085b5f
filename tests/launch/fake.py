"""Stands in for gcloud, kubectl and others: writes down its call, and answers as the test says.

The folder $FAKE holds `calls`, a line of JSON for each call, and `answers`: {words: [[exit code,
output], ...]}. The first key of which all words are among the arguments answers, each time with its
next answer and in the end always with its last. Without a key the call succeeds silently.
"""

import json
import os
import pathlib
import sys

folder = pathlib.Path(os.environ['FAKE'])
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
stdin = sys.stdin.read() if '--filename=-' in call else ''
with (folder / 'calls').open('a') as file:
  file.write(json.dumps(call) + '\n')
if stdin:
  (folder / 'stdin').write_text(stdin)
answers = json.loads((folder / 'answers').read_text())
words = set(' '.join(call).split())
for key, queue in answers.items():
  if set(key.split()) <= words:
    code, output = queue.pop(0) if len(queue) > 1 else queue[0]
    (folder / 'answers').write_text(json.dumps(answers))
    print(output, file=sys.stderr if code else sys.stdout)
    sys.exit(code)

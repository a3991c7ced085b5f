"""Firefox by its own protocol, Marionette: as far as the tests of the web go."""

import itertools
import json
import pathlib
import socket
import subprocess
import time

# So that the tests ask for the page alone; the port is written into the profile.
_PREFERENCES = {
  'marionette.port': 0,
  'browser.startup.page': 0,
  'browser.shell.checkDefaultBrowser': False,
  'datareporting.policy.dataSubmissionEnabled': False,
  'app.update.auto': False,
}
_TROUBLES = """
  return Services.console.getMessageArray()
    .filter((m) => m instanceof Ci.nsIScriptError && !(m.flags & Ci.nsIScriptError.warningFlag))
    .filter((m) => m.sourceName.startsWith(arguments[0])).map((m) => m.errorMessage);
"""


class Firefox:
  """A Firefox without a window, with a profile in `folder`; close it."""

  def __init__(self, path, folder):
    profile = pathlib.Path(folder)
    lines = (f'user_pref("{k}", {json.dumps(v)});' for k, v in _PREFERENCES.items())
    (profile / 'user.js').write_text('\n'.join(lines))
    self._process = subprocess.Popen(
      [
        path, '--headless', '--no-remote', '--marionette', '--profile', profile,
        '--remote-allow-system-access',  # The console is the browser's, not the page's.
      ],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )  # fmt: skip
    self._ids = itertools.count()
    try:
      port = wait(lambda: _read(profile / 'MarionetteActivePort'), 60)
      self._socket = socket.create_connection(('127.0.0.1', int(port)), timeout=60)
      self._stream = self._socket.makefile('rb')
      self._receive()
      self._send('WebDriver:NewSession')
    except BaseException:
      self._process.kill()
      self._process.wait()
      raise

  def close(self):
    self._stream.close()
    self._socket.close()
    self._process.terminate()
    self._process.wait(30)

  def open(self, address):
    self._send('WebDriver:Navigate', url=address)

  def ask(self, expression, *arguments):
    """What an expression of JavaScript is on the page; of `arguments`, where it takes some."""
    return self._script(f'return {expression}', arguments)

  def text(self, selector):
    return self.ask('document.querySelector(arguments[0]).innerText', selector)

  def press(self, selector, keys):
    """Types into an element; a path, where it is one of files."""
    found = self._send('WebDriver:FindElement', using='css selector', value=selector)
    (element,) = found['value'].values()
    self._send('WebDriver:ElementSendKeys', id=element, text=str(keys))

  def troubles(self, address):
    """What failed in what is from an address, or was refused, as the console says."""
    self._send('Marionette:SetContext', value='chrome')
    found = self._script(_TROUBLES, [address])
    self._send('Marionette:SetContext', value='content')
    return found

  def _script(self, script, arguments):
    return self._send('WebDriver:ExecuteScript', script=script, args=list(arguments))['value']

  def _send(self, command, **parameters):
    message = json.dumps([0, next(self._ids), command, parameters]).encode()
    self._socket.sendall(b'%d:%s' % (len(message), message))
    _, _, error, result = self._receive()
    assert error is None, error
    return result

  def _receive(self):
    length = b''
    while (byte := self._stream.read(1)) != b':':
      assert byte, 'Firefox has ended.'
      length += byte
    return json.loads(self._stream.read(int(length)))


def wait(what, seconds=20):
  """Waits until a function returns what is true, and returns that."""
  end = time.monotonic() + seconds
  while not (found := what()):
    assert time.monotonic() < end, 'It did not come in time.'
    time.sleep(0.05)
  return found


def _read(path):
  return path.read_text().strip() if path.exists() else ''

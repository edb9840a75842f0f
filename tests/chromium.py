"""Headless Chromium, driven by its DevTools protocol over a pipe, without driver and port."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from select import select

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)

needs_chromium = pytest.mark.skipif(
    PROGRAM is None, reason='no Chromium: apt-get update && apt-get install -y chromium'
)


class Chromium:
    """Context manager of a browser with one page.

    Attributes:
        requests: addresses of all that the page has asked for, itself aside.
        messages: of the console, the log and of uncaught errors.
    """

    def __init__(self, folder):
        self._folder = folder
        self.requests, self.messages = [], []

    def __enter__(self):
        its_in, to = os.pipe()
        of, its_out = os.pipe()

        def take_pipes():  # where the protocol has them
            spare = os.dup(its_in), os.dup(its_out)
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        options = ['--headless=new', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe',
                   '--disable-dev-shm-usage', '--no-first-run', '--hide-scrollbars',
                   f'--user-data-dir={self._folder}', 'about:blank']  # fmt: skip
        self._process = subprocess.Popen(
            [PROGRAM, *options], preexec_fn=take_pipes, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(its_in)
        os.close(its_out)
        self._to, self._of, self._left, self._number, self._session = to, of, b'', 0, None
        pages = self.call('Target.getTargets')['targetInfos']
        page = next(target['targetId'] for target in pages if target['type'] == 'page')
        attached = self.call('Target.attachToTarget', targetId=page, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Network', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')
        return self

    def __exit__(self, *error):
        self._session = None
        self.call('Browser.close')
        self._process.wait(20)
        os.close(self._to)
        os.close(self._of)

    def call(self, method, **params):
        """Send a command to the browser, and return its answer."""
        self._number += 1
        message = dict(id=self._number, method=method, params=params)
        if self._session is not None:
            message['sessionId'] = self._session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._number:
                assert 'error' not in answer, f'{method}: {answer}'
                return answer['result']

    def wait_for(self, event):
        """Wait for an event."""
        while self._receive().get('method') != event:
            pass

    def _receive(self):
        end = time.monotonic() + 600
        while b'\0' not in self._left:
            if not select([self._of], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError('Chromium does not answer')
            read = os.read(self._of, 2**16)
            assert read, 'Chromium has ended'
            self._left += read
        text, _, self._left = self._left.partition(b'\0')
        message = json.loads(text)
        method, params = message.get('method', ''), message.get('params')
        if method == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'])
        elif method == 'Log.entryAdded':
            self.messages.append(params['entry']['text'])
        elif method == 'Runtime.exceptionThrown':
            self.messages.append(params['exceptionDetails']['text'])
        elif method == 'Runtime.consoleAPICalled':
            self.messages.append(str(params['args']))
        return message

    def open(self, path, width, dark=False):
        """Open a file at a width in pixels, such as a phone's."""
        scheme = [dict(name='prefers-color-scheme', value='dark' if dark else 'light')]
        self.call('Emulation.setEmulatedMedia', features=scheme)
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=800,
                  deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        self.requests.clear()
        self.messages.clear()
        self.call('Page.navigate', url=Path(path).resolve().as_uri())
        self.wait_for('Page.loadEventFired')

    def value(self, expression):
        """Return the value of a JavaScript expression in the page."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def screenshot(self, path, whole=True):
        """Save a screenshot of the page."""
        data = self.call('Page.captureScreenshot', captureBeyondViewport=whole)['data']
        Path(path).write_bytes(base64.b64decode(data))


def check_page(path, folder):
    """Open a page on a phone and on a desk, light and dark, and check it.

    It asks for nothing but itself, has no errors, scrolls down alone, and says in words what its
    pictures show.
    """
    with Chromium(folder) as browser:
        for width in (360, 1280):
            grounds = set()
            for dark in (False, True):
                browser.open(path, width, dark)
                asked = [url for url in browser.requests if not url.startswith('data:')]
                assert asked == [Path(path).resolve().as_uri()] and not browser.messages
                assert browser.value('document.documentElement.scrollWidth') == width
                assert browser.value('[...document.images].every(i => i.alt && i.naturalWidth)')
                charts = "[...document.querySelectorAll('svg')]"
                assert browser.value(f"{charts}.every(s => s.getAttribute('aria-label'))")
                assert browser.value(f'{charts}.every(s => s.clientWidth > 250)')
                ids = "[...document.querySelectorAll('[id]')].map(e => e.id)"
                assert browser.value(f'new Set({ids}).size == {ids}.length')
                levels = browser.value(
                    "[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
                )
                assert levels.count(1) == 1 and levels[0] == 1
                assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))
                ground, ink, chart = (
                    browser.value(f'getComputedStyle(document.querySelector("{part}")).{colour}')
                    for part, colour in (
                        ('body', 'backgroundColor'), ('p', 'color'), ('svg text', 'fill'),
                    )
                )  # fmt: skip
                assert contrast(ground, ink) > 4.5 and contrast(ground, chart) > 4.5
                grounds.add(ground)
            assert len(grounds) == 2


def contrast(*colours):
    """Ratio of the luminances of two colours as browsers write them, from 1 to 21 (WCAG 2)."""
    bright = []
    for colour in colours:
        channels = [int(text) / 255 for text in re.findall(r'\d+', colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        bright.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(bright) / min(bright)

"""`ebmzoo play` in a browser, from the command line to the picture, and what the browser asks for meanwhile."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest

from support.browser import Page, chromium, until

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio, of the extra `play`, is not installed"),
    pytest.mark.skipif(chromium() is None, reason="there is no chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "ebmzoo", "play", "--pretrained", "dual_mcmc_digits", "--port", str(port)]
    folder = tmp_path_factory.mktemp("play")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, its children too
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    signal.signal(signal.SIGINT, before)
    try:
        until(lambda: process.poll() is not None or "open http" in (folder / "out").read_text(), "the page")
        assert process.poll() is None, (folder / "out").read_text()
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in (folder / "out").read_text()
        assert not list(folder.glob("ebmzoo_play_*"))  # pictures that were dropped in are gone
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def page(address, tmp_path):
    page = Page(tmp_path)
    try:
        page.open(address)
        page.wait("!!document.querySelector('#sample')")
        yield page
    finally:
        page.close()


def test_a_person_samples_scores_and_restores(page):
    assert page.value("document.querySelectorAll('#samples img').length") == 0
    page.value("document.querySelector('#sample').click()")
    page.wait("/Energy -?[\\d.,]+/.test(document.querySelector('#words').innerText)")
    page.wait("document.querySelector('#samples img')?.naturalWidth > 100")
    page.wait("document.querySelector('#chain img')?.naturalWidth > 100")
    page.wait("!!document.querySelector('#energies canvas, #energies svg')")
    assert "This DualMCMC was trained without classes." in page.value("document.body.innerText")

    page.value("[...document.querySelectorAll('button[role=tab]')].at(-1).click()")
    page.wait("document.querySelector('#score')?.offsetParent !== null")
    page.value("document.querySelector('#score').click()")
    page.wait("/higher than \\d+% of 250 test images/.test(document.body.innerText)")
    page.wait("document.querySelector('#seen img')?.naturalWidth > 100")
    page.value("document.querySelector('#restore').click()")
    page.wait("document.querySelector('#restored img')?.naturalWidth > 100")

    asked = {urlsplit(request).hostname for request in page.requests if not request.startswith(("data:", "blob:"))}
    assert asked == {"127.0.0.1"}
    assert page.problems == []  # none that the page's policy had to stop, either


def test_a_person_paints_what_is_hidden(page):
    page.ask("Emulation.setDeviceMetricsOverride", width=1280, height=1700, deviceScaleFactor=1, mobile=False)
    page.value("[...document.querySelectorAll('button[role=tab]')].at(-1).click()")
    page.wait("document.querySelector('#restore')?.offsetParent !== null")
    option = "[...document.querySelectorAll('[role=option]')].find(each => each.innerText.includes('paint'))"
    page.press("document.querySelector('input[aria-label^=Damage]')")
    page.wait(f"!!{option}")
    page.press(option)
    page.wait("document.querySelector('#canvas canvas')?.getBoundingClientRect().width > 100")
    page.value("document.querySelector('#restore').click()")
    page.wait("/nothing is painted yet/.test(document.body.innerText)")
    middle = "document.querySelector('#canvas canvas')"
    for _ in range(3):  # until the canvas has the picture, and takes paint
        page.press(middle, *((0.3 + 0.02 * k, 0.5) for k in range(21)))
        page.value("document.querySelector('#restore').click()")
        if until_restored(page):
            break
    assert page.value("document.querySelector('#restored img')?.naturalWidth") > 100
    asked = {urlsplit(request).hostname for request in page.requests if not request.startswith(("data:", "blob:"))}
    assert asked == {"127.0.0.1"}


def until_restored(page):
    """Whether restorations are shown within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if page.value("document.querySelector('#restored img')?.naturalWidth > 100"):
            return True
        time.sleep(0.2)
    return False

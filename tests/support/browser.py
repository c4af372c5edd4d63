"""A page in headless Chromium, driven through its DevTools protocol."""

import asyncio
import base64
import json
import shutil
import subprocess
import time

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
PATIENCE = 120


def chromium():
    """The path of the browser; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A page of a new browser, whose folder is `folder`; `requests` are the addresses that it has asked for."""

    def __init__(self, folder, width=1280, height=900):
        flags = [*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
        self.process = subprocess.Popen([chromium(), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.requests, self.problems, self._answers, self._number = [], [], {}, 0
        self._loop = asyncio.new_event_loop()
        active = folder / "DevToolsActivePort"
        until(lambda: active.is_file() and active.read_text().strip(), "the browser's port")
        self._loop.run_until_complete(self._connect(int(active.read_text().split()[0])))

    async def _connect(self, port):
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as found:
            target = next(each for each in await found.json() if each["type"] == "page")
        self._socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Network", "Page", "Runtime", "Log"):
            await self._ask(f"{domain}.enable")

    async def _ask(self, method, **parameters):
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while number not in self._answers:
            self._hear(json.loads((await self._socket.receive(timeout=PATIENCE)).data))
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def _hear(self, message):
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        elif message["method"] == "Log.entryAdded":
            self.problems.append(message["params"]["entry"]["text"])

    def ask(self, method, **parameters):
        """The result of a method of the protocol."""
        return self._loop.run_until_complete(self._ask(method, **parameters))

    def open(self, address):
        self.ask("Page.navigate", url=address)

    def value(self, script):
        """The value of an expression of JavaScript."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script):
        """Wait until an expression is true; its value."""
        return until(lambda: self.value(script), script)

    def press(self, element, *points):
        """Press the mouse on the element that an expression finds, and drag it to `points`, each a share of its sides.

        Without points it is pressed and let go in the middle.
        """
        script = f"(() => {{ const r = ({element}).getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }})()"
        x, y, width, height = self.value(script)
        places = [(x + a * width, y + b * height) for a, b in points or [(0.5, 0.5)]]
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1), "mouseReleased"]
        for kind, (left, top) in zip(kinds, [*places, places[-1]], strict=True):
            down = int(kind != "mouseReleased")
            self.ask("Input.dispatchMouseEvent", type=kind, x=left, y=top, button="left", buttons=down, clickCount=1)

    def picture(self, width=1280, height=900):
        """A screenshot as PNG."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(1)
        return base64.b64decode(self.ask("Page.captureScreenshot")["data"])

    def close(self):
        self.process.terminate()
        self.process.wait()
        self._loop.run_until_complete(self._session.close())
        self._loop.close()


def until(condition, what):
    """Wait for a true value, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {PATIENCE} s for {what}")

"""A real browser, Chromium without a window, to test pages in."""

import functools
import http.server
import json
import queue
import subprocess
import tempfile
import threading


def visit(browser, folder, driver):
    """Serve a folder, and open a page in it that drives another; return what it sends and complains of.

    Args:
        browser: the path of Chromium.
        folder: what is served; gets a file driver.html.
        driver: that file's HTML, whose script ends with `fetch("done", {method: "POST", body: JSON})`.

    Returns:
        The JSON that was sent, and the lines on the browser's console: errors, warnings, refused requests.
    """
    shown = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self):
            shown.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    (folder / "driver.html").write_text(driver, encoding="utf-8")
    handler = functools.partial(Handler, directory=folder)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        quiet = ["background-networking", "component-update", "sync", "gpu"]
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--enable-logging=stderr",
            f"--user-data-dir={home}",
            *(f"--disable-{q}" for q in quiet),
            "--remote-debugging-port=0",  # keeps the browser open
            f"http://127.0.0.1:{server.server_port}/driver.html",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            answer = shown.get(timeout=120)
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
        log.seek(0)
        return answer, [line.strip() for line in log if "CONSOLE" in line]

#!/usr/bin/env python3
"""Takes a picture of a trace, as a viewer shows what `--trace FILE` has written.

    tests/trace_picture.py TRACE PICTURE.png [WIDTH HEIGHT [FOLDER]]

For a look at what people see in chrome://tracing or ui.perfetto.dev, where neither is to be had: the
viewer is chrome://tracing of old, which the sources of Go bring along. Debian has it and a browser
(apt-get install chromium golang-1.19-src); FOLDER is where it is, if it is elsewhere.
"""

import functools
import glob
import http.server
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8">
<script src="/webcomponents.min.js"></script>
<link rel="import" href="/trace_viewer_full.html">
<style>
  html, body { margin: 0; width: 100%; height: 100%; overflow: hidden; }
  #viewer { width: 100%; height: 100%; }
</style>
<script>
document.addEventListener('WebComponentsReady', async () => {
  const container = document.createElement('track-view-container');
  container.id = 'track_view_container';
  const viewer = document.createElement('tr-ui-timeline-view');
  viewer.track_view_container = container;
  Polymer.dom(viewer).appendChild(container);
  viewer.id = 'viewer';
  viewer.globalMode = true;
  viewer.polyfillWarnedOnce_ = true;  // that browsers of today are not of its time
  Polymer.dom(document.body).appendChild(viewer);
  const text = await (await fetch('/trace.json')).text();
  const model = new tr.Model();
  new tr.importer.Import(model).importTraces([text]);
  viewer.model = model;
  viewer.viewTitle = 'asyncio';
  // The next but one frame shows it; in a picture, time may pass faster than it draws.
  requestAnimationFrame(() => requestAnimationFrame(() => fetch('/drawn')));
});
</script></head>
<body><img src="/when_drawn" hidden></body></html>
"""


def find_viewer():
    folders = glob.glob("/usr/share/go-*/src/cmd/trace/static") + sys.argv[5:]
    for folder in map(pathlib.Path, sorted(folders)):
        if (folder / "trace_viewer_full.html").exists():
            return folder
    raise SystemExit("no viewer is here: apt-get install golang-1.19-src")


class Handler(http.server.SimpleHTTPRequestHandler):
    drawn = threading.Event()

    def do_GET(self):
        if self.path == "/drawn":
            self.drawn.set()
        if self.path == "/when_drawn":  # until then the page is not loaded, and no picture taken
            self.drawn.wait(300)
        super().do_GET()

    def log_message(self, *_):
        pass


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    trace, picture = map(pathlib.Path, sys.argv[1:3])
    width, height = sys.argv[3:5] or ("1400", "700")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        raise SystemExit("no browser is here: apt-get install chromium")
    viewer = find_viewer()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        site = pathlib.Path(folder, "site")
        site.mkdir()
        for name in "trace_viewer_full.html", "webcomponents.min.js":
            (site / name).symlink_to(viewer / name)
        (site / "index.html").write_text(PAGE)
        shutil.copy(trace, site / "trace.json")
        handler = functools.partial(Handler, directory=site)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            subprocess.run([
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                f"--user-data-dir={folder}/profile", f"--window-size={width},{height}",
                f"--screenshot={picture.resolve()}",
                f"http://127.0.0.1:{server.server_address[1]}/",
            ], timeout=600, check=True, stderr=subprocess.DEVNULL)
            server.shutdown()
    print(picture)


main()

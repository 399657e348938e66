"""The services of a VO that DIRAC's job wrapper reports to, as far as it calls them: each call is answered with success and written
down, one JSON line each. Not part of the pilot, and none of its classes: only so that a job can end well without a DIRAC server."""

import http.server
import json
import threading
import urllib.parse

ANSWERS = {"sendHeartBeat": {}}


class Services(http.server.BaseHTTPRequestHandler):
    """DIRAC's calls over HTTP: a form with the method and its arguments as JSON."""

    calls = None
    lock = threading.Lock()

    def do_POST(self):  # noqa: N802 (the library's name)
        size = int(self.headers.get("Content-Length") or 0)
        form = urllib.parse.parse_qs(self.rfile.read(size).decode())
        method = form.get("method", [""])[0]
        call = {"service": self.path, "method": method, "args": json.loads(form.get("args", ["[]"])[0])}
        with self.lock:
            self.calls.write(json.dumps(call) + "\n")
            self.calls.flush()
        body = json.dumps({"OK": True, "Value": ANSWERS.get(method, "")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start(path):
    """Starts the services on a free port of 127.0.0.1, which it returns; calls are written to this file."""
    Services.calls = open(path, "w", encoding="utf-8")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Services)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]

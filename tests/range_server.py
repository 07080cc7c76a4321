"""A web server for ranges of one file, on loopback, that misbehaves when it is told to."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """`files`: by path, `/name`.  `trouble(handler, start, stop)` says whether it has answered instead."""

    def __init__(self, files):
        self.files = files
        self.etag = '"one"'
        self.trouble = lambda handler, start, stop: False
        self.asked = []                 # (path, start, stop) of each request
        self.connections = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                server.connections += 1

            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_):
                """A reader that hangs up is none."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def url(self, name="disk.img"):
        return f"http://127.0.0.1:{self._http.server_port}/{name}"

    def answer(self, handler):
        path = handler.path.partition("?")[0]
        content = self.files.get(path)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, 1 << 62)
        self.asked.append((path, start, stop))
        if self.trouble(handler, start, stop):
            return
        if content is None:
            handler.send_error(404)
            return
        self.send_part(handler, start, content[start:stop], len(content))

    def send_part(self, handler, start, part, total, status=206, length=None, **headers):
        handler.send_response(status)
        values = {"Content-Length": str(len(part) if length is None else length), "ETag": self.etag,
                  "Content-Range": f"bytes {start}-{start + len(part) - 1}/{total}"}
        values |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in values.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        try:
            handler.wfile.write(part)
        except OSError:                 # the reader has gone
            handler.close_connection = True

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

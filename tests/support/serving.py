"""A server in the form of TensorFlow Serving's REST interface, in a thread or in a process of its own.

python -m tests.support.serving MODEL.onnx PORT
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class Serving:
    """Serves a function from images to outputs at `/v1/models/teacher`; counts the images that it was asked for.

    Args:
        predict: from images `(B, H, W, C)` to a list of rows, or of dictionaries of rows.
        metadata: what `.../metadata` returns, or `None` for a server that has none.
        dies_after: closes every connection without a reply after so many predict requests.

    Attributes:
        halves: so many of the next replies break off in the middle.
    """

    def __init__(self, predict, metadata=None, dies_after=None, port=0):
        self.predict, self.metadata, self.dies_after, self.halves = predict, metadata, dies_after, 0
        self.requests, self.images, self.statuses = 0, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                known = outer.metadata is not None and self.path == "/v1/models/teacher/metadata"
                self.reply(200 if known else 404, outer.metadata if known else {"error": "not found"})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests += 1
                if outer.dies_after is not None and outer.requests > outer.dies_after:
                    self.close_connection = True
                    return
                if outer.statuses:
                    status = outer.statuses.pop(0)
                    self.reply(status, {"error": f"status {status}"})
                    return
                images = np.asarray(body["instances"])
                outer.images.extend(image.tobytes() for image in images)
                self.reply(200, {"predictions": outer.predict(images)})

            def reply(self, status, content):
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                is_half, outer.halves = outer.halves > 0, max(0, outer.halves - 1)
                self.wfile.write(text[: len(text) // 2] if is_half else text)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that no longer waits

        self.server = Quiet(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1/models/teacher"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()


def metadata(shape, dtype):
    """The metadata of a model with one input of a shape such as (-1, 8, 8, 1) and a type such as "DT_UINT8"."""
    tensor = {"dtype": dtype, "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in shape]}}
    signature = {"inputs": {"images": tensor}, "outputs": {}, "method_name": "tensorflow/serving/predict"}
    return {
        "model_spec": {"name": "teacher"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


def serve_file(path, port):
    """Serves an ONNX file of uint8 images until the process is killed; prints a line for each request."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name

    def predict(images):
        print(len(images), flush=True)
        time.sleep(0.05)
        return session.run(None, {name: images.astype("uint8")})[0].tolist()

    Serving(predict, port=port)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    serve_file(sys.argv[1], int(sys.argv[2]))

# %% [markdown]
"""
# Teachers of your own: PyTorch, a server, a file, a function

A teacher need not be a network of Keras. This tutorial distills from an ONNX file, from predictions in an `.npz` file,
and from a server, and it stops the server while it is being asked.

## Record first

A SavedModel is a TensorFlow graph, so it teaches directly: `kd.distill(teacher="path/of/saved_model", ...)`. Everything
else is **recorded first**: `kd.record` asks the teacher for its outputs for each view of each image, and the recording
is the teacher of any number of students. A slow or paid teacher is asked once for each view, also if the recording is
interrupted.
"""

# %%
import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/own_teachers")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 60
images: dict[str, Any] = {"data": "digits", "batch_size": 100}
training: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.01, "epochs": EPOCHS}
student: dict[str, Any] = {"student": "mlp(hidden=(64,))", "methods": ["kd"], **images, **training}

# %% [markdown]
"""
## A network of PyTorch, as an ONNX file

In PyTorch you write the file like this (recent versions also need `pip install onnx onnxscript`; 2.13 was tried):

    torch.onnx.export(network.eval(), torch.zeros(1, 3, 224, 224), "teacher.onnx", input_names=["images"],
                      output_names=["logits"], dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}})

Images `(B, C, H, W)` and another image size need nothing from you: the file declares them. What it cannot say is the
range of the pixels that it expects, so pass a function that converts pixel values from 0 to 255:

    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    teacher = kd.Teacher.onnx("teacher.onnx", preprocess=lambda images: (images / 255 - mean) / deviation)

If the teacher has its classes in another order than your images, or more of them, pass `class_order=`, the position of
each class of your images; if it returns probabilities, `probabilities=True`. A teacher that does not fit is refused
before anything is recorded, and the message says what was expected and what came.

PyTorch is not needed here: a network of this project is exported to ONNX and takes that place.
"""

# %%
network = kd.train(model="resnet8", run=RUNS / "network", **images, **training)
file = RUNS / "export" / "model.onnx"
if not file.exists():  # a recording belongs to one file, and another export has other bytes
    kd.export(network, ["onnx"], output=file.parent)
teacher = kd.Teacher.onnx(file)
recording = kd.record(teacher=teacher, views=2, shift=1, output=RUNS / "from_onnx", **images)
from_onnx = kd.distill(recording=RUNS / "from_onnx", shift=1, run=RUNS / "student_of_onnx", **student)

# %% [markdown]
"""
In the shell:

    python -m experiments.record --teacher=teacher.onnx --teacher_range=0,1 --data=digits --output=recording
    python -m experiments.distill --recording=recording --data=digits --student=resnet8 --run=runs/student

`--teacher` takes `.tflite` files too, options as in `"teacher.onnx(probabilities=True)"`, and the address of a server.
`kd.Teacher.litert(file)` and `kd.Teacher(function)` are the same for a LiteRT file and a Python function.

## Predictions that were computed elsewhere

If the other program reads the same images, its predictions are enough. In PyTorch, with the images in a folder:

    dataset = torchvision.datasets.ImageFolder("photographs/train", transform)
    logits = torch.cat([network(batch) for batch, _ in DataLoader(dataset, 64)]).cpu().numpy()
    files = [os.path.relpath(path, "photographs") for path, _ in dataset.samples]
    np.savez("predictions.npz", logits=logits, files=files, class_names=dataset.classes)

`files` says which row belongs to which image of the folder. For images of another dataset the array `index` does, the
number of each example; without both, there must be one row for each example, in their order. `probabilities` or
`embedding` may take the place of `logits`. There are predictions for the images and not for views of them, so there is
no augmentation.
"""

# %%
examples = kd.data.load("digits", "train").examples
pixels = np.stack([example["image"].numpy() for example in examples])
logits = network.model().predict(pixels.astype("float32"), verbose=0)
np.savez(RUNS / "predictions.npz", logits=logits)
kd.record(teacher=RUNS / "predictions.npz", output=RUNS / "from_arrays", **images)
from_arrays = kd.distill(recording=RUNS / "from_arrays", run=RUNS / "student_of_arrays", **student)

# %% [markdown]
"""
## A server

`kd.Teacher.served(url)` asks any server with the REST interface of TensorFlow Serving (`:predict`). `batch_size=`
limits the images in a request, `timeout=` and `retries=` say how long it waits, and `headers=` may have a key. This
server runs in a thread and predicts with the network; after five requests it stops.
"""

# %%
served = network.model()
PATH = "/v1/models/digits"


@contextlib.contextmanager
def serving(requests: int = 1_000_000) -> Iterator[str]:
    """A server that replies to so many requests; yields its address."""
    left = [requests]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:  # the metadata of the model, which a server need not have
            self.send_error(404)

        def do_POST(self) -> None:
            left[0] -= 1
            if left[0] < 0:
                return  # the connection ends without a reply
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rows = served.predict_on_batch(np.array(body["instances"], "float32")).tolist()
            reply = json.dumps({"predictions": rows}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{PATH}"
    finally:
        server.shutdown()
        server.server_close()


os.environ.setdefault("no_proxy", "127.0.0.1")
request: dict[str, Any] = {"views": 2, "shift": 1, "output": RUNS / "from_server", **images}
with serving(requests=5) as url:
    try:
        kd.record(teacher=kd.Teacher.served(url, retries=1), **request)
    except ConnectionError as error:
        print("Interrupted:", error)

# %% [markdown]
"""
The same call resumes: the server is asked only for the batches that are missing, and it may have another host or port.
"""

# %%
with serving() as url:
    kd.record(teacher=kd.Teacher.served(url), **request)
from_server = kd.distill(recording=RUNS / "from_server", shift=1, run=RUNS / "student_of_server", **student)

# %% [markdown]
"""
## The students

All three have the same teacher, by three ways. Those of the ONNX file and of the server saw the same two views.
"""

# %%
print(kd.compare([network, from_onnx, from_arrays, from_server]).markdown())

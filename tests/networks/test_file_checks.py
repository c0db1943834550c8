"""Model files that must not be read: archives that unpack to gigabytes, declared shapes, and links to other files."""

import zipfile

import h5py
import numpy as np
import pytest

from kd_keras.networks.loading import load_weights, pixel_statistics
from kd_keras.runs import load_network
from tests.support.networks import convolutional, same, values

GIB = 1 << 30


def saved(path):
    convolutional().save_weights(path)
    return path


def edited(path, edit):
    """A file of weights after `edit` of the variables of its first layer."""
    with h5py.File(saved(path), "r+") as file:
        edit(file, file["layers"]["conv2d"]["vars"])
    return path


def declare(shape):
    def edit(file, variables):
        del variables["0"]
        variables.create_dataset("0", shape, "float32", chunks=(1,) * (len(shape) - 1) + (1024,))

    return edit


def external_array(other):
    def edit(file, variables):
        shape = variables["0"].shape
        del variables["0"]
        variables.create_dataset("0", shape, "float32", external=[(str(other), 0, h5py.h5f.UNLIMITED)])

    return edit


def virtual_array(other):
    def edit(file, variables):
        layout = h5py.VirtualLayout(variables["0"].shape, "float32")
        layout[...] = h5py.VirtualSource(str(other), "values", layout.shape)
        del variables["0"]
        variables.create_virtual_dataset("0", layout)

    return edit


def link(other):
    def edit(file, variables):
        del variables["0"]
        variables["0"] = other

    return edit


def in_itself(file, variables):
    file["layers"]["conv2d"]["again"] = file["layers"]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda other: declare((16, GIB)), "has .* bytes and would declare arrays of 68,719,4"),
        (external_array, "whose values are in other files: .*secret"),
        (virtual_array, "whose values are in other files: .*secret"),
        (lambda other: link(h5py.ExternalLink(str(other), "/values")), "a link to .*secret"),
        (lambda other: link(h5py.SoftLink("/layers/dense/vars/0")), "a link at"),
        (lambda other: in_itself, "twice, as a part of itself"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_refused_before_it_is_read(make, message, tmp_path):
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["values"] = np.ones(1000, "float32")
    path = edited(tmp_path / "some.weights.h5", make(secret))
    model = convolutional()
    before = values(model.variables)
    with pytest.raises(ValueError, match=message):
        load_weights(model, path)
    assert same(before, values(model.variables))


def bomb(path, member, size=GIB):
    """An archive of a few megabytes with a member of a gigabyte of zeros."""
    convolutional().save(path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist() if name != member}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
        with archive.open(member, "w", force_zip64=True) as file:
            for _ in range(size >> 24):
                file.write(bytes(1 << 24))


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "assets/file.bin"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused(member, tmp_path):
    bomb(tmp_path / "model.keras", member)
    for read in (load_network, pixel_statistics, lambda path: load_weights(convolutional(), path)):
        with pytest.raises(ValueError, match="model.keras has .* bytes and would unpack to 1,073,7"):
            read(tmp_path / "model.keras")


def test_a_network_whose_file_refers_to_another_file_is_refused(tmp_path):
    path = edited(tmp_path / "weights.h5.weights.h5", external_array(tmp_path / "secret"))
    convolutional().save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json"), archive.read("metadata.json")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", config[0])
        archive.writestr("metadata.json", config[1])
        archive.write(path, "model.weights.h5")
    with pytest.raises(ValueError, match="whose values are in other files"):
        load_network(tmp_path / "model.keras")


@pytest.mark.parametrize("length", [0, 100, 3000, -200])
def test_a_truncated_model_is_said_to_be_damaged(length, tmp_path):
    path = tmp_path / "model.keras"
    convolutional().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="a complete .keras .* damaged or not a model file") as error:
        load_network(path)
    assert "not found" not in str(error.value).lower()


def test_a_compressed_archive_is_read(tmp_path):
    model = convolutional()
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "small.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    other = convolutional()
    assert not load_weights(other, tmp_path / "small.keras").missing
    assert same(values(model.variables), values(other.variables))
    assert same(values(load_network(tmp_path / "small.keras").variables), values(model.variables))

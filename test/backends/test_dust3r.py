"""The network as the mapper meets it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.backends import make_backend  # noqa: E402
from dust3r_ros.backends.dust3r import Dust3rBackend  # noqa: E402
from dust3r_ros.config import MapperConfig  # noqa: E402
from dust3r_ros.errors import BackendError, CheckpointError, ConfigError, InputError  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, load_checkpoint, normalise, save_checkpoint  # noqa: E402
from dust3r_ros.types import View  # noqa: E402

CONFIG = Dust3rConfig(
    head_type="linear", enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, dec_num_heads=2
)
WIDE, TALL = (32, 48), (48, 32)
FIELDS = ("points_first", "confidence_first", "points_second", "confidence_second")


@pytest.fixture
def model():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a tiny network: more threads mostly wait for each other
    return Dust3r(CONFIG).eval()


@pytest.fixture
def backend(model):
    return Dust3rBackend(model, "cpu")


def view(index, size=WIDE):
    pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    return View(index, "front", pixels)


def counted(module):
    """Batch lengths of every pass through ``module``."""
    calls = []
    module.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    return calls


def assert_close(values, expected, name, tolerance=2e-6):
    """Up to float32 rounding: ``tolerance`` is relative to the largest value."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(values, expected, atol=tolerance * np.abs(expected).max(), rtol=0, err_msg=name)


def assert_same(a, b, tolerance=2e-6):
    assert (a.first, a.second) == (b.first, b.second)
    for name in FIELDS:
        assert_close(getattr(a, name), getattr(b, name), name, tolerance)


def test_predictions_are_the_networks(backend, model):
    views = [view(0), view(1), view(2, TALL)]
    for item in views:
        backend.add(item)
    pairs = [(0, 1), (2, 0), (1, 0), (0, 2), (1, 1)]
    predictions = backend.predict(pairs, {})
    assert [(p.first, p.second) for p in predictions] == pairs
    for (first, second), prediction in zip(pairs, predictions, strict=True):
        with torch.inference_mode():
            output = model(normalise(views[first].image), normalise(views[second].image))
        expected = (output.points_1, output.confidence_1, output.points_2, output.confidence_2)
        for name, value in zip(FIELDS, expected, strict=True):
            array = getattr(prediction, name)
            assert array.dtype == np.float32 and array.flags.owndata and array.flags.writeable
            assert_close(array, value[0], name)
        assert prediction.points_first.shape == views[first].image.shape
        assert prediction.confidence_second.shape == views[second].image.shape[:2]
        assert (prediction.confidence_first >= 1).all()


def test_a_view_is_encoded_once(backend, model):
    encoded, decoded = counted(model.patch_embed), counted(model.dec_blocks[0])
    for index in range(4):
        backend.add(view(index))
    for _ in range(2):
        backend.predict([(a, b) for a in range(4) for b in range(4) if a != b], {})
    assert encoded == [1, 1, 1, 1]
    assert decoded == [8, 4, 8, 4]


def test_batches_do_not_leak_into_each_other(model):
    pairs = [(0, 1), (1, 0), (2, 1), (0, 3), (3, 2)]
    together, alone = Dust3rBackend(model, "cpu", batch_size=8), Dust3rBackend(model, "cpu", batch_size=1)
    for index in range(4):
        together.add(view(index))
        alone.add(view(index))
    for a, b in zip(together.predict(pairs, {}), alone.predict(pairs, {}), strict=True):
        assert_same(a, b)


def test_same_calls_give_the_same_bytes(model):
    runs = []
    for _ in range(2):
        backend = Dust3rBackend(model, "cpu")
        backend.add(view(0))
        backend.add(view(1))
        runs.append(backend.predict([(0, 1), (1, 0)], {}))
    for a, b in zip(*runs, strict=True):
        assert_same(a, b, tolerance=0)


def test_forgotten_and_replaced_views(backend):
    backend.add(view(0))
    backend.add(view(1))
    (before,) = backend.predict([(0, 1)], {})
    backend.forget(1)
    backend.forget(99)
    assert backend.has(0) and not backend.has(1)
    with pytest.raises(InputError, match="view 1 is not known"):
        backend.predict([(0, 1)], {})
    backend.add(View(1, "front", view(7).image))
    (after,) = backend.predict([(0, 1)], {})
    assert np.abs(after.points_second - before.points_second).max() > 1e-3
    assert backend.predict([], {}) == []


def test_the_configuration_makes_it(model, tmp_path):
    save_checkpoint(model, tmp_path)
    backend = make_backend(MapperConfig(backend="dust3r", checkpoint=str(tmp_path), device="cpu"))
    assert isinstance(backend, Dust3rBackend) and not backend.uses_poses


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 40, 3), np.uint8),
        np.zeros((32, 48), np.uint8),
        np.zeros((32, 48, 3), np.float32),
        np.zeros((0, 48, 3), np.uint8),
    ],
)
def test_unusable_images(backend, image):
    with pytest.raises(InputError):
        backend.add(View(0, "front", image))


def test_memory_that_does_not_suffice_halves_the_batch(model, monkeypatch, caplog):
    """A network that holds two pairs at once gives what an unlimited one gives."""
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    free, tight = Dust3rBackend(model, "cpu", batch_size=8), Dust3rBackend(model, "cpu", batch_size=8)
    for index in range(4):
        free.add(view(index))
        tight.add(view(index))
    expected = free.predict(pairs, {})
    decode, sizes = model.decode, []

    def limited(first, second):
        sizes.append(len(first))
        if len(first) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(first, second)

    monkeypatch.setattr(model, "decode", limited)
    for a, b in zip(tight.predict(pairs, {}), expected, strict=True):
        assert_same(a, b)
    assert sizes == [8, 4, *[2] * 6]
    assert "do not fit into memory" in caplog.text


def test_a_pair_that_never_fits(backend, model, monkeypatch):
    backend.add(view(0))

    def full(first, second):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(model, "decode", full)
    with pytest.raises(BackendError, match="lower 'working_size'"):
        backend.predict([(0, 0)] * 5, {})


def test_other_failures_are_not_taken_for_memory(backend, model, monkeypatch):
    backend.add(view(0))

    def broken(first, second):
        raise RuntimeError("something else")

    monkeypatch.setattr(model, "decode", broken)
    with pytest.raises(RuntimeError, match="something else"):
        backend.predict([(0, 0)] * 3, {})


def test_numbers_that_are_not_finite_count_as_unknown(model, caplog):
    with torch.no_grad():
        model.downstream_head1.proj.bias[0] = 200.0  # x of the first pixel of every patch: exp(200) overflows
    backend = Dust3rBackend(model, "cpu")
    backend.add(view(0))
    (prediction,) = backend.predict([(0, 0)], {})
    assert backend.not_finite == 6  # patches
    assert (prediction.points_first[::16, ::16] == 0).all() and (prediction.confidence_first[::16, ::16] == 1).all()
    assert np.isfinite(prediction.points_first).all()
    assert "not finite" in caplog.text


def test_reduced_precision_stays_close(model):
    exact, rough = Dust3rBackend(model, "cpu"), Dust3rBackend(model, "cpu", precision="bfloat16")
    for backend in (exact, rough):
        backend.add(view(0))
        backend.add(view(1))
    (a,), (b,) = exact.predict([(0, 1)], {}), rough.predict([(0, 1)], {})
    difference = np.linalg.norm(a.points_second - b.points_second) / np.linalg.norm(a.points_second)
    assert 0 < difference < 0.05
    assert b.points_second.dtype == np.float32


def test_from_a_checkpoint(model, tmp_path):
    save_checkpoint(model, tmp_path / "net")
    from_path, from_model = Dust3rBackend(tmp_path / "net", "cpu"), Dust3rBackend(load_checkpoint(tmp_path / "net"))
    for backend in (from_path, from_model):
        backend.add(view(0))
        backend.add(view(1))
    assert_same(from_path.predict([(0, 1)], {})[0], from_model.predict([(0, 1)], {})[0], tolerance=1e-5)
    with pytest.raises(CheckpointError, match="does not exist"):
        Dust3rBackend(tmp_path / "none.pth", "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_devices_that_are_not_there(model, device):
    with pytest.raises(BackendError, match=f"device '{device}'"):
        Dust3rBackend(model, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_without_cuda(model):
    with pytest.raises(BackendError, match="use cpu"):
        Dust3rBackend(model, "cuda")
    Dust3rBackend(model, "auto").add(view(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_agrees_with_cpu(model):
    results = []
    for device in ("cpu", "cuda"):
        backend = Dust3rBackend(model, device)
        backend.add(view(0))
        backend.add(view(1))
        results.append(backend.predict([(0, 1), (1, 0)], {}))
    for a, b in zip(*results, strict=True):
        assert_same(a, b, tolerance=1e-4)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 2.0}, {"precision": "int8"}])
def test_bad_arguments(model, arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Dust3rBackend(model, "cpu", **arguments)


def test_without_torch():
    """The package and this module import without torch; using the backend says what to install."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import dust3r_ros, dust3r_ros.network, dust3r_ros.backends.dust3r as module\n"
        "from dust3r_ros.errors import BackendError\n"
        "try: module.Dust3rBackend('weights.pth')\n"
        "except BackendError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "the dust3r backend needs torch; install it with: pip install 'dust3r_ros[network]' (in a checkout: make env)"
    )


def test_importing_does_not_import_torch():
    code = "import sys, dust3r_ros, dust3r_ros.network, dust3r_ros.backends.dust3r; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr

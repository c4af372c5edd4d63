"""The page of `ebmzoo play` as a program sees it: what its buttons answer, its errors, and who may ask."""

import http.client
import re
import socket

import numpy as np
import pytest
import torch
from PIL import Image

import ebmzoo
from ebmzoo.commands.play.canvas import painted, to_paint_on
from ebmzoo.commands.play.chain import Player
from ebmzoo.commands.play.command import gradio, launch
from ebmzoo.commands.play.controls import PAINTED
from ebmzoo.commands.play.local_only import LOCAL
from ebmzoo.commands.play.page import build
from ebmzoo.data import Digits
from ebmzoo.errors import UserError

pytest.importorskip("gradio", reason="gradio, of the extra `play`, is not installed")


def free_port():
    with socket.socket() as found:
        found.bind((LOCAL, 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def player():
    return Player(ebmzoo.pretrained("cdrl_digits"), Digits())


@pytest.fixture(scope="module")
def served(player, tmp_path_factory):
    """The page, served, and its port."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
            patch.setenv(name, "")  # to be put back after `gradio` has set it
        gr = gradio(tmp_path_factory.mktemp("files"))
        page, port = build(player, "a <b>model</b>", gr), free_port()
        launch(page, port, gr)
        yield page, port
        page.close(verbose=False)


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("downloads")
    return Client(f"http://{LOCAL}:{served[1]}", verbose=False, analytics_enabled=False, download_files=folder)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def predict(client, *values, to):
    return client.predict(*values, api_name=f"/{to}")


def test_sample_answers_with_images_energies_and_the_chain(client, player):
    words, samples, chain, slider, plot = predict(client, 2, 1, 1, 1, "3", 0, to="sample")
    walk = player.sample(2, 1, 1, class_="3")
    assert f"{walk.energies.double().mean():,.0f}" in words
    assert "6 Langevin steps at temperature 1" in words
    shown = pixels(samples)[..., 0]
    cells = shown[2:, 2:].reshape(1, -1, 2, (shown.shape[1] - 2) // 2)
    side = shown.shape[0] - 4
    for k in range(2):  # every pixel of the model is a square of pixels on the page
        cell = cells[0, :side, k, :side]
        assert np.array_equal(cell[side // 16 :: side // 8, side // 16 :: side // 8], walk.images[k, 0].numpy())
    with Image.open(chain) as animation:
        assert animation.format == "GIF"
        assert animation.n_frames == len(walk.moments)
    assert slider["maximum"] == len(walk.moments) - 1
    assert len(plot["plot"]["data"] if "plot" in plot else plot["data"]) == 3 * len(walk.moments)


def test_score_answers_with_where_the_picture_lies(client, player, tmp_path):
    from gradio_client import handle_file

    Image.new("L", (12, 9), 255).save(tmp_path / "white.png")
    words, seen, _ = predict(client, handle_file(str(tmp_path / "white.png")), 0, to="score")
    found = player.score(player.picture(str(tmp_path / "white.png")))
    assert re.match(rf"\*\*Energy {found.energy:,.0f}\*\*, higher than 100% of 250 test images", words)
    assert (pixels(seen)[4:-4, 4:-4] == 255).all()


def test_restore_answers_with_four_restorations(client, player):
    words, left, ends, _, slider = predict(client, None, 3, "the left half is hidden", 1, 1, 1, None, to="restore")
    found = player.restore(player.picture(None, 3), "the left half is hidden", 4, 1, 1, 1)
    assert f"**{found.psnr[1]:.1f} dB**, damaged {found.psnr[0]:.1f} dB" in words
    assert pixels(left).shape[0] < pixels(ends).shape[0]
    assert slider["maximum"] == len(found.walk.moments) - 1


def test_what_is_painted_is_hidden(client, player, tmp_path):
    from gradio_client import handle_file

    paint = np.zeros((288, 288, 4), np.uint8)
    paint[72:144, 140:] = (211, 47, 47, 255)  # the third and fourth rows, from a ninth of the fourth column on
    Image.fromarray(paint).save(tmp_path / "paint.png")
    Image.new("RGB", (288, 288)).save(tmp_path / "below.png")
    below, layer = (handle_file(str(tmp_path / f"{name}.png")) for name in ("below", "paint"))
    drawn = {"background": below, "layers": [layer], "composite": below}
    words, *_ = predict(client, None, 3, PAINTED, 1, 1, 1, drawn, to="restore")
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[2:4, 4:] = True
    found = player.restore(player.picture(None, 3), PAINTED, 4, 1, 1, 1, painted=hidden)
    assert f"**{found.psnr[1]:.1f} dB**, damaged {found.psnr[0]:.1f} dB" in words
    picture = player.picture(None, 3)
    assert torch.equal(found.left[0, 0] != picture[0, 0], hidden & (picture[0, 0] != found.left[0, 0][hidden][0]))
    with pytest.raises(Exception, match="nothing is painted yet"):
        predict(client, None, 3, PAINTED, 1, 1, 1, None, to="restore")


def test_a_pixel_is_hidden_where_half_of_it_is_painted_in_some_layer():
    layers = np.zeros((2, 6, 6, 4), np.uint8)
    layers[0, :2, 0, 3] = 255  # half of the first pixel
    layers[0, 2:4, 2, 3] = 120  # less than half of the middle one
    layers[1, 4:, 4:, 3] = 255
    assert painted(list(layers), 3).nonzero().tolist() == [[0, 0], [2, 2]]
    picture = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    shown = to_paint_on(picture, 12)
    assert shown.shape == (12, 12, 3)
    assert np.array_equal(shown[1::4, 2::4, 1], picture[0, 0].numpy())


@pytest.mark.parametrize(
    ("values", "to", "words"),
    [
        ((2, -1, 1, 1, "any", 0), "sample", "the seed is -1; it must be a whole number from 0 to 4294967295"),
        ((2, 0, 1, 1, "any", 2), "sample", "guidance leads towards a class"),
        ((None, 10**6), "score", "the test image is 1000000; it must be a whole number from 0 to"),
    ],
)
def test_errors_are_sentences(client, values, to, words):
    with pytest.raises(Exception, match=words):
        predict(client, *values, to=to)


def test_a_file_that_is_no_picture_is_named(client, tmp_path):
    from gradio_client import handle_file

    (tmp_path / "a&b.png").write_text("no image")
    with pytest.raises(Exception, match="cannot be read as an image"):
        predict(client, handle_file(str(tmp_path / "a&b.png")), 0, to="score")
    (tmp_path / "big.png").write_bytes(bytes(9 * 2**20))
    with pytest.raises(Exception, match=r"413|[Ss]ize|large"):
        predict(client, handle_file(str(tmp_path / "big.png")), 0, to="score")


def test_controls_without_use_are_off_and_say_why(served, tmp_path):
    page = build(Player(ebmzoo.pretrained("vae_digits")), "vae", gradio(tmp_path))
    blocks = {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}
    for label in ("Langevin steps", "Temperature", "Class", "Guidance", "or the test image number"):
        assert blocks[label].interactive is False, label
        assert blocks[label].info.endswith((".", "images: ")), label
    usable = {block.label: block for block in served[0].blocks.values() if getattr(block, "label", None)}
    assert all(usable[label].interactive for label in ("Langevin steps", "Temperature", "Class", "Guidance"))


def asked(port, host, path="/"):
    connection = http.client.HTTPConnection(LOCAL, port, timeout=60)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    return answer, answer.read().decode()


def test_only_this_machine_is_answered(served):
    _, port = served
    answer, text = asked(port, f"{LOCAL}:{port}")
    assert answer.status == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "a &lt;b&gt;model" in text or "<b>model</b>" not in text
    for host in (f"elsewhere.example:{port}", "elsewhere.example", ""):
        assert asked(port, host)[0].status == 403
    assert asked(port, f"localhost:{port}")[0].status == 200


def test_a_port_that_is_taken_is_named(served, tmp_path):
    gr, (_, port) = gradio(tmp_path), served
    with pytest.raises(UserError, match=f"port is {port}, which is taken; choose another with --port"):
        launch(build(Player(ebmzoo.pretrained("vae_digits")), "vae", gr), port, gr)

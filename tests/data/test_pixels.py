import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tagmask.data import fingerprint, image_size, load_photo, palette, read_image, read_mask, write_mask
from tagmask.errors import DataError
from tagmask.types import Sample

RGB = np.arange(16 * 24 * 3, dtype=np.uint32).reshape(16, 24, 3).astype(np.uint8)


def save(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


def write_png(path, header, rows):
    """A PNG of width, height, bits and colour type that Pillow itself does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_plain_rgb_is_read_as_it_is(tmp_path):
    read = read_image(save(tmp_path / "a.png", RGB))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, RGB)


def test_grey_and_one_bit_fill_all_channels(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", RGB[..., 0])), np.dstack([RGB[..., 0]] * 3))
    bits = RGB[..., 0] > 100
    expected = np.dstack([bits * np.uint8(255)] * 3)
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", Image.fromarray(bits))), expected)


def test_transparency_is_laid_over_white(tmp_path):
    alpha = np.full((16, 24), 64, dtype=np.uint8)
    alpha[:4], alpha[-4:] = 0, 255
    read = read_image(save(tmp_path / "a.png", np.dstack([RGB, alpha]))).astype(float)
    expected = 255 + (RGB - 255.0) * alpha[..., None] / 255
    np.testing.assert_allclose(read, expected, atol=1)
    grey = np.dstack([RGB[..., 0], alpha])
    read = read_image(save(tmp_path / "b.png", Image.fromarray(grey))).astype(float)
    np.testing.assert_allclose(read[..., 1], 255 + (RGB[..., 0] - 255.0) * alpha / 255, atol=1)


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.fromarray((RGB[..., 0] % 2).astype(np.uint8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    expected = np.array([[10, 20, 30], [200, 100, 50]])[RGB[..., 0] % 2]
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", image)), expected)
    for transparency in (0, b"\x00\xff"):  # one index, or one byte for each entry
        expected[RGB[..., 0] % 2 == 0] = 255
        np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", image, transparency=transparency)), expected)


@pytest.mark.parametrize(("most", "shift"), [(200, 0), (1023, 2), (4095, 4), (16000, 6), (65535, 8)])
def test_16_bit_grey_is_shifted_by_the_bits_in_use(tmp_path, most, shift):
    values = np.linspace(0, most, 16 * 24).reshape(16, 24).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        read = read_image(save(tmp_path / name, values))
        np.testing.assert_array_equal(read[..., 0], values >> shift)


def test_16_bit_colour_png_keeps_the_high_byte(tmp_path):
    values = (np.arange(16 * 16 * 3).reshape(16, 16, 3) * 80).astype(">u2")

    rows = b"".join(b"\x00" + row.tobytes() for row in values)
    write_png(tmp_path / "a.png", (16, 16, 16, 2), rows)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), values >> 8)


def test_cmyk_and_animations(tmp_path):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(read_image(save(tmp_path / "a.jpg", red)).astype(int) - (255, 0, 0)).max() < 12
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "b.gif"), np.full((16, 16, 3), (0, 0, 255)))


def test_floating_point_and_32_bit_are_refused_with_a_reason(tmp_path):
    with pytest.raises(DataError, match=r"a\.tif: holds floating point"):
        read_image(save(tmp_path / "a.tif", np.ones((16, 16), dtype=np.float32)))
    with pytest.raises(DataError, match=r"b\.tif: holds values -5\.\.-5; expected 8- or 16-bit"):
        read_image(save(tmp_path / "b.tif", np.full((16, 16), -5, dtype=np.int32)))


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_honoured(tmp_path, orientation, ending):
    upright = np.zeros((20, 32, 3), dtype=np.uint8)
    upright[:10, :16] = 255  # white at the upper left, and nowhere else
    # By EXIF 2.3, where the first stored row and column belong: what a camera held so would have stored.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", np.ascontiguousarray(stored), exif=exif, **options)
    assert image_size(path) == (20, 32)
    assert np.abs(read_image(path).astype(int) - upright).max() < 20
    assert read_image(path, longest=16).shape == (10, 16, 3)


def test_broken_files_are_named(tmp_path):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    for name, reason in {
        "cut.jpg": "is truncated",
        "text.jpg": "is not a picture",
        "empty.jpg": "is empty",
        "head.png": "",
        "gone.jpg": "no such file",
    }.items():
        with pytest.raises(DataError, match=f"{name}: .*{reason}") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert image_size(tmp_path / "cut.jpg") == (64, 64)  # its header is well


def test_108_megapixels_are_read_quietly_and_the_guard_of_pillow_is_put_back(tmp_path):
    guard = Image.MAX_IMAGE_PIXELS
    path = save(tmp_path / "a.jpg", Image.new("L", (12000, 9000), 77))
    assert image_size(path) == (9000, 12000)
    assert read_image(path, longest=800).shape == (600, 800, 3)
    assert guard == Image.MAX_IMAGE_PIXELS
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()


def test_more_pixels_than_any_photo_are_refused(tmp_path):
    write_png(tmp_path / "a.png", (60000, 10000, 8, 2), b"")
    with pytest.raises(DataError, match="60000x10000 pixels; at most"):
        read_image(tmp_path / "a.png")


def test_load_photo(tmp_path):
    sample = Sample("a", save(tmp_path / "a.png", RGB), tags=(1,))
    photo = load_photo(sample)
    assert (photo.name, photo.tags, photo.size) == ("a", (1,), (16, 24))
    assert load_photo(sample, 12).size == (8, 12)


def test_palette_is_the_voc_colour_map():
    def colour(index):  # the loop of the VOC development kit
        r = g = b = 0
        for bit in range(8):
            r |= ((index >> 0) & 1) << (7 - bit)
            g |= ((index >> 1) & 1) << (7 - bit)
            b |= ((index >> 2) & 1) << (7 - bit)
            index >>= 3
        return r, g, b

    assert [tuple(row) for row in palette().tolist()] == [colour(index) for index in range(256)]


def test_masks_come_back_and_equal_labels_give_equal_bytes(tmp_path):
    labels = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], dtype=np.uint8), size=(9, 13))
    write_mask(tmp_path / "a.png", labels)
    write_mask(tmp_path / "b.png", labels.copy(order="F"))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", 3), labels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), palette()[labels])
    with pytest.raises(ValueError, match="uint8"):
        write_mask(tmp_path / "c.png", labels.astype(np.int64))


def test_masks_of_other_kinds(tmp_path):
    labels = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "grey.png", labels), 3), labels)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "16.png", labels.astype(np.uint16)), 3), labels)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "bit.png", Image.fromarray(labels > 0)), 3), labels > 0)
    with pytest.raises(DataError, match=r"rgb\.png: is a RGB picture.*palette or grey PNG"):
        read_mask(save(tmp_path / "rgb.png", RGB), 3)
    with pytest.raises(DataError, match=r"ids 7, 9; expected 0\.\.2 or 255"):
        read_mask(save(tmp_path / "ids.png", np.array([[0, 7], [9, 255]], dtype=np.uint8)), 3)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_pngs_of_few_bits_keep_their_ids(tmp_path, bits):
    ids = [0, 1, 2, 3] * 2
    packed = sum(value << (bits * (len(ids) - 1 - place)) for place, value in enumerate(ids))
    row = b"\x00" + packed.to_bytes(bits, "big")
    write_png(tmp_path / "a.png", (8, 1, bits, 0), row)
    assert read_mask(tmp_path / "a.png", 4).tolist() == [ids]


def test_fingerprint_sees_size_head_and_tail(tmp_path):
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    path = tmp_path / "a"
    path.write_bytes(content)
    first = fingerprint(path)
    assert first == fingerprint(path)
    others = set()
    for change in (lambda c: c.append(0), lambda c: c.__setitem__(5, c[5] ^ 1), lambda c: c.__setitem__(-5, c[-5] ^ 1)):
        copy = bytearray(content)
        change(copy)
        path.write_bytes(copy)
        others.add(fingerprint(path))
    assert len(others | {first}) == 4
    with pytest.raises(DataError, match="cannot be read"):
        fingerprint(tmp_path / "gone")

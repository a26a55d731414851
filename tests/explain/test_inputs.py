"""Pictures of every kind, preprocessing as published, and the encodings of the families."""

import io
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from bcos_jax import Encoding, Preprocess
from bcos_jax.errors import InputError
from bcos_jax.inputs import IMAGENET_MEAN, IMAGENET_STD
from bcos_jax.picture_files import read_picture

from ..common import photos, rel, suggestion

HEIGHT, WIDTH = 6, 9
PIXELS = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
ALPHA = np.random.RandomState(1).randint(0, 256, (HEIGHT, WIDTH), np.uint8)
ALPHA[0], ALPHA[1] = 0, 255


def _on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  share = alpha[..., None] / 255.0
  return rgb * share + 255.0 * (1 - share)


def _read(tmp_path, picture: Image.Image, suffix: str = ".png", **options) -> np.ndarray:
  path = tmp_path / f"picture{suffix}"
  picture.save(path, **options)
  read = read_picture(path)
  assert read.mode == "RGB"
  return np.asarray(read)


# Kinds of pictures.


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_colors(tmp_path, suffix):
  assert np.array_equal(_read(tmp_path, Image.fromarray(PIXELS), suffix), PIXELS)


def _smooth() -> np.ndarray:
  """Colours that JPEG, WebP and colour conversions keep within a few levels."""
  ramp = np.linspace(30, 220, 32)
  return np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128.0), -1).astype(np.uint8)


@pytest.mark.parametrize(
  "suffix, options",
  [
    (".jpg", {"quality": 95, "subsampling": 0}),
    (".jpg", {"quality": 95, "progressive": True}),
    (".webp", {"lossless": True}),
  ],
  ids=str,
)
def test_lossy_colors(tmp_path, suffix, options):
  read = _read(tmp_path, Image.fromarray(_smooth()), suffix, **options)
  assert np.abs(read.astype(int) - _smooth()).max() <= 8


def test_gray(tmp_path):
  gray = PIXELS[..., 0]
  for suffix in (".png", ".tiff"):
    read = _read(tmp_path, Image.fromarray(gray), suffix)
    assert np.array_equal(read, np.repeat(gray[..., None], 3, axis=-1))
  smooth = _smooth()[..., 0]
  read = _read(tmp_path, Image.fromarray(smooth), ".jpg", quality=95).astype(int)
  assert np.abs(read - smooth[..., None]).max() <= 8


def test_one_bit(tmp_path):
  bits = PIXELS[..., 0] > 127
  read = _read(tmp_path, Image.fromarray(bits))
  assert np.array_equal(read, np.repeat(bits[..., None] * 255, 3, axis=-1))


def _palette() -> tuple[Image.Image, np.ndarray, np.ndarray]:
  colors = np.array([[250, 0, 10], [0, 200, 30], [20, 40, 240], [90, 90, 90]], np.uint8)
  indices = np.random.RandomState(2).randint(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
  picture = Image.fromarray(indices, mode="P")
  picture.putpalette(colors.tobytes())
  return picture, indices, colors


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette(tmp_path, suffix):
  picture, indices, colors = _palette()
  assert np.array_equal(_read(tmp_path, picture, suffix), colors[indices])


def test_palette_with_one_transparent_color(tmp_path):
  picture, indices, colors = _palette()
  for suffix in (".png", ".gif"):
    read = _read(tmp_path, picture, suffix, transparency=1)
    assert np.array_equal(read, np.where((indices == 1)[..., None], 255, colors[indices]))


def test_palette_with_partly_transparent_colors(tmp_path):
  picture, indices, colors = _palette()
  alphas = np.array([0, 64, 200, 255], np.uint8)
  read = _read(tmp_path, picture, transparency=alphas.tobytes())
  expected = _on_white(colors[indices], alphas[indices])
  assert np.abs(read - expected).max() <= 1


def test_transparency_is_shown_on_white(tmp_path):
  rgba = Image.fromarray(np.dstack([PIXELS, ALPHA]))
  assert np.abs(_read(tmp_path, rgba) - _on_white(PIXELS, ALPHA)).max() <= 1
  gray = np.repeat(PIXELS[..., :1], 3, axis=-1)
  la = Image.fromarray(np.dstack([PIXELS[..., 0], ALPHA]), mode="LA")
  assert np.abs(_read(tmp_path, la) - _on_white(gray, ALPHA)).max() <= 1


def test_transparent_color_key(tmp_path):
  """PNG can name one RGB or grey value as transparent."""
  pixels = PIXELS.copy()
  pixels[2:4] = (10, 20, 30)
  read = _read(tmp_path, Image.fromarray(pixels), transparency=(10, 20, 30))
  expected = pixels.copy()
  expected[2:4] = 255
  assert np.array_equal(read, expected)
  read = _read(tmp_path, Image.fromarray(pixels[..., 0]), transparency=10)
  gray = np.where(pixels[..., 0] == 10, 255, pixels[..., 0])
  assert np.array_equal(read, np.repeat(gray[..., None], 3, axis=-1))


def test_cmyk_jpeg(tmp_path):
  smooth = _smooth()
  read = _read(tmp_path, Image.fromarray(smooth).convert("CMYK"), ".jpg", quality=98)
  assert np.abs(read.astype(int) - smooth).max() <= 12


def test_sixteen_bit_gray(tmp_path):
  deep = np.random.RandomState(3).randint(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
  deep[0, :3] = 0, 65535, 257
  for suffix in (".png", ".tiff"):
    read = _read(tmp_path, Image.fromarray(deep), suffix)
    # 65535 is white, and so on: value / 257 to the nearest level.
    assert np.array_equal(read[..., 0], np.uint8(deep / 257.0 + 0.5))
    assert np.array_equal(read[..., 0], read[..., 2])


def test_sixteen_bit_gray_with_a_transparent_value(tmp_path):
  deep = np.random.RandomState(3).randint(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
  deep[0, :3] = 500
  path = tmp_path / "clear.png"
  Image.fromarray(deep).save(path)
  data = path.read_bytes()
  end = data.index(b"IDAT") - 4  # the chunk that names the value comes before the pixels
  chunk = b"tRNS" + struct.pack(">H", 500)
  chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
  path.write_bytes(data[:end] + chunk + data[end:])
  expected = np.where(deep == 500, 255, np.uint8(deep / 257.0 + 0.5))
  image, said = Preprocess((HEIGHT, WIDTH), 0).read(path)
  assert "transparent parts on white" in said
  np.testing.assert_array_equal(image[..., 0] * 255, expected)


def test_strips_are_not_blown_up(tmp_path):
  Image.new("L", (30_000, 1)).save(tmp_path / "strip.png")
  with pytest.raises(InputError, match=r"strip\.png' of 30000 x 1 .* scaled to 7680000 x 256"):
    Preprocess()(tmp_path / "strip.png")
  assert Preprocess((8, 8), 0)(tmp_path / "strip.png").shape == (8, 8, 3)


def test_dark_sixteen_bit_gray_stays_dark(tmp_path):
  """A 16-bit picture without large values is dark, not an 8-bit one."""
  deep = np.full((HEIGHT, WIDTH), 200, np.uint16)
  assert _read(tmp_path, Image.fromarray(deep)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_rotation(tmp_path, orientation, suffix):
  """EXIF 2.3, tag 0x0112: where the stored picture's first row and column belong."""
  upright = np.zeros((16, 32, 3), np.uint8)
  upright[:8, :8] = (220, 40, 40)
  upright[8:, 24:] = (40, 40, 220)
  # What a camera stores, for the upright picture to come out again.
  stored = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
  }[orientation](upright)
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f"turned{suffix}"
  Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
  read = np.asarray(read_picture(path)).astype(int)
  assert read.shape == upright.shape
  assert np.abs(read - upright)[2:6, 2:6].max() <= 12
  assert np.abs(read - upright)[10:14, 26:30].max() <= 12
  # A picture that the caller opened is turned as well.
  preprocess = Preprocess((16, 32), resize=0)
  with Image.open(path) as picture:
    assert np.array_equal(preprocess(picture), preprocess(path))


def test_opened_pictures_equal_their_files(tmp_path):
  preprocess = Preprocess((4, 4), resize=5)
  kinds = {
    "rgba": (Image.fromarray(np.dstack([PIXELS, ALPHA])), {}),
    "palette": (_palette()[0], {"transparency": 1}),
    "deep": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), {}),
  }
  for name, (picture, options) in kinds.items():
    path = tmp_path / f"{name}.png"
    picture.save(path, **options)
    with Image.open(path) as opened:
      result = preprocess(opened)
    assert np.array_equal(result, preprocess(path))
    assert np.array_equal(result, preprocess(str(path)))
    assert result.shape == (4, 4, 3) and result.dtype == np.float32
    assert 0 <= result.min() and result.max() <= 1


# Files that are no pictures.


def _damaged():
  files = {"text": b"I am no picture.\n" * 20, "empty": b"", "zeros": bytes(500)}
  noise = np.random.RandomState(4).randint(0, 256, (40, 40, 3), np.uint8)
  for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
    data = io.BytesIO()
    Image.fromarray(noise).save(data, form)
    whole = data.getvalue()
    for share in (0.005, 0.02, 0.1, 0.3, 0.6, 0.95):
      files[f"{form} cut at {share}"] = whole[: max(int(len(whole) * share), 3)]
  return files


@pytest.mark.parametrize("case", _damaged())
def test_damaged_files(tmp_path, case):
  path = tmp_path / "damaged.img"
  path.write_bytes(_damaged()[case])
  with pytest.raises(InputError) as caught:
    read_picture(path)
  assert "damaged.img" in caught.value.cause and "\n" not in str(caught.value)
  assert caught.value.fix


def test_corrupt_png_bytes(tmp_path):
  """Whatever byte is wrong: a picture, or one clear error."""
  data = io.BytesIO()
  Image.fromarray(PIXELS).save(data, "PNG")
  whole = data.getvalue()
  for position in range(0, len(whole), 3):
    broken = bytearray(whole)
    broken[position] ^= 0xFF
    path = tmp_path / "broken.png"
    path.write_bytes(broken)
    try:
      assert read_picture(path).mode == "RGB"
    except InputError as error:
      assert "broken.png" in error.cause


def test_missing_file_and_folder(tmp_path):
  with pytest.raises(InputError, match=r"No picture at .*nowhere\.png"):
    read_picture(tmp_path / "nowhere.png")
  with pytest.raises(InputError, match="Cannot read"):
    read_picture(tmp_path)


# Preprocessing: torchvision's Resize and CenterCrop, as documented.


@pytest.mark.parametrize(
  "size", [(10, 7), (7, 10), (100, 30), (31, 97), (7, 7), (500, 375), (3, 2)]
)
@pytest.mark.parametrize("resize, side", [(7, 4), (8, 7), (7, 7)])
def test_shorter_side_then_center_crop(size, resize, side):
  width, height = size
  picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8))
  if width <= height:
    scaled = resize, int(resize * height / width)
  else:
    scaled = int(resize * width / height), resize
  expected = np.asarray(picture.resize(scaled, Image.Resampling.BILINEAR))
  top, left = round((scaled[1] - side) / 2.0), round((scaled[0] - side) / 2.0)
  expected = expected[top : top + side, left : left + side] / 255.0
  assert rel(Preprocess((side, side), resize=resize)(picture), expected) <= 1e-7


def test_crop_rounds_half_to_even():
  """With nothing to scale, positions show: (10-5)/2 = 2.5 -> 2, (9-6)/2 = 1.5 -> 2."""
  ramp = np.arange(90, dtype=np.uint8).reshape(9, 10)
  out = Preprocess((6, 5), resize=9)(Image.fromarray(ramp))
  assert np.array_equal(np.round(out[..., 0] * 255), ramp[2:8, 2:7])


def test_no_resize_scales_straight_to_size():
  picture = Image.fromarray(PIXELS)
  out = Preprocess((3, 12), resize=0, interpolation="bicubic")(picture)
  expected = np.asarray(picture.resize((12, 3), Image.Resampling.BICUBIC)) / 255.0
  assert out.shape == (3, 12, 3) and rel(out, expected) <= 1e-7


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolations(name):
  picture = Image.fromarray(PIXELS)
  out = Preprocess((3, 3), resize=4, interpolation=name)(picture)
  scaled = picture.resize((6, 4), Image.Resampling[name.upper()])
  assert rel(out, np.asarray(scaled.crop((2, 0, 5, 3))) / 255.0) <= 1e-7


def test_gray_networks_get_one_channel(tmp_path):
  path = tmp_path / "gray.png"
  Image.fromarray(PIXELS[..., 0]).save(path)
  out = Preprocess((HEIGHT, WIDTH), resize=0, colors=1)(path)
  assert np.array_equal(out, np.float32(PIXELS[..., :1]) / np.float32(255))


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"interpolation": "bilinaer"}, suggestion("bilinear")),
    ({"size": (0, 4)}, r"size \(0, 4\)"),
    ({"size": (4, 4, 4)}, r"\(4, 4, 4\)"),
    ({"size": (224, 224), "resize": 200}, "resize 200"),
    ({"resize": -1}, "resize -1"),
    ({"size": (300, 200), "resize": 256}, r"\(300, 200\)"),
    ({"colors": 2}, "2 colour channels"),
  ],
)
def test_preprocess_refuses(fields, message):
  with pytest.raises(InputError, match=message) as caught:
    Preprocess(**fields)
  assert caught.value.fix


# Encodings.


def test_encodings():
  x = photos(2)
  z = (x - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
  assert rel(Encoding()(x), z) <= 1e-6
  # B-cosification normalises [x, 1-x] by mean (m, 1-m) and deviation (s, s).
  both = np.concatenate([x, 1 - x], -1)
  mean = np.concatenate([IMAGENET_MEAN, 1 - np.array(IMAGENET_MEAN)])
  expected = (both - mean) / np.tile(IMAGENET_STD, 2)
  assert rel(Encoding(pairing="negated")(x), expected) <= 1e-6
  assert rel(Encoding((0.0,) * 3, (1.0,) * 3, "complement")(x), both) <= 1e-7  # B-cos v2
  assert rel(Encoding(pairing="complement")(x), np.concatenate([z, 1 - z], -1)) <= 1e-6  # ALOE


def test_encodings_are_pure_and_keep_leading_axes():
  encoding = Encoding((0.5,), (0.25,), "negated")
  assert (encoding.colors, encoding.channels) == (1, 2)
  x = np.float64([[[[0.0], [1.0]]]])
  out = jax.jit(jax.vmap(encoding))(x)
  assert out.dtype == jnp.float32 and out.tolist() == [[[[-2.0, 2.0], [2.0, -2.0]]]]
  assert encoding(jnp.bfloat16(x)).dtype == jnp.float32
  assert hash(encoding) == hash(Encoding([0.5], [0.25], "negated"))


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"pairing": "negatd"}, suggestion("negated")),
    ({"mean": (0.5,)}, "as many"),
    ({"std": (0.2, 0.0, 0.2)}, "positive"),
    ({"std": (0.2, -1.0, 0.2)}, "positive"),
    ({"std": (0.2, float("nan"), 0.2)}, "finite"),
    ({"mean": (), "std": ()}, "positive"),
  ],
)
def test_encoding_refuses(fields, message):
  with pytest.raises(InputError, match=message):
    Encoding(**fields)


def test_encoding_refuses_other_channels():
  for shape in ((1, 4, 4, 6), (1, 3, 4, 4), (3,)[:0]):
    with pytest.raises(InputError, match="3 colour channels last"):
      Encoding()(jnp.zeros(shape))

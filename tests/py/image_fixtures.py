"""Writes gateway/src/picture/fixtures.txt: small pictures and what OpenCV makes of them, which unit tests compare with.

`image_fixtures.py OUT`, with opencv-python-headless and pillow. OpenCV 4.12.0 and 5.0.0 give the same values.
A line is `name hex`: files as they are, levels as bytes (rows of R, G, B), tensors as little-endian FP32."""
import io, sys

import cv2
import numpy as np
from PIL import Image

rng = np.random.default_rng(7)
lines = []


def put(name, data):
    lines.append(f"{name} {bytes(data).hex()}\n")


def picture(width, height):
    """Slopes with noise: neighbours differ, so a wrong pixel or weight shows."""
    y, x = np.mgrid[0:height, 0:width]
    slopes = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    return np.clip(slopes + rng.integers(-40, 40, slopes.shape), 0, 255).astype(np.uint8)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read(name, file, like=None):
    """A file, and its pixels as OpenCV reads them, unless they are those of the file `like`."""
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    put(name, file)
    if like is None:
        put(name + ".rgb", pixels[..., ::-1].tobytes())
    else:
        assert (pixels == cv2.imdecode(np.frombuffer(like, np.uint8), cv2.IMREAD_COLOR)).all(), name
    return pixels


# Sizes: levels after resizing, R first.
W, H = 27, 15
rgb = picture(W, H)
bgr = rgb[..., ::-1].copy()
put("picture.png", encoded(Image.fromarray(rgb), "PNG", optimize=True))


def blob(size, crop):
    return cv2.dnn.blobFromImage(bgr, 1.0, size, (0, 0, 0), True, crop)[0].transpose(1, 2, 0).astype(np.uint8)


def classifier_crop(width, height):
    """`crop`: what `cover` does, at size / 0.875, and then the middle."""
    factor = float(max(np.float32(round(width / 0.875)) / np.float32(W), np.float32(round(height / 0.875)) / np.float32(H)))
    big = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    x, y = (big.shape[1] - width) // 2, (big.shape[0] - height) // 2
    return big[y:y + height, x:x + width, ::-1]


for width, height in (11, 11), (32, 4), (5, 24):
    put(f"stretch.{width}x{height}", blob((width, height), False).tobytes())
    put(f"cover.{width}x{height}", blob((width, height), True).tobytes())
    put(f"crop.{width}x{height}", classifier_crop(width, height).tobytes())

# Orders and normalisation: mean and scale are in the order of the tensor's colours.
for name, swap in ("rgb", True), ("bgr", False):
    mean = (123.5, 116.25, 103.75)
    put(f"tensor.nchw.{name}", cv2.dnn.blobFromImage(bgr, 1 / 58.5, (4, 3), mean, swap, False).astype("<f4").tobytes())

# Forms of pictures.
small = picture(8, 6)
read("grey.png", encoded(Image.fromarray(small[..., 0]), "PNG"))
read("grey1.png", encoded(Image.fromarray(small[..., 0]).convert("1"), "PNG"))
read("palette.png", encoded(Image.fromarray(small).quantize(7), "PNG", transparency=2, optimize=True))
read("rgba.png", encoded(Image.fromarray(np.dstack([small, small[..., 1]])), "PNG"))
read("greyalpha.png", encoded(Image.fromarray(small[..., :2], mode="LA"), "PNG"))
read("rgb16.png", cv2.imencode(".png", rng.integers(0, 65536, (3, 5, 3), dtype=np.uint16))[1].tobytes())
read("grey16.png", cv2.imencode(".png", rng.integers(0, 65536, (3, 5), dtype=np.uint16))[1].tobytes())
smooth = Image.fromarray(cv2.GaussianBlur(picture(16, 16), (5, 5), 0))
turned = Image.Exif()
turned[0x0112] = 6
plain = encoded(smooth, "JPEG", quality=85, optimize=True)
read("colour.jpg", plain)
read("progressive.jpg", encoded(smooth, "JPEG", quality=85, progressive=True), like=plain)
read("turned.jpg", encoded(smooth, "JPEG", quality=85, optimize=True, exif=turned), like=plain)
read("cmyk.jpg", encoded(smooth.convert("CMYK"), "JPEG", quality=85, optimize=True))

with open(sys.argv[1], "w") as out:
    out.writelines(lines)

"""Makes `views.npz`, images resized by OpenCV: `pip install opencv-python-headless` first."""

import pathlib

import cv2
import numpy as np

KINDS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}
SIZES = ((84, 84), (42, 42), (80, 80), (105, 80), (94, 84))
NOISE_SIZES = ((84, 84), (20, 40), (50, 10), (37, 31), (18, 14))


def main() -> None:
    rng = np.random.default_rng(0)
    screen = np.full((210, 160, 3), (40, 60, 120), np.uint8)
    for _ in range(60):
        (y, x), (height, width) = rng.integers(0, (200, 150)), rng.integers(1, 20, 2)
        screen[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    noise = rng.integers(0, 256, (37, 29)).astype(np.uint8)
    arrays = {"screen": screen, "noise": noise}
    for kind, number in KINDS.items():
        for image, sizes in (("screen", SIZES), ("noise", NOISE_SIZES)):
            for height, width in sizes:
                gray = screen[..., 1] if image == "screen" else noise
                resized = cv2.resize(gray, (width, height), interpolation=number)
                arrays[f"{image} {kind} {height} {width}"] = resized
    np.savez_compressed(pathlib.Path(__file__).with_name("views.npz"), **arrays)


if __name__ == "__main__":
    main()

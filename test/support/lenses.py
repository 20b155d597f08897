"""Calibrations of every model, and where their cameras see what, by the models' formulas."""

from __future__ import annotations

import numpy as np

from dust3r_ros.types import Calibration

LENSES = {
    "plain": (Calibration(320, 240, 270.0, 250.0, 150.0, 128.0)),
    "barrel": Calibration(320, 240, 260.0, 262.0, 162.0, 115.0, "plumb_bob", (-0.28, 0.09, 1e-3, -2e-3, -0.01)),
    "pincushion": Calibration(320, 240, 260.0, 262.0, 162.0, 115.0, "plumb_bob", (0.2, 0.05, 0.0, 0.0)),
    "rational": Calibration(
        320, 240, 240.0, 240.0, 158.0, 121.0, "rational_polynomial", (0.5, 0.1, 1e-3, 1e-3, 0.02, 0.8, 0.2, 0.03)
    ),
    "fisheye": Calibration(320, 240, 150.0, 151.0, 161.0, 118.0, "equidistant", (-0.02, 0.005, -0.001, 0.0)),
}


def seen(calibration: Calibration, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raw pixels of the rays (x, y, 1), by the models' formulas."""
    c = calibration
    r = np.hypot(x, y)
    if c.model == "equidistant":
        angle = np.arctan(r)
        k1, k2, k3, k4 = c.coefficients
        scale = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8) / np.maximum(r, 1e-12)
        return c.fx * scale * x + c.cx, c.fy * scale * y + c.cy
    k1, k2, p1, p2, k3, k4, k5, k6 = (*c.coefficients, *[0.0] * 8)[:8]
    radial = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    u = x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2)
    v = y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y
    return c.fx * u + c.cx, c.fy * v + c.cy


def rays(calibration: Calibration, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of ``seen`` by damped Newton steps with numerical derivatives."""
    x, y = (u - calibration.cx) / calibration.fx, (v - calibration.cy) / calibration.fy
    for _ in range(60):
        a, b = seen(calibration, x, y)
        ax, bx = seen(calibration, x + 1e-6, y)
        ay, by = seen(calibration, x, y + 1e-6)
        J = np.stack([(ax - a), (ay - a), (bx - b), (by - b)]) * 1e6
        det = J[0] * J[3] - J[1] * J[2]
        dx, dy = (J[3] * (u - a) - J[1] * (v - b)) / det, (J[0] * (v - b) - J[2] * (u - a)) / det
        step = np.minimum(1.0, 0.3 / np.maximum(np.hypot(dx, dy), 1e-9))
        x, y = x + step * dx, y + step * dy
    return x, y

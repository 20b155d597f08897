// Points nearest to their rays (see landmarks.py, which documents the method and does the same in NumPy).

#include <math.h>

#include "../geometry/kernels.h"

// `order` (M): the rays by point, those of point p in `starts[p]` to `starts[p + 1]`; `centers`, `directions` (M, 3) in
// the order of the rays. `points` (P, 3), NaN where there is none; `cosines` (P) of the widest angles between rays and the first one.
CLONES void triangulate(long count, const long *starts, const long *order, const double *centers,
                        const double *directions, double noise, double least_cosine, long rounds, double *points,
                        double *cosines)
{
    for (long p = 0; p < count; p++) {
        const long from = starts[p], to = starts[p + 1];
        double *point = points + 3 * p, widest = 1.0;
        point[0] = point[1] = point[2] = NAN;
        for (long k = from; k < to; k++) {
            const double *d = directions + 3 * order[k], *first = directions + 3 * order[from];
            const double cosine = d[0] * first[0] + d[1] * first[1] + d[2] * first[2];
            widest = k == from || cosine < widest ? cosine : widest;
        }
        cosines[p] = widest;
        if (to == from || !(widest < least_cosine))
            continue;
        for (long round = 0; round < rounds; round++) {
            double A[6] = {0}, b[3] = {0}, sum = 0.0;
            for (long k = from; k < to; k++) {
                const double *d = directions + 3 * order[k], *c = centers + 3 * order[k];
                const double along = d[0] * c[0] + d[1] * c[1] + d[2] * c[2];
                double weight = 1.0;
                if (round) {
                    const double v[3] = {point[0] - c[0], point[1] - c[1], point[2] - c[2]};
                    const double far = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
                    const double shift = d[0] * v[0] + d[1] * v[1] + d[2] * v[2];
                    double miss = 0.0;
                    for (int i = 0; i < 3; i++)
                        miss += (v[i] - shift * d[i]) * (v[i] - shift * d[i]);
                    weight = 1.0 / ((far > 1e-12 ? far : 1e-12) + miss / (noise * noise));
                    sum += weight;
                }
                A[0] += weight * (1.0 - d[0] * d[0]), A[1] -= weight * d[0] * d[1], A[2] -= weight * d[0] * d[2];
                A[3] += weight * (1.0 - d[1] * d[1]), A[4] -= weight * d[1] * d[2];
                A[5] += weight * (1.0 - d[2] * d[2]);
                for (int i = 0; i < 3; i++)
                    b[i] += weight * (c[i] - along * d[i]);
            }
            const double total = round ? sum : 1.0;
            // By cofactors, of the matrix with weights that sum to one (any, the first time).
            const double s = 1.0 / total, a = A[0] * s, h = A[1] * s, g = A[2] * s, e = A[3] * s, f = A[4] * s, i = A[5] * s;
            const double C[6] = {e * i - f * f, g * f - h * i, h * f - g * e, a * i - g * g, h * g - a * f, a * e - h * h};
            const double determinant = a * C[0] + h * C[1] + g * C[2];
            if (!(determinant > 1e-18))
                break;
            point[0] = s * (C[0] * b[0] + C[1] * b[1] + C[2] * b[2]) / determinant;
            point[1] = s * (C[1] * b[0] + C[3] * b[1] + C[4] * b[2]) / determinant;
            point[2] = s * (C[2] * b[0] + C[4] * b[1] + C[5] * b[2]) / determinant;
        }
    }
}

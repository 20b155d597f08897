// Planes through known depth, and the votes of samples around a pixel (see completion.py, which documents the methods and
// does the same in NumPy).

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "../geometry/kernels.h"

// Known depth (N): `at` rows (1, x, y), inverse depth, its variance, and its weight.
struct evidence {
    long count;
    const double *at, *inverse, *variance, *weight;
};

// Whether point `k` lies on a plane (3).
static inline int lies_on(const struct evidence *evidence, long k, const double *plane, double most)
{
    const double *at = evidence->at + 3 * k, said = plane[0] * at[0] + plane[1] * at[1] + plane[2] * at[2];
    const double off = evidence->inverse[k] / said - 1.0;
    return said > 0.0 && off * off < most * evidence->variance[k];
}

// x with A x = b, A (3, 3) by rows, by elimination of the largest; 0 if A is singular. Both are overwritten.
static int solve3(double A[3][3], double *b, double *x)
{
    for (int k = 0; k < 3; k++) {
        int best = k;
        for (int i = k + 1; i < 3; i++)
            best = fabs(A[i][k]) > fabs(A[best][k]) ? i : best;
        if (!(fabs(A[best][k]) > 0.0))
            return 0;
        for (int j = 0; j < 3; j++) {
            const double other = A[k][j];
            A[k][j] = A[best][j], A[best][j] = other;
        }
        const double other = b[k];
        b[k] = b[best], b[best] = other;
        for (int i = k + 1; i < 3; i++) {
            const double factor = A[i][k] / A[k][k];
            for (int j = k; j < 3; j++)
                A[i][j] -= factor * A[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (int k = 2; k >= 0; k--) {
        x[k] = b[k];
        for (int j = k + 1; j < 3; j++)
            x[k] -= A[k][j] * x[j];
        x[k] /= A[k][k];
    }
    return 1;
}

// The plane through three points, if they span enough of the image to determine its tilt.
static int through(const struct evidence *evidence, const long *points, double least_spread, double *plane)
{
    double A[3][3], b[3];
    for (int i = 0; i < 3; i++) {
        b[i] = evidence->inverse[points[i]];
        for (int j = 0; j < 3; j++)
            A[i][j] = evidence->at[3 * points[i] + j];
    }
    const double spread = A[0][0] * (A[1][1] * A[2][2] - A[1][2] * A[2][1])
                          - A[0][1] * (A[1][0] * A[2][2] - A[1][2] * A[2][0])
                          + A[0][2] * (A[1][0] * A[2][1] - A[1][1] * A[2][0]);
    return fabs(spread) > least_spread && solve3(A, b, plane);
}

// The plane (3) on which most of the evidence agrees: of those through `triples` (T, 3) of `some` (S) of it, then fitted.
// Returns 0 if there is none.
CLONES int fit_plane(long count, const double *at, const double *inverse, const double *variance, const double *weight,
                     long trials, const long *triples, long sample, const long *some, double most_variances,
                     double least_spread, long fewest, long rounds, double *plane)
{
    const struct evidence known = {count, at, inverse, variance, weight}, *evidence = &known;
    double most = -1.0;
    for (long trial = 0; trial < trials; trial++) {
        const long points[3] = {some[triples[3 * trial]], some[triples[3 * trial + 1]], some[triples[3 * trial + 2]]};
        double tried[3], agree = 0.0;
        if (!through(evidence, points, least_spread, tried))
            continue;
        for (long k = 0; k < sample; k++)
            agree += lies_on(evidence, some[k], tried, most_variances) ? evidence->weight[some[k]] : 0.0;
        if (agree > most) {
            most = agree;
            for (int k = 0; k < 3; k++)
                plane[k] = tried[k];
        }
    }
    if (most < 0.0)
        return 0;
    for (long round = 0; round < rounds; round++) {
        double A[3][3] = {{0}}, b[3] = {0};
        long inliers = 0;
        for (long k = 0; k < count; k++) {
            if (!lies_on(evidence, k, plane, most_variances))
                continue;
            const double *row = at + 3 * k, pull = weight[k] / (inverse[k] * inverse[k]);
            inliers++;
            for (int i = 0; i < 3; i++) {
                for (int j = 0; j < 3; j++)
                    A[i][j] += pull * row[i] * row[j];
                b[i] += pull * row[i] * inverse[k];
            }
        }
        if (inliers < fewest || !solve3(A, b, plane))
            return 0;
    }
    return 1;
}

#define BLOCK 64

// How many samples of `core` and of `inner` (0 or 255) around each pixel with `asked` look similar, `out` and `within`
// (H, W); elsewhere some. `channels`, `core` and `inner` are padded by `pad` on each side.
ROUNDED_CLONES void count_votes(long height, long width, long pad, long step, int alike, const uint8_t *const *channels,
                                const uint8_t *core, const uint8_t *inner, const uint8_t *asked, uint8_t *out,
                                uint8_t *within)
{
    const long wide = width + 2 * pad;
    const uint8_t most = (uint8_t)alike;
    for (long y = 0; y < height; y++)
        for (long left = 0; left < width; left += BLOCK) {
            const long x = left + BLOCK <= width ? left : width - BLOCK > 0 ? width - BLOCK : 0;
            const long count = width < BLOCK ? width : BLOCK;
            int any = 0;
            for (long k = 0; k < count; k++)
                any |= asked[y * width + x + k];
            if (!any)
                continue;
            uint8_t own[3][BLOCK] = {{0}}, votes[2][BLOCK] = {{0}};
            const long middle = (y + pad) * wide + x + pad;
            for (int c = 0; c < 3; c++)
                for (long k = 0; k < count; k++)
                    own[c][k] = channels[c][middle + k];
            for (long dy = -pad; dy <= pad; dy += step)
                for (long dx = -pad; dx <= pad; dx += step) {
                    const long at = middle + dy * wide + dx;
                    const uint8_t *red = channels[0] + at, *green = channels[1] + at, *blue = channels[2] + at;
                    const uint8_t *without = core + at, *with = inner + at;
                    for (long k = 0; k < count; k++) {
                        uint8_t off = 0;
                        const uint8_t r = own[0][k] > red[k] ? own[0][k] - red[k] : red[k] - own[0][k];
                        const uint8_t g = own[1][k] > green[k] ? own[1][k] - green[k] : green[k] - own[1][k];
                        const uint8_t b = own[2][k] > blue[k] ? own[2][k] - blue[k] : blue[k] - own[2][k];
                        off = r > g ? r : g;
                        off = b > off ? b : off;
                        const uint8_t same = off <= most ? 255 : 0;
                        votes[0][k] -= same & without[k];
                        votes[1][k] -= same & with[k];
                    }
                }
            for (long k = 0; k < count; k++)
                out[y * width + x + k] = votes[0][k], within[y * width + x + k] = votes[1][k];
        }
}

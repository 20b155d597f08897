// Patches found again in another image (see patches.py, which documents the method and does the same in NumPy, many
// times slower).

#include <math.h>

#include "../geometry/kernels.h"

#define HALF 7
#define SIDE (2 * HALF + 1)
#define SAMPLES (SIDE * SIDE)
#define AROUND ((SIDE + 2) * (SIDE + 2))
#define UNKNOWNS 8

typedef struct {
    const float *values;
    long rows, columns;
} Picture;

// Values of `image` at the image under `warp` (2, 3) of a grid of `side` x `side` around 0, bilinear; the border goes on
// beyond itself.
static inline FORCED void look_up(const Picture *image, const float *warp, int side, float *restrict values)
{
    const int columns = (int)image->columns, rows = (int)image->rows, half = side / 2;
    int from[AROUND];
    float a[AROUND], b[AROUND];
    for (int j = 0; j < side; j++) {
        const float y = (float)(j - half);
        for (int i = 0; i < side; i++) {
            const float x = (float)(i - half);
            const float u = warp[0] * x + warp[1] * y + warp[2], v = warp[3] * x + warp[4] * y + warp[5];
            from[j * side + i] = corner_of(u, v, rows, columns, a + j * side + i, b + j * side + i);
        }
    }
    for (int k = 0; k < side * side; k++)
        values[k] = between(image->values + from[k], columns, a[k], b[k]);
}

// Values less their mean, divided by their deviation, which is returned; `weight` sums to 1.
static inline FORCED float evened(const float *restrict weight, float *restrict values)
{
    float mean = 0.0f, square = 0.0f;
    for (int k = 0; k < SAMPLES; k++)
        mean += weight[k] * values[k];
    for (int k = 0; k < SAMPLES; k++) {
        values[k] -= mean;
        square += weight[k] * values[k] * values[k];
    }
    const float deviation = sqrtf(square) + 1e-6f, scale = 1.0f / deviation;
    for (int k = 0; k < SAMPLES; k++)
        values[k] *= scale;
    return deviation;
}

// The lower factor of a symmetric positive matrix, in place; 0 if it has none.
static int factored(double A[UNKNOWNS][UNKNOWNS])
{
    for (int i = 0; i < UNKNOWNS; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = A[i][j];
            for (int k = 0; k < j; k++)
                sum -= A[i][k] * A[j][k];
            if (i == j && !(sum > 0.0))
                return 0;
            A[i][j] = i == j ? sqrt(sum) : sum / A[j][j];
        }
    }
    return 1;
}

static void solved(double A[UNKNOWNS][UNKNOWNS], double *x)
{
    for (int i = 0; i < UNKNOWNS; i++) {
        for (int k = 0; k < i; k++)
            x[i] -= A[i][k] * x[k];
        x[i] /= A[i][i];
    }
    for (int i = UNKNOWNS - 1; i >= 0; i--) {
        for (int k = i + 1; k < UNKNOWNS; k++)
            x[i] -= A[k][i] * x[k];
        x[i] /= A[i][i];
    }
}

// What a patch of the first image is compared by: its values, evened, what a change of each unknown changes of them,
// times the weights, the factor of the normal equations, and the largest variance of its place, pixels, where values
// have a variance of 1.
typedef struct {
    float values[SAMPLES], slopes[UNKNOWNS][SAMPLES];
    double factor[UNKNOWNS][UNKNOWNS], variance;
} Template;

static inline FORCED int prepared(const Picture *image, const double *at, const float *restrict weight, double damping,
                                  Template *made)
{
    const float plain[6] = {1.0f, 0.0f, (float)at[0], 0.0f, 1.0f, (float)at[1]};
    float wide[AROUND], slopes[UNKNOWNS][SAMPLES];
    look_up(image, plain, SIDE + 2, wide);
    for (int j = 0; j < SIDE; j++) {
        for (int i = 0; i < SIDE; i++) {
            const float *p = wide + (j + 1) * (SIDE + 2) + i + 1;
            made->values[j * SIDE + i] = p[0];
            slopes[0][j * SIDE + i] = 0.5f * (p[1] - p[-1]);
            slopes[1][j * SIDE + i] = 0.5f * (p[SIDE + 2] - p[-SIDE - 2]);
        }
    }
    const float scale = 1.0f / evened(weight, made->values);
    for (int j = 0; j < SIDE; j++) {
        for (int i = 0; i < SIDE; i++) {
            const int k = j * SIDE + i;
            const float x = (float)(i - HALF), y = (float)(j - HALF);
            const float across = slopes[0][k] *= scale, down = slopes[1][k] *= scale;
            slopes[2][k] = across * x;
            slopes[3][k] = across * y;
            slopes[4][k] = down * x;
            slopes[5][k] = down * y;
            slopes[6][k] = made->values[k];
            slopes[7][k] = 1.0f;
        }
    }
    double trace = 0.0;
    for (int m = 0; m < UNKNOWNS; m++) {
        for (int k = 0; k < SAMPLES; k++)
            made->slopes[m][k] = weight[k] * slopes[m][k];
        for (int n = 0; n <= m; n++) {
            float sum = 0.0f;
            for (int k = 0; k < SAMPLES; k++)
                sum += made->slopes[m][k] * slopes[n][k];
            made->factor[m][n] = (double)sum;
        }
        trace += made->factor[m][m];
    }
    for (int m = 0; m < UNKNOWNS; m++)
        made->factor[m][m] += damping * trace;
    if (!factored(made->factor))
        return 0;
    double across[UNKNOWNS] = {1.0}, down[UNKNOWNS] = {0.0, 1.0};
    solved(made->factor, across);
    solved(made->factor, down);
    const double half = 0.5 * (across[0] + down[1]), apart = 0.5 * (across[0] - down[1]);
    made->variance = half + sqrt(apart * apart + across[1] * down[0]);
    return 1;
}

// `warp` (2, 3) moves until the patch under it is like the template, or for `most` steps; returns the length of the last
// one in pixels of the template, infinite if it shrinks the area to less than `least` of it, and how alike both are.
static inline FORCED double aligned(const Picture *image, const Template *like, const float *restrict weight, long most,
                                    double enough, double least, double *warp, double *similarity)
{
    double moved = INFINITY;
    for (long step = 0; step < most && moved > enough; step++) {
        float narrow[6], values[SAMPLES];
        for (int k = 0; k < 6; k++)
            narrow[k] = (float)warp[k];
        look_up(image, narrow, SIDE, values);
        evened(weight, values);
        float alike = 0.0f;
        for (int k = 0; k < SAMPLES; k++) {
            alike += weight[k] * values[k] * like->values[k];
            values[k] -= like->values[k];
        }
        *similarity = (double)alike;
        double d[UNKNOWNS];
        for (int m = 0; m < UNKNOWNS; m++) {
            float sum = 0.0f;
            for (int k = 0; k < SAMPLES; k++)
                sum += like->slopes[m][k] * values[k];
            d[m] = (double)sum;
        }
        solved((double(*)[UNKNOWNS])like->factor, d);
        // The warp is followed by the inverse of the change that would make the template like the patch.
        const double a = 1.0 + d[2], b = d[3], c = d[4], e = 1.0 + d[5], size = a * e - b * c;
        moved = sqrt(d[0] * d[0] + d[1] * d[1]);
        if (!(size > least))
            return INFINITY;
        const double back[4] = {e / size, -b / size, -c / size, a / size};
        for (int row = 0; row < 2; row++) {
            double *w = warp + 3 * row;
            const double x = w[0] * back[0] + w[1] * back[2], y = w[0] * back[1] + w[1] * back[3];
            w[0] = x, w[1] = y, w[2] -= x * d[0] + y * d[1];
        }
    }
    return moved;
}

// Of `count` patches at `at` (N, 2) of `reference`: `warps` (N, 2, 3) to `images[which]` (N) are improved; `similarity`
// (N), the last step `moved` (N), infinite without a solution, and the `variance` (N) of their place. `weight`: of the
// samples of a patch. One that is searched for in several images, one after the other, is prepared once.
CLONES void find_patches(const Picture *reference, const Picture *images, const int *which, long count,
                         const double *at, const float *weight, double damping, long most, double enough,
                         double least, double *warps, double *similarity, double *moved, double *variance)
{
    Template like;
    int good = 0;
    for (long n = 0; n < count; n++) {
        const double *place = at + 2 * n;
        if (n == 0 || place[0] != place[-2] || place[1] != place[-1])
            good = prepared(reference, place, weight, damping, &like);
        similarity[n] = 0.0, moved[n] = variance[n] = INFINITY;
        if (!good)
            continue;
        moved[n] = aligned(images + which[n], &like, weight, most, enough, least, warps + 6 * n, similarity + n);
        variance[n] = like.variance;
    }
}

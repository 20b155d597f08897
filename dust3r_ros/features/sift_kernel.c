// Orientations and descriptors of blobs (see sift.py, which documents the method and does the same in NumPy,
// several times slower).

#include <math.h>
#include <string.h>

#include "../geometry/kernels.h"

#define LAYERS 3
#define STEP 0.75f
#define DIRECTIONS 36
#define AROUND 11
#define WINDOW 1.5f
#define CELLS 4
#define BINS 8
#define ACROSS 16
#define MOST 0.2f
#define SIDE (ACROSS + 2)

static const float PI = 3.14159265358979f;

typedef struct {
    const float *levels; // (LAYERS + 3, rows, columns)
    long rows, columns;
} Octave;

// Values of a patch of `side` x `side` samples, rotated: `cosine` and `sine` of its angle times sigma.
static inline FORCED void look_up(const Octave *octave, int level, const double *at, float cosine, float sine, int side,
                                  float *restrict patch)
{
    const float *restrict image = octave->levels + (long)level * octave->rows * octave->columns;
    const int columns = (int)octave->columns, rows = (int)octave->rows;
    const float right = (float)(columns - 1), bottom = (float)(rows - 1), center[2] = {(float)at[0], (float)at[1]};
    int from[SIDE * SIDE];
    float a[SIDE * SIDE], b[SIDE * SIDE];
    for (int j = 0; j < side; j++) {
        const float y = STEP * ((float)j - 0.5f * (float)(side - 1));
        for (int i = 0; i < side; i++) {
            const float x = STEP * ((float)i - 0.5f * (float)(side - 1));
            float u = center[0] + cosine * x - sine * y, v = center[1] + sine * x + cosine * y;
            u = u < 0.0f ? 0.0f : u > right ? right : u;
            v = v < 0.0f ? 0.0f : v > bottom ? bottom : v;
            int column = (int)u, row = (int)v;
            column = column > columns - 2 ? columns - 2 : column;
            row = row > rows - 2 ? rows - 2 : row;
            from[j * side + i] = row * columns + column;
            a[j * side + i] = u - (float)column;
            b[j * side + i] = v - (float)row;
        }
    }
    for (int k = 0; k < side * side; k++) {
        const float *p = image + from[k];
        const float above = p[0] + a[k] * (p[1] - p[0]), below = p[columns] + a[k] * (p[columns + 1] - p[columns]);
        patch[k] = above + b[k] * (below - above);
    }
}

// Length and direction (0 to 2 pi) of the gradients of `count` x `count` samples, from a patch with a border of one.
static inline FORCED void gradients(const float *restrict patch, int count, float *restrict length,
                                    float *restrict direction)
{
    const int side = count + 2;
    float across[ACROSS * ACROSS], down[ACROSS * ACROSS];
    for (int j = 0; j < count; j++) {
        const float *p = patch + (j + 1) * side + 1;
        for (int i = 0; i < count; i++) {
            across[j * count + i] = p[i + 1] - p[i - 1];
            down[j * count + i] = p[i + side] - p[i - side];
        }
    }
    for (int k = 0; k < count * count; k++) {
        const float x = across[k], y = down[k], ax = fabsf(x), ay = fabsf(y);
        const float most = ax > ay ? ax : ay, least = ax > ay ? ay : ax;
        const float t = least / (most > 1e-20f ? most : 1e-20f), s = t * t;
        // A minimax polynomial of the arc tangent, accurate to 2e-6.
        float angle = -0.011719123f;
        angle = angle * s + 0.052647316f;
        angle = angle * s - 0.116426447f;
        angle = angle * s + 0.193540361f;
        angle = angle * s - 0.332622825f;
        angle = (angle * s + 0.999977219f) * t;
        angle = ay > ax ? 0.5f * PI - angle : angle;
        angle = x < 0.0f ? PI - angle : angle;
        direction[k] = y < 0.0f ? 2.0f * PI - angle : angle;
        length[k] = sqrtf(x * x + y * y);
    }
}

static inline FORCED float orientation(const Octave *octave, int level, const double *at, double sigma,
                                       const float *weight)
{
    float patch[SIDE * SIDE], length[AROUND * AROUND], direction[AROUND * AROUND];
    look_up(octave, level, at, (float)sigma, 0.0f, AROUND + 2, patch);
    gradients(patch, AROUND, length, direction);
    float votes[DIRECTIONS] = {0}, smooth[DIRECTIONS];
    for (int k = 0; k < AROUND * AROUND; k++) {
        const int bin = (int)(direction[k] * (DIRECTIONS / (2.0f * PI)) + 0.5f);
        votes[bin >= DIRECTIONS ? bin - DIRECTIONS : bin] += length[k] * weight[k];
    }
    int best = 0;
    for (int k = 0; k < DIRECTIONS; k++) {
        const float *v = votes;
        const int n = DIRECTIONS;
        smooth[k] = (v[(k + n - 2) % n] + 4.0f * v[(k + n - 1) % n] + 6.0f * v[k] + 4.0f * v[(k + 1) % n]
                     + v[(k + 2) % n]) / 16.0f;
        best = smooth[k] > smooth[best] ? k : best;
    }
    const float before = smooth[(best + DIRECTIONS - 1) % DIRECTIONS], peak = smooth[best];
    const float after = smooth[(best + 1) % DIRECTIONS], bend = before - 2.0f * peak + after;
    const float offset = 0.5f * (before - after) / (bend < -1e-9f ? bend : -1e-9f);
    return ((float)best + offset) * (2.0f * PI / DIRECTIONS);
}

// Distributes each gradient to the neighbouring cells and directions; cells row by row.
static inline FORCED void pool(const float *length, const float *direction, const float (*share)[CELLS], float *result)
{
    memset(result, 0, sizeof(float) * CELLS * CELLS * BINS);
    for (int j = 0; j < ACROSS; j++) {
        float row[CELLS][BINS] = {{0}};
        for (int i = 0; i < ACROSS; i++) {
            const float d = direction[j * ACROSS + i] * (BINS / (2.0f * PI));
            const int whole = (int)d;
            const float part = d - (float)whole, l = length[j * ACROSS + i];
            // SIFT's directions turn from x towards smaller y.
            const int one = (2 * BINS - whole) % BINS, other = (2 * BINS - whole - 1) % BINS;
            for (int c = 0; c < CELLS; c++) {
                row[c][one] += share[i][c] * l * (1.0f - part);
                row[c][other] += share[i][c] * l * part;
            }
        }
        for (int r = 0; r < CELLS; r++) {
            if (share[j][r] == 0.0f)
                continue;
            float *cells = result + r * CELLS * BINS;
            for (int k = 0; k < CELLS * BINS; k++)
                cells[k] += share[j][r] * (&row[0][0])[k];
        }
    }
}

// `at` (N, 2), `sigma` (N) in pixels of the octave; `result` (N, 128).
CLONES void describe(const Octave *octaves, long count, const int *octave, const int *level, const double *at,
                     const double *sigma, float *result)
{
    float weight[AROUND * AROUND], share[ACROSS][CELLS];
    for (int k = 0; k < AROUND * AROUND; k++) {
        const float x = STEP * (float)(k % AROUND - AROUND / 2), y = STEP * (float)(k / AROUND - AROUND / 2);
        weight[k] = expf(-(x * x + y * y) / (2.0f * WINDOW * WINDOW));
    }
    for (int i = 0; i < ACROSS; i++) {
        const float line = ((float)i - 0.5f * (ACROSS - 1)) / ((float)ACROSS / CELLS);
        const float seen = expf(-0.5f * line * line / ((CELLS / 2.0f) * (CELLS / 2.0f)));
        for (int c = 0; c < CELLS; c++) {
            const float near = 1.0f - fabsf(line - ((float)c - 0.5f * (CELLS - 1)));
            share[i][c] = near > 0.0f ? near * seen : 0.0f;
        }
    }
    for (long n = 0; n < count; n++) {
        float patch[SIDE * SIDE], length[ACROSS * ACROSS], direction[ACROSS * ACROSS];
        const Octave *own = octaves + octave[n];
        const float angle = orientation(own, level[n], at + 2 * n, sigma[n], weight);
        look_up(own, level[n], at + 2 * n, (float)sigma[n] * cosf(angle), (float)sigma[n] * sinf(angle), SIDE, patch);
        gradients(patch, ACROSS, length, direction);
        float *own_result = result + n * CELLS * CELLS * BINS, squares = 0.0f, sum = 0.0f;
        pool(length, direction, (const float(*)[CELLS])share, own_result);
        for (int k = 0; k < CELLS * CELLS * BINS; k++)
            squares += own_result[k] * own_result[k];
        const float norm = sqrtf(squares) > 1e-9f ? sqrtf(squares) : 1e-9f;
        for (int k = 0; k < CELLS * CELLS * BINS; k++) {
            const float part = own_result[k] / norm;
            own_result[k] = part < MOST ? part : MOST;
            sum += own_result[k];
        }
        for (int k = 0; k < CELLS * CELLS * BINS; k++)
            own_result[k] = sqrtf(own_result[k] / (sum > 1e-9f ? sum : 1e-9f));
    }
}

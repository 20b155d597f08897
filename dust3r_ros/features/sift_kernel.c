// Blobs, their orientations and descriptors (see sift.py, which documents the method and does the same in NumPy,
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
    const float center[2] = {(float)at[0], (float)at[1]};
    int from[SIDE * SIDE];
    float a[SIDE * SIDE], b[SIDE * SIDE];
    for (int j = 0; j < side; j++) {
        const float y = STEP * ((float)j - 0.5f * (float)(side - 1));
        for (int i = 0; i < side; i++) {
            const float x = STEP * ((float)i - 0.5f * (float)(side - 1));
            const float u = center[0] + cosine * x - sine * y, v = center[1] + sine * x + cosine * y;
            from[j * side + i] = corner_of(u, v, rows, columns, a + j * side + i, b + j * side + i);
        }
    }
    for (int k = 0; k < side * side; k++)
        patch[k] = between(image + from[k], columns, a[k], b[k]);
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

#define TERMS 15 // monomials u^a v^b with a + b <= 4
#define GRID 25
#define POLISHING 3
#define BORDER 2

typedef struct {
    const float *values; // differences of levels: (layers, rows, columns) of one octave
    long rows, columns, first; // where it begins in the array of all octaves
} Layers;

typedef struct {
    double value, slope[3], curvature[6]; // xx, yy, zz, xy, xz, yz
} Shape;

// The step to where the slope is 0, by cofactors; 0 if there is no such place.
static void newton(const Shape *s, double step[3])
{
    const double xx = s->curvature[0], yy = s->curvature[1], zz = s->curvature[2];
    const double xy = s->curvature[3], xz = s->curvature[4], yz = s->curvature[5];
    const double a = yy * zz - yz * yz, b = xz * yz - xy * zz, c = xy * yz - xz * yy;
    const double d = xx * zz - xz * xz, e = xy * xz - xx * yz, f = xx * yy - xy * xy;
    const double determinant = xx * a + xy * b + xz * c, scale = fabs(determinant) < 1e-12 ? 0.0 : 1.0 / determinant;
    const double x = scale * s->slope[0], y = scale * s->slope[1], z = scale * s->slope[2];
    step[0] = -(a * x + b * y + c * z), step[1] = -(b * x + d * y + e * z), step[2] = -(c * x + e * y + f * z);
}

static int is_round(const Shape *s, double ratio)
{
    const double xx = s->curvature[0], yy = s->curvature[1], xy = s->curvature[3], determinant = xx * yy - xy * xy;
    return determinant > 0.0 && (xx + yy) * (xx + yy) * ratio < (ratio + 1.0) * (ratio + 1.0) * determinant;
}

static inline double clipped(double value, double most)
{
    return value < -most ? -most : value > most ? most : value;
}

// Value, slope and curvature from the neighbours at distances `y` (a row) and `z` (a layer).
static inline FORCED void taylor(const float *p, long y, long z, Shape *s)
{
    const double twice = 2.0 * p[0];
    s->value = p[0];
    s->slope[0] = 0.5 * ((double)p[1] - p[-1]);
    s->slope[1] = 0.5 * ((double)p[y] - p[-y]);
    s->slope[2] = 0.5 * ((double)p[z] - p[-z]);
    s->curvature[0] = (double)p[-1] + p[1] - twice;
    s->curvature[1] = (double)p[-y] + p[y] - twice;
    s->curvature[2] = (double)p[-z] + p[z] - twice;
    s->curvature[3] = 0.25 * ((double)p[1 + y] - p[1 - y] - p[y - 1] + p[-1 - y]);
    s->curvature[4] = 0.25 * ((double)p[1 + z] - p[1 - z] - p[z - 1] + p[-1 - z]);
    s->curvature[5] = 0.25 * ((double)p[y + z] - p[y - z] - p[z - y] + p[-y - z]);
}

// The highest and lowest (n) of a row and its neighbours above and below; `anew`: without those found before.
static inline FORCED void extremes(const float *row, long n, float *restrict high, float *restrict low, int anew)
{
    const float *restrict a = row - n, *restrict b = row, *restrict c = row + n;
    for (long x = 0; x < n; x++) {
        const float top = a[x] > b[x] ? a[x] : b[x], bottom = a[x] < b[x] ? a[x] : b[x];
        const float most = top > c[x] ? top : c[x], least = bottom < c[x] ? bottom : c[x];
        const float before = anew ? most : high[x], below = anew ? least : low[x];
        high[x] = most > before ? most : before;
        low[x] = least < below ? least : below;
    }
}

// Which of a row are above, or below, all others, and far enough from 0.
static inline FORCED void mark(const float *restrict row, long n, float least, const float *restrict high,
                               const float *restrict low, unsigned char *restrict hit)
{
    for (long x = BORDER; x < n - BORDER; x++) {
        const float v = row[x];
        const int top = (v >= least) & (v == high[x]) & (v >= high[x - 1]) & (v >= high[x + 1]);
        hit[x] = (unsigned char)(top | ((v <= -least) & (v == low[x]) & (v <= low[x - 1]) & (v <= low[x + 1])));
    }
}

// Values above, or below, all 26 neighbours, with an approximate strength of at least `contrast`, not on edges: their
// positions in the array of all octaves, strengths and offsets (3 each). Returns how many; only the first `most` are
// written. `room` (3, columns).
CLONES long promising_extrema(const Layers *octaves, long count, double contrast, double edge, long most, float *room,
                              long *spots, double *strengths, double *offsets)
{
    const float least = (float)(0.5 * contrast);
    long found = 0;
    for (long o = 0; o < count; o++) {
        const long columns = octaves[o].columns, rows = octaves[o].rows, area = rows * columns;
        float *restrict high = room, *restrict low = room + columns;
        unsigned char *restrict hit = (unsigned char *)(room + 2 * columns);
        for (long layer = 1; layer <= LAYERS; layer++) {
            for (long row = BORDER; row < rows - BORDER; row++) {
                const float *middle = octaves[o].values + layer * area + row * columns;
                extremes(middle - area, columns, high, low, 1);
                extremes(middle, columns, high, low, 0);
                extremes(middle + area, columns, high, low, 0);
                mark(middle, columns, least, high, low, hit);
                for (long x = BORDER; x < columns - BORDER; x++) {
                    const unsigned char *next = memchr(hit + x, 1, (size_t)(columns - BORDER - x));
                    if (!next)
                        break;
                    x = next - hit;
                    Shape shape;
                    double step[3], strength;
                    taylor(middle + x, columns, area, &shape);
                    newton(&shape, step);
                    strength = shape.value;
                    for (int i = 0; i < 3; i++) {
                        step[i] = clipped(step[i], 0.5);
                        strength += 0.5 * shape.slope[i] * step[i];
                    }
                    if (!(fabs(strength) > 0.9 * contrast && is_round(&shape, 1.5 * edge)))
                        continue;
                    if (found < most) {
                        spots[found] = octaves[o].first + layer * area + row * columns + x;
                        strengths[found] = fabs(strength);
                        memcpy(offsets + 3 * found, step, sizeof step);
                    }
                    found++;
                }
            }
        }
    }
    return found;
}

// Value and derivatives at `offset` of quartics in x and y, quadratic in z: `none`, `first`, `second` (15) by power of z.
static inline FORCED void derivatives(const double *none, const double *first, const double *second,
                                      const double *offset, Shape *s)
{
    static const int U[TERMS] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 0, 1, 0};
    static const int V[TERMS] = {0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4};
    const double x = offset[0], y = offset[1], z = offset[2];
    const double px[5] = {1.0, x, x * x, x * x * x, x * x * x * x}, py[5] = {1.0, y, y * y, y * y * y, y * y * y * y};
    memset(s, 0, sizeof *s);
    for (int k = 0; k < TERMS; k++) {
        const int a = U[k], b = V[k];
        const double here = none[k] + z * first[k] + 0.5 * z * z * second[k], change = first[k] + z * second[k];
        const double one = px[a] * py[b];
        const double by_x = a ? a * px[a - 1] * py[b] : 0.0, by_y = b ? b * px[a] * py[b - 1] : 0.0;
        s->value += here * one;
        s->slope[0] += here * by_x, s->slope[1] += here * by_y, s->slope[2] += change * one;
        s->curvature[0] += a > 1 ? here * a * (a - 1) * px[a - 2] * py[b] : 0.0;
        s->curvature[1] += b > 1 ? here * b * (b - 1) * px[a] * py[b - 2] : 0.0;
        s->curvature[2] += second[k] * one;
        s->curvature[3] += a && b ? here * a * b * px[a - 1] * py[b - 1] : 0.0;
        s->curvature[4] += change * by_x, s->curvature[5] += change * by_y;
    }
}

// Moves `offsets` (N, 3) of spots to the extrema of quartics through 5 x 5 values, whose coefficients are
// `coefficients` (25, 15) of the values; `strengths` (N), 0 for those that are too weak, too far or on edges.
CLONES void polish(const float *flat, long count, const long *spots, const long *rows, const long *areas,
                   const double *coefficients, double contrast, double edge, double near, double *offsets,
                   double *strengths)
{
    for (long n = 0; n < count; n++) {
        double quartics[3][TERMS] = {{0}}, none[TERMS], first[TERMS], second[TERMS], *offset = offsets + 3 * n;
        for (int k = 0; k < 3; k++) {
            const float *middle = flat + spots[n] + (k - 1) * areas[n];
            for (int g = 0; g < GRID; g++) {
                const double v = middle[(g / 5 - 2) * rows[n] + g % 5 - 2], *c = coefficients + g * TERMS;
                for (int t = 0; t < TERMS; t++)
                    quartics[k][t] += c[t] * v;
            }
        }
        for (int t = 0; t < TERMS; t++) {
            none[t] = quartics[1][t], first[t] = 0.5 * (quartics[2][t] - quartics[0][t]);
            second[t] = quartics[2][t] + quartics[0][t] - 2.0 * quartics[1][t];
        }
        Shape shape;
        int inside = 1;
        for (int round = 0; round < POLISHING; round++) {
            double step[3];
            derivatives(none, first, second, offset, &shape);
            newton(&shape, step);
            for (int i = 0; i < 3; i++)
                offset[i] = clipped(offset[i] + clipped(step[i], 0.3), 0.8);
        }
        derivatives(none, first, second, offset, &shape);
        for (int i = 0; i < 3; i++)
            inside &= fabs(offset[i]) < near;
        const double strength = fabs(shape.value);
        strengths[n] = inside && strength > contrast && is_round(&shape, edge) ? strength : 0.0;
    }
}
